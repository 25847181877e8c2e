"""Two whole trees compared: what a snapshotter without upper directories has to go by.

Owns   what counts as changed between an image's tree and a container's copy of it.
Runs   in a zygote child; blocking. Changes the working directory.
Spec   image-spec layer.md#creating-a-change-set; Engine API ContainerChanges.

An entry has changed when its kind, mode, owner, device, link count, extended attributes or, but for
directories, size or time differ. A directory that only holds changes is listed as modified.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.layer import tarheader, whiteout
from pallet.layer.changes import ADDED, DELETED, MODIFIED, Change, differs
from pallet.layer.diff import TarSink, Written, read_xattrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE_BYTES = 1 << 18


@dataclass(slots=True)
class _Directory:
    """A directory that both or only the new tree have; ``old_fd`` is -1 in the latter case."""

    path: bytes
    new_fd: int
    old_fd: int
    names: Iterator[bytes] = field(default_factory=lambda: iter(()))
    told: bool = False

    def close(self) -> None:
        os.close(self.new_fd)
        if self.old_fd >= 0:
            os.close(self.old_fd)


def changes(new_fd: int, old_fd: int, *, stubs: frozenset[bytes] = frozenset()) -> list[Change]:
    """List the differences in the order of names, each directory before what is in it.

    Args:
        stubs: paths that count as the old tree's where it lacks them.
    """
    found: list[Change] = []

    def tell(kind: int, path: bytes, _name: bytes, _status: os.stat_result | None) -> None:
        found.append(Change(kind, path))

    _Comparison(tell, stubs).run(new_fd, old_fd)
    return found


def write_difference(new_fd: int, old_fd: int, out_fd: int, *, epoch_s: int | None = None,
                     stubs: frozenset[bytes] = frozenset(), contents: bool = False) -> Written:
    """Write the differences as a layer's tar; see ``diff.write_layer``.

    Args:
        contents: neither tree is a copy of the other: files that look the same are read.
    """
    sink = TarSink(out_fd, epoch_s)
    skipped = 0

    def tell(kind: int, path: bytes, name: bytes, status: os.stat_result | None) -> None:
        nonlocal skipped
        if kind == DELETED:
            parent, slash, base = path.rpartition(b"/")
            sink.marker(parent + slash + whiteout.PREFIX + base)
            return
        if status is None or stat.S_ISSOCK(status.st_mode) or whiteout.is_whiteout(status):
            return
        if name.startswith(whiteout.PREFIX):
            skipped += 1
        elif stat.S_ISDIR(status.st_mode):
            sink.entry(tarheader.DIRECTORY, path + b"/", status, xattrs=_xattrs(name))
        else:
            sink.node(name, path, status, _xattrs(name))

    _Comparison(tell, stubs, contents=contents).run(new_fd, old_fd)
    sink.finish()
    return Written(sink.entries, skipped)


class _Comparison:
    """One walk over both trees. The working directory is the one of the entry that is told of."""

    def __init__(self, tell: Callable[[int, bytes, bytes, os.stat_result | None], None],
                 stubs: frozenset[bytes], *, contents: bool = False) -> None:
        self._tell = tell
        self._contents = contents
        self._stubs = stubs
        self._stack: list[_Directory] = []

    def run(self, new_fd: int, old_fd: int) -> None:
        self._push(_Directory(b"", os.dup(new_fd), os.dup(old_fd), told=True))
        try:
            while self._stack:
                top = self._stack[-1]
                name = next(top.names, None)
                if name is None:
                    self._stack.pop().close()
                    if self._stack:
                        os.fchdir(self._stack[-1].new_fd)
                else:
                    self._compare(top, name)
        finally:
            for directory in self._stack:
                directory.close()

    def _push(self, directory: _Directory) -> None:
        names = set(map(os.fsencode, os.listdir(directory.new_fd)))
        if directory.old_fd >= 0:
            names |= set(map(os.fsencode, os.listdir(directory.old_fd)))
        directory.names = iter(sorted(names))
        self._stack.append(directory)
        os.fchdir(directory.new_fd)

    def _compare(self, parent: _Directory, name: bytes) -> None:
        path = parent.path + b"/" + name if parent.path else name
        new, old = _look(name, parent.new_fd), _look(name, parent.old_fd)
        if new is None:
            if old is not None:
                self._report(DELETED, path, name, None)
            return
        told = True
        if old is None and path not in self._stubs:
            self._report(ADDED, path, name, new)
        elif old is not None and (_differs(new, old) or _xattrs(name) != _xattrs_at(name, parent.old_fd) or (
                self._contents and not _holds_same(name, parent, new))):
            self._report(MODIFIED, path, name, new)
        else:
            told = False
        if stat.S_ISDIR(new.st_mode):
            both = old is not None and stat.S_ISDIR(old.st_mode)
            new_fd = os.open(name, _DIRECTORY, dir_fd=parent.new_fd)
            old_fd = os.open(name, _DIRECTORY, dir_fd=parent.old_fd) if both else -1
            self._push(_Directory(path, new_fd, old_fd, told=told))

    def _report(self, kind: int, path: bytes, name: bytes, status: os.stat_result | None) -> None:
        self._tell_parents()
        self._tell(kind, path, name, status)

    def _tell_parents(self) -> None:
        """Tell of the directories above that have not been told of."""
        for above, directory in zip(self._stack, self._stack[1:], strict=False):
            if not directory.told:
                directory.told = True
                os.fchdir(above.new_fd)
                name = directory.path.rpartition(b"/")[2]
                self._tell(MODIFIED, directory.path, name, os.fstat(directory.new_fd))
        os.fchdir(self._stack[-1].new_fd)


def _look(name: bytes, dir_fd: int) -> os.stat_result | None:
    if dir_fd < 0:
        return None
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _differs(new: os.stat_result, old: os.stat_result) -> bool:
    return differs(new, old) or (not stat.S_ISDIR(new.st_mode) and new.st_nlink != old.st_nlink)


def _holds_same(name: bytes, parent: _Directory, status: os.stat_result) -> bool:
    """Whether two entries that look the same also hold the same."""
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(name, dir_fd=parent.new_fd) == os.readlink(name, dir_fd=parent.old_fd)
    if not stat.S_ISREG(status.st_mode):
        return True
    fds = [os.open(name, _FILE, dir_fd=dir_fd) for dir_fd in (parent.new_fd, parent.old_fd)]
    try:
        while True:
            one, other = (os.read(fd, _PIECE_BYTES) for fd in fds)
            if one != other or not one:
                return one == other
    finally:
        for fd in fds:
            os.close(fd)


def _xattrs(name: bytes) -> dict[bytes, bytes] | None:
    return read_xattrs(name, os.listxattr(name, follow_symlinks=False))


def _xattrs_at(name: bytes, dir_fd: int) -> dict[bytes, bytes] | None:
    return _xattrs(b"/proc/self/fd/%d/%b" % (dir_fd, name))
