"""The user's terminal: raw mode, size. Needs a tty on the descriptor."""

from __future__ import annotations

import os
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6


class RawMode:
    """Raw mode on ``fd`` for as long as the ``with`` block runs; restored however it ends."""

    def __init__(self, fd: int) -> None:
        """Nothing happens to the terminal yet."""
        self._fd = fd
        self._saved: list[Any] = []

    def __enter__(self) -> RawMode:
        """Save the settings and switch to raw input; output processing is off too."""
        self._saved = termios.tcgetattr(self._fd)
        raw = termios.tcgetattr(self._fd)
        raw[_IFLAG] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
                         | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
        raw[_OFLAG] &= ~termios.OPOST
        raw[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG
                         | termios.IEXTEN)
        raw[_CFLAG] = raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[_CC][termios.VMIN] = 1
        raw[_CC][termios.VTIME] = 0
        termios.tcsetattr(self._fd, termios.TCSANOW, raw)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore what was saved."""
        termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)


def size(fd: int = 1) -> tuple[int, int]:
    """Return height and width in characters; ``(0, 0)`` where there is no terminal."""
    try:
        found = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return found.lines, found.columns
