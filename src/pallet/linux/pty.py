"""Pseudo terminals: a pair from a devpts instance, its size, and the controlling terminal.

Owns   the ioctls.
Runs   in a container's init (the pair) and in its shim (the size).
Needs  Linux 4.13 for TIOCGPTPEER.
Spec   ioctl_tty(2), pty(7).
"""

from __future__ import annotations

import array
import fcntl
import os
import struct
import termios

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441


def open_pair(ptmx: str) -> tuple[int, int]:
    """Open the multiplexer ``ptmx``; return master and terminal, both close-on-exec.

    The terminal is opened through its master, so no path in the container is looked up.
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    master_fd = os.open(ptmx, flags)
    try:
        fcntl.ioctl(master_fd, _TIOCSPTLCK, array.array("i", [0]))
        return master_fd, fcntl.ioctl(master_fd, _TIOCGPTPEER, flags)
    except BaseException:
        os.close(master_fd)
        raise


def set_size(fd: int, height: int, width: int) -> None:
    """Set the size in characters; the foreground process group gets SIGWINCH if it changed."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def make_controlling(fd: int) -> None:
    """Make ``fd`` the controlling terminal of the calling session leader."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
