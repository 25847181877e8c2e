"""Signals of the CLI process, delivered as bytes on a pipe so that one poll loop sees everything.

Owns   the handlers. ``_signal`` is used because ``signal`` builds enums at import (5 ms).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SIGWINCH = int(_signal.SIGWINCH)
_NEVER = frozenset((
    _signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD, _signal.SIGPIPE, _signal.SIGURG))
_NAMED = (
    "ABRT", "ALRM", "BUS", "CHLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "KILL", "PIPE",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ")


def forwarded() -> list[int]:
    """Return the signals that ``--sig-proxy`` passes on."""
    low = [number for number in range(1, 32) if number not in _NEVER]
    return low + list(range(int(_signal.SIGRTMIN), int(_signal.SIGRTMAX) + 1))


def name(number: int) -> str:
    """Return the word the Engine API takes for a signal, for example ``TERM`` or ``RTMIN+3``."""
    for word in _NAMED:
        if getattr(_signal, f"SIG{word}", None) == number:
            return word
    if number == _signal.SIGRTMIN:
        return "RTMIN"
    return f"RTMIN+{number - int(_signal.SIGRTMIN)}"


class SignalPipe:
    """Handlers for chosen signals that write the number to a pipe; ``fd`` is its read end."""

    def __init__(self, numbers: Iterable[int]) -> None:
        """Install the handlers; ``close`` puts the old ones back."""
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._previous_fd = _signal.set_wakeup_fd(self._write_fd)
        self._previous = {}
        for number in numbers:
            try:
                self._previous[number] = _signal.signal(number, _ignore)
            except (OSError, ValueError):
                continue  # a real-time signal that libc keeps for itself

    def take(self) -> list[int]:
        """Return the signals that came since the last call."""
        try:
            return list(os.read(self.fd, 512))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Restore the handlers and close the pipe."""
        for number, handler in self._previous.items():
            _signal.signal(number, _signal.SIG_DFL if handler is None else handler)
        self._previous = {}
        _signal.set_wakeup_fd(self._previous_fd)
        os.close(self.fd)
        os.close(self._write_fd)


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing: the interpreter has written the number to the wake-up pipe."""


def terminate_by(number: int) -> None:
    """End this process the way ``number`` would have, with its default action."""
    _signal.signal(number, _signal.SIG_DFL)
    os.kill(os.getpid(), number)
