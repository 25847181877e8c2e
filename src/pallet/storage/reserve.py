"""Room that is kept for the moment when a disk is full: what frees space has to be recorded, too.

Owns   one file of allocated blocks beside what it is kept for.
Runs   anywhere; blocking, microseconds.
"""

from __future__ import annotations

import os
from contextlib import suppress

_BYTES = 1 << 20
_LOW_BYTES = 256 << 10
_WORTH = 64
"""It is made while so many times its size are free: it must not be what fills the disk."""


class Reserve:
    """One file at ``path``."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._taken = os.path.exists(path)

    def make(self) -> None:
        """Take the room, if it is not taken and there is plenty."""
        if os.path.exists(self._path):
            return
        with suppress(OSError):
            disk = os.statvfs(os.path.dirname(self._path))
            if disk.f_bavail * disk.f_frsize < _BYTES * _WORTH:
                return
            fd = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _BYTES)
            finally:
                os.close(fd)
            self._taken = True

    def ease(self) -> None:
        """Let it go if hardly anything is free: for those who could not try again afterwards. A system call."""
        if not self._taken:
            return
        with suppress(OSError):
            disk = os.statvfs(self._path)
            if disk.f_bavail * disk.f_frsize < _LOW_BYTES:
                self.give()

    def give(self) -> bool:
        """Let it go; whether there was any."""
        self._taken = False
        try:
            os.unlink(self._path)
        except OSError:
            return False
        return True
