"""What a container changed, as ``docker diff`` lists it.

Owns   Docker's rules: which entries count, of what kind, and when a parent directory is named.
Runs   in a zygote child; blocking.
Spec   Engine API ContainerChanges; the rules are those of dockerd where it compares two trees. Its
       order is a map's there, ours that of the names.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pallet.errors import SyscallError
from pallet.layer import whiteout
from pallet.linux import safepath

if TYPE_CHECKING:
    from collections.abc import Iterator

MODIFIED, ADDED, DELETED = 0, 1, 2

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})


class Change(NamedTuple):
    """One line of the list."""

    kind: int
    path: bytes


def lookup(root_fd: int, path: bytes) -> os.stat_result | None:
    """``lstat`` of ``path`` in a tree without following any symlink; None when there is nothing."""
    try:
        fd = safepath.open_in_root(root_fd, os.fsdecode(path) or ".", _LOOK, symlinks=False)
    except SyscallError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def is_directory(root_fd: int, path: bytes) -> bool:
    """Whether a tree has a directory at ``path``."""
    status = lookup(root_fd, path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def of_upper(upper_fd: int, base_fd: int) -> list[Change]:
    """List what the upper directory changes in the tree below it.

    In the order of names, each directory before what is in it. A directory is modified when its mode
    or owner differ or when something in it has changed; its own time does not count. A file that
    was only brought up has not changed.
    """
    return _Lister(base_fd).run(upper_fd)


def differs(new: os.stat_result, old: os.stat_result) -> bool:
    """Whether an entry was modified, as Docker compares: a directory's size and time do not count."""
    if (new.st_mode, new.st_uid, new.st_gid, new.st_rdev) != (
            old.st_mode, old.st_uid, old.st_gid, old.st_rdev):
        return True
    return not stat.S_ISDIR(new.st_mode) and (
        new.st_mtime_ns, new.st_size) != (old.st_mtime_ns, old.st_size)


@dataclass(slots=True)
class _Directory:
    """A directory of the upper one that is being walked."""

    path: bytes
    fd: int
    names: Iterator[bytes]
    new: bool
    """The tree below has no such directory: all that is in it is added."""
    told: bool


class _Lister:
    def __init__(self, base_fd: int) -> None:
        self._base_fd = base_fd
        self._changes: list[Change] = []
        self._stack: list[_Directory] = []

    def run(self, upper_fd: int) -> list[Change]:
        self._push(b"", os.dup(upper_fd), new=False, told=True)
        try:
            while self._stack:
                top = self._stack[-1]
                name = next(top.names, None)
                if name is None:
                    os.close(self._stack.pop().fd)
                else:
                    self._look(top, name)
        finally:
            for directory in self._stack:
                os.close(directory.fd)
        return self._changes

    def _push(self, path: bytes, fd: int, *, new: bool, told: bool) -> None:
        names = set(map(os.fsencode, os.listdir(fd)))
        if not new and whiteout.is_opaque(fd):
            # It took the place of a removed one: what that one had besides is gone.
            names |= _names_in(self._base_fd, path)
        self._stack.append(_Directory(path, fd, iter(sorted(names)), new, told))

    def _look(self, parent: _Directory, name: bytes) -> None:
        path = parent.path + b"/" + name if parent.path else name
        before = None if parent.new else lookup(self._base_fd, path)
        try:
            status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        except FileNotFoundError:
            status = None
        if status is None or _is_whiteout(name, parent.fd, status):
            if before is not None:
                self._tell(DELETED, path)
            return
        told = before is None or differs(status, before)
        if told:
            self._tell(ADDED if before is None else MODIFIED, path)
        if not stat.S_ISDIR(status.st_mode):
            return
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent.fd)
        except OSError as error:
            if error.errno in _GONE:
                return
            raise
        self._push(path, fd, told=told, new=before is None or not stat.S_ISDIR(before.st_mode))

    def _tell(self, kind: int, path: bytes) -> None:
        for directory in self._stack:
            if not directory.told:
                directory.told = True
                self._changes.append(Change(MODIFIED, directory.path))
        self._changes.append(Change(kind, path))


def _names_in(root_fd: int, path: bytes) -> set[bytes]:
    try:
        fd = safepath.open_in_root(root_fd, os.fsdecode(path) or ".", _DIRECTORY, symlinks=False)
    except SyscallError as error:
        if error.errno in _GONE:
            return set()
        raise
    try:
        return set(map(os.fsencode, os.listdir(fd)))
    finally:
        os.close(fd)


def _is_whiteout(name: bytes, parent_fd: int, status: os.stat_result) -> bool:
    if whiteout.is_whiteout(status):
        return True
    if status.st_size or not stat.S_ISREG(status.st_mode):
        return False
    found = os.listxattr(b"/proc/self/fd/%d/%b" % (parent_fd, name), follow_symlinks=False)
    return any(f"{prefix}whiteout" in found for prefix in (whiteout.TRUSTED, whiteout.USER))
