"""Unpack a layer's tar into a directory, in overlay's form.

Owns   the making of files. ``tarheader`` reads the archive, ``tree`` resolves names, ``source``
       decompresses and hashes.
Runs   in a zygote child (``layer/worker.py``); blocking, no threads. Sets the umask for its time.
Needs  for everything a layer can hold: CAP_CHOWN, CAP_MKNOD, CAP_FSETID, CAP_SYS_ADMIN (trusted
       xattrs). Without root, owners stay the caller's.
Spec   image-spec layer.md.

Nothing is synced here: fifty thousand fsyncs would cost more than everything else. Durability is
the snapshotter's business (``storage/overlay.py``).

Measured on two slow cores, ext4: about 30 us a small file, of which 22 in the kernel.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.layer import lower, tarheader, whiteout
from pallet.layer.model import (
    Applied,
    ArchiveError,
    BreakoutError,
    LimitError,
    Limits,
    MissingLinkTargetError,
)
from pallet.layer.source import ByteStream, Source, chunks
from pallet.layer.tree import DirectoryFacts, Tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pallet.layer.tarheader import Entry

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEVICE_MODES = {tarheader.CHAR: stat.S_IFCHR, tarheader.BLOCKDEV: stat.S_IFBLK,
                 tarheader.FIFO: stat.S_IFIFO}
_MAX_TIME_NS = 0x7FFF_FFFF_FFFF_FFFF
_RESERVE_BYTES = 256 * 1024 * 1024
"""Left free on the file system when the caller sets no limit."""
_NO_XATTRS = frozenset({95, 1})
"""EOPNOTSUPP and EPERM: Docker goes on without such an xattr."""


def apply(source_fd: int, target: str | int, *, compression: str = "auto",
          progress_fd: int | None = None, limits: Limits | None = None,
          lower_fds: Sequence[int] = (), overlay_xattrs: str = whiteout.TRUSTED,
          confine: bool = False) -> Applied:
    """Unpack the layer read from ``source_fd`` into the empty directory ``target``.

    Args:
        source_fd: a file (read from offset 0) or a pipe; stays open.
        target: path or descriptor of an empty directory that nobody else uses.
        compression: see ``source.chunks``.
        progress_fd: the file still grows; see ``layer/worker.py``.
        limits: None is the default ``Limits()``.
        lower_fds: directories of the layers below, topmost first, for hard links into them.
        overlay_xattrs: ``whiteout.TRUSTED`` or ``whiteout.USER``.
        confine: chroot into ``target`` (for good: only in a process of one's own). What name
            resolution missed would still stay inside.

    Raises:
        ArchiveError: malformed, damaged or truncated.
        BreakoutError: an entry leaves the layer.
        LimitError: it unpacks to too much.
        MissingLinkTargetError: a hard link needs ``lower_fds``.
        InvalidParameterError: an entry cannot be made.
        OSError: the disk refused.

    On an error the directory holds what was made so far; the caller drops the draft.
    """
    limits = limits or Limits()
    root_fd = (os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
               if isinstance(target, str) else os.dup(target))
    try:
        source = Source(source_fd, progress_fd)
        # This imports what the compression needs: after the chroot there is nothing to import.
        stream = ByteStream(chunks(source, compression), _byte_limit(limits, root_fd))
        if confine:
            _chroot(root_fd)
        applier = _Applier(stream, root_fd, limits, lower_fds, overlay_xattrs)
        with _no_umask():
            applier.run()
        stream.drain()
        return Applied(
            diff_id=stream.diff_id(), size_bytes=applier.size_bytes, stream_bytes=stream.length,
            source_bytes=source.offset, entries=applier.entries,
            implied_dirs=applier.implied_dirs(), opaque_root=b"" in applier.tree.opaque)
    finally:
        os.close(root_fd)


@contextmanager
def _no_umask() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def _chroot(root_fd: int) -> None:
    os.fchdir(root_fd)
    with suppress(PermissionError):
        os.chroot(".")


def _byte_limit(limits: Limits, root_fd: int) -> int:
    if limits.max_bytes is not None:
        return limits.max_bytes
    disk = os.fstatvfs(root_fd)
    return max(disk.f_bavail * disk.f_frsize - _RESERVE_BYTES, 0)


class _Applier:
    """One run over one archive."""

    def __init__(self, stream: ByteStream, root_fd: int, limits: Limits,
                 lower_fds: Sequence[int], overlay_xattrs: str) -> None:
        self.tree = Tree(root_fd)
        self.entries = 0
        self.size_bytes = 0
        self._stream = stream
        self._root_fd = root_fd
        self._limits = limits
        self._lower_fds = lower_fds
        self._opaque_xattr = f"{overlay_xattrs}opaque"
        self._privileged = os.geteuid() == 0
        self._other = {
            tarheader.DIRECTORY: self._directory, tarheader.SYMLINK: self._symlink,
            tarheader.HARDLINK: self._hardlink, tarheader.CHAR: self._device,
            tarheader.BLOCKDEV: self._device, tarheader.FIFO: self._device}

    def run(self) -> None:
        reader = tarheader.TarReader(self._stream)
        tree = self.tree
        most = self._limits.max_entries
        while (entry := reader.next()) is not None:
            self.entries += 1
            if self.entries > most:
                message = f"layer has more than the {most} entries it may have"
                raise LimitError(message)
            if whiteout.META_PREFIX in entry.name and self._is_aufs(entry.name):
                continue
            path = tree.locate(entry.name)
            if path.rpartition(b"/")[2].startswith(whiteout.PREFIX):
                self._whiteout(path)
            elif not path and entry.type != tarheader.DIRECTORY:
                message = "the root of a layer must be a directory"
                raise InvalidParameterError(message)
            elif entry.type == tarheader.REGULAR:
                self._regular(path, entry)
            else:
                make = self._other.get(entry.type)
                if make is None:
                    message = f"unhandled tar header type {entry.type[0]}"
                    raise ArchiveError(message)
                make(path, entry)
        tree.drop_hidden_whiteouts()
        self._finish_directories()

    def implied_dirs(self) -> list[bytes]:
        """Directories without an entry, parents first, unless nothing below can show through."""
        tree = self.tree
        return [path for path, facts in tree.directories.items()
                if facts is None and path not in tree.opaque and not tree.under_opaque(path)]

    def _regular(self, path: bytes, entry: Entry) -> None:
        mode = entry.mode
        try:
            fd = os.open(path, _CREATE, mode, dir_fd=self._root_fd)
        except FileExistsError:
            self.tree.remove(path)
            fd = os.open(path, _CREATE, mode, dir_fd=self._root_fd)
        try:
            if entry.sparse is not None:
                self._write_sparse(fd, entry)
            elif entry.size:
                self._stream.copy_to(fd, entry.size)
            self.size_bytes += entry.real_size
            if self._privileged and (entry.uid or entry.gid):
                os.fchown(fd, entry.uid, entry.gid)
            if mode & 0o7000:  # writing and chown take these bits away
                os.fchmod(fd, mode)
            if entry.xattrs:
                self._set_xattrs(fd, entry.xattrs)
            os.utime(fd, ns=_times(entry.mtime_ns))
        finally:
            os.close(fd)

    def _write_sparse(self, fd: int, entry: Entry) -> None:
        assert entry.sparse is not None
        for offset, length in entry.sparse:
            os.lseek(fd, offset, os.SEEK_SET)
            self._stream.copy_to(fd, length)
        os.ftruncate(fd, entry.real_size)

    def _directory(self, path: bytes, entry: Entry) -> None:
        tree = self.tree
        # The final mode at once where that is harmless: setgid would be inherited by what is made
        # inside, and without root a directory must stay writable until it is full.
        early = entry.mode if self._privileged and not entry.mode & 0o7000 else 0o700
        if path in tree.directories:
            early = -1
        else:
            try:
                tree.make_directory(path, early)
            except FileExistsError:
                hides = path in tree.whiteouts
                tree.remove(path)
                tree.make_directory(path, early)
                if hides:
                    tree.opaque.add(path)
        mode = -1 if early == entry.mode and not (entry.uid or entry.gid) else entry.mode
        tree.directories[path] = DirectoryFacts(mode, entry.uid, entry.gid, entry.mtime_ns,
                                                entry.xattrs)

    def _symlink(self, path: bytes, entry: Entry) -> None:
        if not entry.link:
            message = f"symlink {_show(path)}: no such file or directory"
            raise InvalidParameterError(message)
        try:
            self.tree.make_symlink(path, entry.link)
        except FileExistsError:
            self.tree.remove(path)
            self.tree.make_symlink(path, entry.link)
        self._dress(path, entry)

    def _device(self, path: bytes, entry: Entry) -> None:
        kind = _DEVICE_MODES[entry.type]
        try:
            device = os.makedev(*entry.rdev)
        except (OverflowError, ValueError) as error:
            raise ArchiveError(tarheader.INVALID) from error
        for attempt in (1, 2):
            try:
                os.mknod(path, kind | entry.mode, device, dir_fd=self._root_fd)
                break
            except FileExistsError:
                if attempt == 2:
                    raise
                self.tree.remove(path)
        self._dress(path, entry)

    def _dress(self, path: bytes, entry: Entry) -> None:
        """Owner, xattrs and times of something that must not be opened."""
        if self._privileged and (entry.uid or entry.gid):
            os.chown(path, entry.uid, entry.gid, dir_fd=self._root_fd, follow_symlinks=False)
            if entry.mode & 0o7000 and entry.type != tarheader.SYMLINK:
                os.chmod(path, entry.mode, dir_fd=self._root_fd)
        if entry.xattrs:
            self._set_xattrs_by_path(path, entry.xattrs)
        os.utime(path, ns=_times(entry.mtime_ns), dir_fd=self._root_fd, follow_symlinks=False)

    def _hardlink(self, path: bytes, entry: Entry) -> None:
        tree = self.tree
        try:
            target = tree.find(entry.link)
        except BreakoutError:
            message = f"invalid hardlink {_show(path)!r} -> {_show(entry.link)!r}"
            raise BreakoutError(message) from None
        if target == path and tree.status(path) is not None:
            return
        if target is None or target in tree.whiteouts or tree.status(target) is None:
            target = self._copy_up(path, entry.link)
        if target in tree.directories:
            message = f"link {_show(target)} {_show(path)}: operation not permitted"
            raise InvalidParameterError(message)
        for attempt in (1, 2):
            try:
                os.link(target, path, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd,
                        follow_symlinks=False)
                break
            except FileExistsError:
                if attempt == 2:
                    raise
                self.tree.remove(path)
        tree.linked(path, target)

    def _copy_up(self, path: bytes, link: bytes) -> bytes:
        """Bring the target of a hard link up from the layers below, as overlay does."""
        target = self.tree.locate(link)
        hidden = target in self.tree.whiteouts or self.tree.under_opaque(target)
        if not self._lower_fds or hidden:
            message = f"link {_show(link)} {_show(path)}: no such file or directory"
            raise (InvalidParameterError if hidden else MissingLinkTargetError)(message)
        copied = lower.copy_up(self._lower_fds, target, self._root_fd)
        if copied is None:
            message = f"link {_show(link)} {_show(path)}: no such file or directory"
            raise InvalidParameterError(message)
        if copied.symlink is not None:
            self.tree.make_symlink(target, copied.symlink)
        self.size_bytes += copied.size_bytes
        return target

    def _whiteout(self, path: bytes) -> None:
        parent, _, base = path.rpartition(b"/")
        if base == whiteout.OPAQUE:
            self.tree.opaque.add(parent)
        else:
            hidden = base[len(whiteout.PREFIX):]
            if hidden in (b"", b".", b".."):
                message = f"invalid whiteout name: {_show(base)}"
                raise BreakoutError(message)
            self.tree.make_whiteout(parent + b"/" + hidden if parent else hidden)

    def _is_aufs(self, name: bytes) -> bool:
        """Whether an entry is AUFS's own bookkeeping, which Docker skips."""
        parts = self.tree.clean(name).split(b"/")
        return any(part.startswith(whiteout.META_PREFIX) and part != whiteout.OPAQUE
                   for part in parts)

    def _finish_directories(self) -> None:
        tree = self.tree
        for path, facts in reversed(tree.directories.items()):
            opaque = path in tree.opaque and path != b""
            if facts is None and not opaque:
                continue
            if opaque or (facts is not None and (facts.xattrs or not path or facts.mode >= 0)):
                self._finish_by_fd(path, facts, opaque=opaque)
            elif facts is not None:
                os.utime(path, ns=_times(facts.mtime_ns), dir_fd=self._root_fd,
                         follow_symlinks=False)

    def _finish_by_fd(self, path: bytes, facts: DirectoryFacts | None, *, opaque: bool) -> None:
        fd = os.open(path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                     dir_fd=self._root_fd)
        try:
            if opaque:
                os.setxattr(fd, self._opaque_xattr, b"y")
            if facts is not None:
                if self._privileged:
                    os.fchown(fd, facts.uid, facts.gid)
                if facts.xattrs:
                    self._set_xattrs(fd, facts.xattrs)
                if facts.mode >= 0:
                    os.fchmod(fd, facts.mode)
                os.utime(fd, ns=_times(facts.mtime_ns))
        finally:
            os.close(fd)

    def _set_xattrs(self, fd: int, xattrs: dict[bytes, bytes]) -> None:
        for name, value in xattrs.items():
            if not _is_overlay_xattr(name):
                try:
                    os.setxattr(fd, name, value)
                except OSError as error:
                    if error.errno not in _NO_XATTRS:
                        raise

    def _set_xattrs_by_path(self, path: bytes, xattrs: dict[bytes, bytes]) -> None:
        """There is no lsetxattr relative to a descriptor before Linux 6.13: go there and back."""
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fchdir(self._root_fd)
            for name, value in xattrs.items():
                if not _is_overlay_xattr(name):
                    with suppress(OSError):  # user.* is refused on links and devices
                        os.setxattr(path, name, value, follow_symlinks=False)
        finally:
            os.fchdir(before)
            os.close(before)


def _is_overlay_xattr(name: bytes) -> bool:
    """An image must not speak to overlay: redirects would reach into other layers."""
    return name.startswith((b"trusted.overlay.", b"user.overlay."))


def _times(mtime_ns: int) -> tuple[int, int]:
    if not 0 <= mtime_ns <= _MAX_TIME_NS:
        mtime_ns = 0  # as Docker does with times no file system can hold
    return mtime_ns, mtime_ns


def _show(name: bytes) -> str:
    return name.decode(errors="replace")
