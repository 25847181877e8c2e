"""Unpack a tar into a directory that is in use: ``docker cp`` into a container.

Owns   what happens to files that are there already.
Runs   in a zygote child; blocking.
Spec   Engine API PutContainerArchive; the rules are those of dockerd's ``archive.Unpack``.

Every name is resolved with openat2(2) inside the root, anew for each entry: whatever links the archive
or a running container puts in the way, nothing outside of the root is reached.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pallet.errors import InvalidParameterError, SyscallError
from pallet.layer import tarheader
from pallet.layer.model import ArchiveError, BreakoutError
from pallet.layer.remove import remove_tree
from pallet.layer.source import ByteStream, Source, chunks
from pallet.linux import safepath

if TYPE_CHECKING:
    from pallet.layer.tarheader import Entry

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {tarheader.CHAR: stat.S_IFCHR, tarheader.BLOCKDEV: stat.S_IFBLK,
          tarheader.FIFO: stat.S_IFIFO}
_NO_LIMIT = 1 << 62


class Owner(NamedTuple):
    """Who gets everything, whatever the archive says."""

    uid: int
    gid: int


def extract(source_fd: int, root_fd: int, directory: str, *, keep_kinds: bool = False,
            owner: Owner | None = None) -> int:
    """Unpack the archive read from ``source_fd`` into ``directory`` of the tree ``root_fd``.

    Args:
        keep_kinds: refuse to replace a directory by something else or the other way round.

    Returns the number of entries.

    Raises:
        ArchiveError: malformed, damaged or truncated.
        BreakoutError: an entry leaves ``directory``.
        InvalidParameterError: ``keep_kinds`` refuses.
        OSError: it cannot be written.
    """
    stream = ByteStream(chunks(Source(source_fd), "auto"), _NO_LIMIT, hashed=False)
    before = os.umask(0)
    try:
        extractor = _Extractor(stream, root_fd, directory, keep_kinds=keep_kinds, owner=owner)
        try:
            return extractor.run()
        finally:
            extractor.close()
    finally:
        os.umask(before)


class _Extractor:
    def __init__(self, stream: ByteStream, root_fd: int, directory: str, *, keep_kinds: bool,
                 owner: Owner | None) -> None:
        self._stream = stream
        self._root_fd = root_fd
        self._directory = directory
        self._keep_kinds = keep_kinds
        self._owner = owner
        self._parent = b""
        self._parent_fd = -1
        self._times: list[tuple[bytes, int]] = []

    def run(self) -> int:
        reader = tarheader.TarReader(self._stream)
        entries = 0
        while (entry := reader.next()) is not None:
            entries += 1
            name = posixpath.normpath(entry.name.lstrip(b"/") or b".")
            if name == b".." or name.startswith(b"../"):
                message = f"{_show(entry.name)!r} is outside of {self._directory!r}"
                raise BreakoutError(message)
            if name != b".":
                self._entry(name, entry)
        for name, mtime_ns in reversed(self._times):
            parent_fd, base = self._locate(name)
            os.utime(base, ns=(mtime_ns, mtime_ns), dir_fd=parent_fd, follow_symlinks=False)
        return entries

    def close(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)

    def _open_parent(self, parent: bytes) -> int:
        path = posixpath.join(self._directory, os.fsdecode(parent))
        try:
            return safepath.make_directories(self._root_fd, path)
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
            # A link to nothing names what is to be made.
            return safepath.make_directories(self._root_fd, safepath.resolve_in_root(self._root_fd, path))

    def _locate(self, name: bytes) -> tuple[int, bytes]:
        parent, _, base = name.rpartition(b"/")
        if self._parent_fd < 0 or parent != self._parent:
            fd = self._open_parent(parent)
            self.close()
            self._parent, self._parent_fd = parent, fd
        return self._parent_fd, base

    def _entry(self, name: bytes, entry: Entry) -> None:
        parent_fd, base = self._locate(name)
        is_directory = entry.type == tarheader.DIRECTORY
        try:
            there = os.stat(base, dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            there = None
        if there is not None:
            was_directory = stat.S_ISDIR(there.st_mode)
            if self._keep_kinds and was_directory != is_directory:
                self._refuse(name, was_directory=was_directory)
            if not (was_directory and is_directory):
                remove_tree(base, dir_fd=parent_fd)
                there = None
        if is_directory:
            if there is None:
                os.mkdir(base, 0o700, dir_fd=parent_fd)
            self._times.append((name, entry.mtime_ns))
            self._dress(base, parent_fd, entry)
        elif entry.type == tarheader.REGULAR:
            self._file(base, parent_fd, entry)
        elif entry.type == tarheader.HARDLINK:
            self._link(base, parent_fd, entry)
        else:
            self._special(base, parent_fd, entry)

    def _refuse(self, name: bytes, *, was_directory: bool) -> None:
        path = posixpath.join(self._directory, os.fsdecode(name))
        ours, theirs = ("directory", "non-directory") if was_directory else ("non-directory", "directory")
        message = f'cannot overwrite {ours} "{path}" with {theirs} "{self._directory}"'
        raise InvalidParameterError(message)

    def _file(self, base: bytes, parent_fd: int, entry: Entry) -> None:
        fd = os.open(base, _CREATE, 0o600, dir_fd=parent_fd)
        try:
            if entry.sparse is not None:
                for offset, length in entry.sparse:
                    os.lseek(fd, offset, os.SEEK_SET)
                    self._stream.copy_to(fd, length)
                os.ftruncate(fd, entry.real_size)
            elif entry.size:
                self._stream.copy_to(fd, entry.size)
            os.fchown(fd, *self._owner_of(entry))
            os.fchmod(fd, entry.mode)
            for key, value in (entry.xattrs or {}).items():
                with suppress(OSError):  # what this file system cannot hold is left out
                    os.setxattr(fd, key, value)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _link(self, base: bytes, parent_fd: int, entry: Entry) -> None:
        target = posixpath.normpath(entry.link.lstrip(b"/"))
        if target == b".." or target.startswith(b"../"):
            message = f"invalid hardlink {_show(base)!r} -> {_show(entry.link)!r}"
            raise BreakoutError(message)
        parent, _, target_base = target.rpartition(b"/")
        fd = self._open_parent(parent)
        try:
            os.link(target_base, base, src_dir_fd=fd, dst_dir_fd=parent_fd, follow_symlinks=False)
        finally:
            os.close(fd)

    def _special(self, base: bytes, parent_fd: int, entry: Entry) -> None:
        if entry.type == tarheader.SYMLINK:
            os.symlink(entry.link, base, dir_fd=parent_fd)
        elif entry.type in _KINDS:
            os.mknod(base, _KINDS[entry.type] | 0o600, os.makedev(*entry.rdev), dir_fd=parent_fd)
        else:
            message = f"unhandled tar header type {entry.type[0]}"
            raise ArchiveError(message)
        self._dress(base, parent_fd, entry)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)

    def _dress(self, base: bytes, parent_fd: int, entry: Entry) -> None:
        os.chown(base, *self._owner_of(entry), dir_fd=parent_fd, follow_symlinks=False)
        if entry.type != tarheader.SYMLINK:
            # The name was made or checked just now; a link put in its place must not be followed.
            fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
            try:
                if not stat.S_ISLNK(os.fstat(fd).st_mode):
                    os.chmod(f"/proc/self/fd/{fd}", entry.mode)
            finally:
                os.close(fd)

    def _owner_of(self, entry: Entry) -> tuple[int, int]:
        return self._owner or (entry.uid, entry.gid)


def _show(name: bytes) -> str:
    return name.decode(errors="replace")
