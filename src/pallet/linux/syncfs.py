"""syncfs(2): write one file system's dirty data to its disk.

Runs   in the daemon's sync thread: ctypes releases the interpreter lock while it waits.
Spec   syncfs(2).
"""

from __future__ import annotations

import ctypes

from pallet.linux._libc import bind, call

_syncfs = bind("syncfs", ctypes.c_int)


def syncfs(fd: int) -> None:
    """Sync the file system that ``fd`` is on.

    Raises:
        SyscallError: EIO, ENOSPC or EDQUOT: something written earlier was lost.
    """
    call(_syncfs, "syncfs", fd)
