"""Mount syscalls: mount(2), umount2(2), pivot_root(2), and the descriptor-based calls of Linux 5.12.

Owns   the ctypes boundary for mounts. Knows nothing of containers, images or bundles.
Runs   in the zygote's children. Never in the daemon: its threads share one mount namespace.
Needs  CAP_SYS_ADMIN in the user namespace that owns the mount namespace.
Spec   runtime-spec config.md#mounts; mount(2), open_tree(2), move_mount(2), mount_setattr(2).
"""

from __future__ import annotations

import ctypes
import enum
import os

from pallet.linux._libc import bind, bind_syscall, call

# include/uapi/linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_POSIXACL = 1 << 16
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_DETACH = 2

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
_AT_SYMLINK_NOFOLLOW = 0x100
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40

# The same numbers on every architecture (arch/*/entry/syscalls, unified since Linux 5.0).
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_MOUNT_SETATTR = 442


class Attr(enum.IntFlag):
    """MOUNT_ATTR_*: properties of one mount, not of its file system."""

    RDONLY = 0x01
    NOSUID = 0x02
    NODEV = 0x04
    NOEXEC = 0x08
    ATIME_MASK = 0x70
    RELATIME = 0x00
    NOATIME = 0x10
    STRICTATIME = 0x20
    NODIRATIME = 0x80
    NOSYMFOLLOW = 0x200000


class _MountAttr(ctypes.Structure):
    _fields_ = (("attr_set", ctypes.c_uint64), ("attr_clr", ctypes.c_uint64),
                ("propagation", ctypes.c_uint64), ("userns_fd", ctypes.c_uint64))


_PTR = ctypes.c_char_p
_mount = bind("mount", _PTR, _PTR, _PTR, ctypes.c_ulong, _PTR)
_umount2 = bind("umount2", _PTR, ctypes.c_int)
_pivot_root = bind_syscall({"x86_64": 155}.get(os.uname().machine, 41), _PTR, _PTR)
_open_tree = bind_syscall(_NR_OPEN_TREE, ctypes.c_int, _PTR, ctypes.c_uint)
_move_mount = bind_syscall(
    _NR_MOVE_MOUNT, ctypes.c_int, _PTR, ctypes.c_int, _PTR, ctypes.c_uint)
_mount_setattr = bind_syscall(
    _NR_MOUNT_SETATTR, ctypes.c_int, _PTR, ctypes.c_uint, ctypes.POINTER(_MountAttr),
    ctypes.c_size_t)


def mount(
    source: str | None, target: str, fstype: str | None = None, *, flags: int = 0,
    data: str | None = None,
) -> None:
    """Mount ``source`` on ``target`` as mount(2) does.

    Raises:
        SyscallError: with ``target`` as its path.
    """
    call(_mount, "mount", _encode(source), os.fsencode(target), _encode(fstype), flags,
         _encode(data), path=target)


def unmount(target: str, flags: int = 0) -> None:
    """Call umount2(2); ``MNT_DETACH`` takes the tree away at once, whoever still uses it."""
    call(_umount2, "umount2", os.fsencode(target), flags, path=target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make ``new_root`` the root of the mount namespace; "." twice stacks the old one on it."""
    call(_pivot_root, "pivot_root", os.fsencode(new_root), os.fsencode(put_old), path=new_root)


def clone_tree(path: str, *, dir_fd: int = AT_FDCWD, recursive: bool, follow: bool = True) -> int:
    """Return a descriptor (O_PATH, close-on-exec) of a detached copy of the mount at ``path``.

    The copy vanishes with the descriptor unless ``attach_tree`` put it somewhere.

    Args:
        path: relative to ``dir_fd``; "" names ``dir_fd`` itself.
        recursive: with everything mounted below.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= AT_EMPTY_PATH
    if not follow:
        flags |= _AT_SYMLINK_NOFOLLOW
    return call(_open_tree, "open_tree", dir_fd, os.fsencode(path), flags, path=path or None)


def attach_tree(tree_fd: int, target_fd: int, name: str = "") -> None:
    """Mount the detached tree ``tree_fd`` on the object behind ``target_fd``.

    Args:
        name: entry of the directory ``target_fd`` to mount on instead; links are not followed.
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | (0 if name else _MOVE_MOUNT_T_EMPTY_PATH)
    call(_move_mount, "move_mount", tree_fd, b"", target_fd, os.fsencode(name), flags)


def set_attributes(
    target: str, *, dir_fd: int = AT_FDCWD, attr_set: int = 0, attr_clear: int = 0,
    propagation: int = 0, recursive: bool = False,
) -> None:
    """Change the mount at ``target``, and with ``recursive`` every mount below it.

    Args:
        target: path of a mount point; "" names ``dir_fd`` itself.
        propagation: one of MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, or 0 to leave it.

    Raises:
        SyscallError: ENOSYS before Linux 5.12; EINVAL when ``target`` is not a mount point.

    Spec:
        runtime-spec config.md#linux-mount-options (``rro``). MS_REMOUNT changes the top only.
    """
    flags = (AT_RECURSIVE if recursive else 0) | (0 if target else AT_EMPTY_PATH)
    attr = _MountAttr(attr_set=attr_set, attr_clr=attr_clear, propagation=propagation)
    call(_mount_setattr, "mount_setattr", dir_fd, os.fsencode(target), flags, ctypes.byref(attr),
         ctypes.sizeof(attr), path=target or None)


def _encode(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)
