"""Look things up in the layers below, as overlay would, without mounting anything.

Owns   copy-up of a hard link's target and the owner and mode of implied directories.
Runs   in zygote children and, for ``directory_facts``, in the daemon's workers. Every component is
       opened without following symlinks: the trees are other people's.
Spec   Linux Documentation/filesystems/overlayfs.rst "Upper and Lower".
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pallet.layer import whiteout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STOP, _NEXT = "stop", "next"


class CopiedUp(NamedTuple):
    """A file that was brought up; for a symlink only its target, the caller makes it."""

    size_bytes: int
    symlink: bytes | None


class DirectoryAttributes(NamedTuple):
    """What an implied directory takes from below."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[str, bytes]


class FoundFile(NamedTuple):
    """A regular file or symlink of a lower layer."""

    status: os.stat_result
    symlink: bytes | None
    xattrs: dict[str, bytes]
    fd: int
    """Open for reading, -1 for a symlink; the caller closes it."""


def find_file(lower_fds: Sequence[int], path: bytes) -> FoundFile | None:
    """Open the file ``path`` of the topmost layer that has it; None when no layer shows one."""
    found = _find(lower_fds, path)
    if found is None:
        return None
    parent_fd, base = found
    try:
        status = os.stat(base, dir_fd=parent_fd, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return FoundFile(status, os.readlink(base, dir_fd=parent_fd), {}, -1)
        if not stat.S_ISREG(status.st_mode):
            return None
        fd = os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        return FoundFile(status, None, _xattrs(fd), fd)
    finally:
        os.close(parent_fd)


def copy_up(lower_fds: Sequence[int], path: bytes, root_fd: int) -> CopiedUp | None:
    """Copy the regular file ``path`` of the topmost layer that has it into ``root_fd``.

    Returns None when no layer shows such a file.
    """
    found = find_file(lower_fds, path)
    if found is None or found.symlink is not None:
        return found and CopiedUp(0, found.symlink)
    with os.fdopen(found.fd, "rb") as reader:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600,
                         dir_fd=root_fd)
        with os.fdopen(target, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            _copy_attributes(found, target)
    return CopiedUp(found.status.st_size, None)


def _copy_attributes(found: FoundFile, target: int) -> None:
    status = found.status
    if os.geteuid() == 0:
        os.fchown(target, status.st_uid, status.st_gid)
    for name, value in found.xattrs.items():
        with suppress(OSError):
            os.setxattr(target, name, value)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))


def directory_attributes(lower_fds: Sequence[int], path: bytes) -> DirectoryAttributes | None:
    """Attributes of the directory ``path`` as the layers show it; None when they have none."""
    for fd, base in _candidates(lower_fds, path):
        try:
            directory = os.open(base, _DIRECTORY, dir_fd=fd)
        except OSError:
            return None
        try:
            status = os.fstat(directory)
            return DirectoryAttributes(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
                                       status.st_mtime_ns, _xattrs(directory))
        finally:
            os.close(directory)
    return None


def _xattrs(fd: int) -> dict[str, bytes]:
    return {name: os.getxattr(fd, name) for name in os.listxattr(fd)
            if not name.startswith((whiteout.TRUSTED, whiteout.USER))}


def _find(lower_fds: Sequence[int], path: bytes) -> tuple[int, bytes] | None:
    for fd, base in _candidates(lower_fds, path):
        return os.dup(fd), base
    return None


def _candidates(lower_fds: Sequence[int], path: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield ``(directory fd, last component)`` of each layer that shows ``path``, topmost first.

    The descriptor is good until the next step.
    """
    *parents, base = path.split(b"/") if path else [b"."]
    for lower_fd in lower_fds:
        fd = os.dup(lower_fd)
        try:
            verdict, hides, fd = _descend(fd, parents)
            if verdict is _STOP:
                return
            if verdict is _NEXT:
                if hides:
                    return
                continue
            try:
                status = os.stat(base, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                if hides:
                    return
                continue
            if whiteout.is_whiteout(status):
                return
            yield fd, base
            if hides or not stat.S_ISDIR(status.st_mode):
                return
        finally:
            os.close(fd)


def _descend(fd: int, parents: Sequence[bytes]) -> tuple[str, bool, int]:
    """Walk down one layer; return the verdict, whether it hides the layers below, the last fd."""
    hides = False
    for part in parents:
        try:
            status = os.stat(part, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return _NEXT, hides, fd
        if not stat.S_ISDIR(status.st_mode):
            return _STOP, True, fd
        below = os.open(part, _DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
        hides = hides or whiteout.is_opaque(fd)
    return "here", hides, fd


def set_directory_attributes(root_fd: int, path: bytes, attributes: DirectoryAttributes) -> None:
    """Give the directory ``path`` below ``root_fd`` what ``directory_attributes`` found.

    Raises:
        OSError: a component is not a directory.
    """
    fd = os.dup(root_fd)
    try:
        for part in path.split(b"/") if path else ():
            below = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        if os.geteuid() == 0:
            os.fchown(fd, attributes.uid, attributes.gid)
        for name, value in attributes.xattrs.items():
            with suppress(OSError):
                os.setxattr(fd, name, value)
        os.fchmod(fd, attributes.mode)
        os.utime(fd, ns=(attributes.mtime_ns, attributes.mtime_ns))
    finally:
        os.close(fd)
