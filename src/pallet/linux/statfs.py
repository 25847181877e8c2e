"""statfs(2): what kind of file system a path lies on.

Runs   anywhere.
Spec   statfs(2); include/uapi/linux/magic.h.
"""

from __future__ import annotations

import ctypes
import os

from pallet.linux._libc import bind, call

_TMPFS_MAGIC = 0x01021994
_RAMFS_MAGIC = 0x858458F6
_STATFS_BYTES = 120

_statfs = bind("statfs", ctypes.c_char_p, ctypes.c_void_p)


def is_tmpfs(path: str) -> bool:
    """Whether ``path`` lies in memory.

    Raises:
        SyscallError: ENOENT.
    """
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    call(_statfs, "statfs", os.fsencode(path), buffer, path=path)
    kind = ctypes.c_long.from_buffer(buffer).value
    return kind in {_TMPFS_MAGIC, _RAMFS_MAGIC}
