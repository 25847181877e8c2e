"""Paths of a container resolved inside its root: openat2(2) with RESOLVE_IN_ROOT.

Owns   the rule that no path of a container is ever resolved from the host's root.
Runs   in the daemon and in the zygote's children.
Needs  Linux 5.6.
Spec   openat2(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import posixpath
import stat

from pallet.errors import SyscallError
from pallet.linux._libc import bind_syscall, call

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_NR_OPENAT2 = 437
_MAX_LINKS = 255


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64),
                ("resolve", ctypes.c_uint64))


_openat2 = bind_syscall(_NR_OPENAT2, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_OpenHow),
                        ctypes.c_size_t)


def open_in_root(
    root_fd: int, path: str, flags: int = os.O_PATH, *, mode: int = 0, symlinks: bool = True
) -> int:
    """Open ``path`` as a process whose root is ``root_fd`` would; magic links are refused.

    Args:
        root_fd: directory that absolute paths, absolute links and ``..`` cannot leave.
        flags: as of open(2); O_CLOEXEC is added.
        symlinks: False refuses every symbolic link on the way with ELOOP.

    Raises:
        SyscallError: ELOOP for a magic link; the errors of open(2).
    """
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | (0 if symlinks else RESOLVE_NO_SYMLINKS)
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    while True:
        try:
            return call(_openat2, "openat2", root_fd, os.fsencode(path), ctypes.byref(how),
                        ctypes.sizeof(how), path=path)
        except SyscallError as error:
            # EAGAIN: a ".." step raced with a rename somewhere on the system.
            if error.errno != errno.EAGAIN:
                raise


def resolve_in_root(root_fd: int, path: str) -> str:
    """Where a path leads inside the root, even to nothing: absolute, without any link.

    Raises:
        SyscallError: ELOOP for more than 255 links.
    """
    pending = [part for part in path.split("/") if part][::-1]
    current, links = "/", 0
    while pending:
        part = pending.pop()
        if part in {".", ".."}:
            current = current if part == "." else posixpath.dirname(current)
            continue
        below = posixpath.join(current, part)
        link = _link(root_fd, below)
        if link is None:
            current = below
            continue
        links += 1
        if links > _MAX_LINKS:
            raise SyscallError("readlink", errno.ELOOP, path)
        current = "/" if link.startswith("/") else current
        pending.extend(item for item in link.split("/")[::-1] if item)
    return current


def _link(root_fd: int, path: str) -> str | None:
    """What the link at ``path`` holds; None for anything else, or nothing."""
    try:
        fd = open_in_root(root_fd, path, os.O_PATH | os.O_NOFOLLOW)
    except SyscallError:
        return None
    try:
        return os.readlink("", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)


def make_directories(root_fd: int, path: str, *, mode: int = 0o755) -> int:
    """Open directory ``path`` inside ``root_fd``; make what is missing. Returns an O_PATH fd.

    Raises:
        SyscallError: ENOTDIR where a component is no directory.
    """
    try:
        return open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    return _make_missing(root_fd, path, mode)


def _make_missing(root_fd: int, path: str, mode: int) -> int:
    current_fd = os.dup(root_fd)
    walked = ""
    for name in path.split("/"):
        if name in {"", "."}:
            continue
        walked += "/" + name
        # From the root each time: ".." and absolute links must see the same root as the kernel.
        try:
            next_fd = open_in_root(root_fd, walked, os.O_PATH | os.O_DIRECTORY)
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                os.close(current_fd)
                raise
            try:
                _mkdir(name, current_fd, mode, walked)
                next_fd = open_in_root(root_fd, walked, os.O_PATH | os.O_DIRECTORY)
            except BaseException:
                os.close(current_fd)
                raise
        os.close(current_fd)
        current_fd = next_fd
    return current_fd


def _mkdir(name: str, dir_fd: int, mode: int, path: str) -> None:
    try:
        os.mkdir(name, mode, dir_fd=dir_fd)
    except FileExistsError as error:
        # A dangling link of that name: Docker, too, does not make its target.
        raise SyscallError("mkdir", errno.ENOENT, path) from error
    except OSError as error:
        raise SyscallError("mkdir", error.errno or errno.EIO, path) from error


def make_file(root_fd: int, path: str, *, mode: int = 0o644) -> int:
    """Open the non-directory ``path`` inside ``root_fd``, or make an empty file. O_PATH fd."""
    try:
        return open_in_root(root_fd, path)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    parent, _, name = path.rstrip("/").rpartition("/")
    parent_fd = make_directories(root_fd, parent or "/")
    try:
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW,
                     mode, dir_fd=parent_fd)
    except OSError as error:
        raise SyscallError("open", error.errno or errno.EIO, path) from error
    finally:
        os.close(parent_fd)
    os.close(fd)
    return open_in_root(root_fd, path)


def is_directory(fd: int) -> bool:
    """True when ``fd`` (O_PATH will do) is a directory."""
    return stat.S_ISDIR(os.fstat(fd).st_mode)
