"""File systems by descriptor: fsopen(2), fsconfig(2), fsmount(2).

Owns   mounts that are attached nowhere: no mount namespace changes, nothing is visible to anyone,
       and the mount goes with its last descriptor.
Runs   anywhere, for that reason also in the daemon.
Needs  CAP_SYS_ADMIN; Linux 5.2.
Spec   include/uapi/linux/mount.h.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from pallet.linux._libc import bind_syscall, call

if TYPE_CHECKING:
    from collections.abc import Iterable

_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CMD_CREATE = 0, 1, 6

_PTR = ctypes.c_char_p
# The same numbers on every architecture, as in ``mount.py``.
_fsopen = bind_syscall(430, _PTR, ctypes.c_uint)
_fsconfig = bind_syscall(431, ctypes.c_int, ctypes.c_uint, _PTR, _PTR, ctypes.c_int)
_fsmount = bind_syscall(432, ctypes.c_int, ctypes.c_uint, ctypes.c_uint)


def detached(fstype: str, options: Iterable[tuple[str, str]], *, flags: Iterable[str] = (),
             attributes: int = 0) -> int:
    """Return a descriptor (close-on-exec) of a new mount; ``/proc/self/fd/N`` names its root.

    Args:
        options: names and values, ``source`` among them.
        flags: options without a value, for example ``ro``.
        attributes: of ``mount.Attr``.

    Raises:
        SyscallError: ENODEV where the kernel has no such file system; what the mount fails with.
    """
    context_fd = call(_fsopen, "fsopen", fstype.encode(), _FSOPEN_CLOEXEC, path=fstype)
    try:
        for name in flags:
            call(_fsconfig, "fsconfig", context_fd, _SET_FLAG, name.encode(), None, 0, path=name)
        for name, value in options:
            call(_fsconfig, "fsconfig", context_fd, _SET_STRING, name.encode(), os.fsencode(value),
                 0, path=value)
        call(_fsconfig, "fsconfig", context_fd, _CMD_CREATE, None, None, 0, path=fstype)
        return call(_fsmount, "fsmount", context_fd, _FSMOUNT_CLOEXEC, attributes, path=fstype)
    finally:
        os.close(context_fd)
