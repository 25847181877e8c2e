"""Unpack a layer's tar, in overlay's form: into a directory or into an EROFS image.

Owns   what the entries of a layer mean. ``tarheader`` reads the archive, ``tree`` resolves names,
       ``source`` decompresses and hashes; files are made by a ``Target``, ``disk.DiskTarget`` or
       ``erofstarget.ImageTarget``.
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
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.layer import tarheader, whiteout
from pallet.layer.disk import DiskTarget
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
    from pallet.layer.tree import Target

_RESERVE_BYTES = 256 * 1024 * 1024
"""Left free on the file system when the caller sets no limit."""


def apply(source_fd: int, target: str | int, *, compression: str = "auto",
          progress_fd: int | None = None, limits: Limits | None = None,
          lower_fds: Sequence[int] = (), overlay_xattrs: str = whiteout.TRUSTED,
          confine: bool = False, hashed: bool = True) -> Applied:
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
        hashed: False leaves ``Applied.diff_id`` empty, for a caller who hashes the same bytes.

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
        stream = ByteStream(chunks(source, compression), byte_limit(limits, root_fd), hashed=hashed,
                            room=limits.max_bytes is None)
        if confine:
            _chroot(root_fd)
        target_tree = DiskTarget(root_fd, overlay_xattrs)
        with _no_umask():
            return unpack(stream, source, target_tree, limits, lower_fds)
    finally:
        os.close(root_fd)


def unpack(stream: ByteStream, source: Source, target: Target, limits: Limits,
           lower_fds: Sequence[int]) -> Applied:
    """Carry out every entry of ``stream`` on ``target`` and read the stream to its end.

    Raises:
        as ``apply``.
    """
    applier = _Applier(stream, target, limits, lower_fds)
    applier.run()
    stream.drain()
    return Applied(
        diff_id=stream.diff_id(), size_bytes=applier.size_bytes, stream_bytes=stream.length,
        source_bytes=source.offset, entries=applier.entries,
        implied_dirs=applier.implied_dirs(), opaque_root=b"" in applier.tree.opaque)


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


def byte_limit(limits: Limits, fd: int) -> int:
    """Bytes a layer may unpack to on the file system of ``fd``."""
    if limits.max_bytes is not None:
        return limits.max_bytes
    disk = os.fstatvfs(fd)
    return max(disk.f_bavail * disk.f_frsize - _RESERVE_BYTES, 0)


class _Applier:
    """One run over one archive."""

    def __init__(self, stream: ByteStream, target: Target, limits: Limits,
                 lower_fds: Sequence[int]) -> None:
        self.tree = Tree(target)
        self.entries = 0
        self.size_bytes = 0
        self._stream = stream
        self._target = target
        self._limits = limits
        self._lower_fds = lower_fds
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
        try:
            self._target.regular(path, entry, self._stream)
        except FileExistsError:
            self.tree.remove(path)
            self._target.regular(path, entry, self._stream)
        self.size_bytes += entry.real_size

    def _directory(self, path: bytes, entry: Entry) -> None:
        tree = self.tree
        early = self._target.early_mode(entry.mode)
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
        self.size_bytes += len(entry.link)
        self._target.dress(path, entry)

    def _device(self, path: bytes, entry: Entry) -> None:
        try:
            os.makedev(*entry.rdev)
        except (OverflowError, ValueError) as error:
            raise ArchiveError(tarheader.INVALID) from error
        try:
            self._target.device(path, entry)
        except FileExistsError:
            self.tree.remove(path)
            self._target.device(path, entry)
        self._target.dress(path, entry)

    def _hardlink(self, path: bytes, entry: Entry) -> None:
        tree = self.tree
        try:
            target = tree.find(entry.link)
        except BreakoutError:
            message = f"invalid hardlink {_show(path)!r} -> {_show(entry.link)!r}"
            raise BreakoutError(message) from None
        if target == path and tree.exists(path):
            return
        if target is None or target in tree.whiteouts or not tree.exists(target):
            target = self._copy_up(path, entry.link)
        if target.startswith(path + b"/"):
            # Would take the place of a directory that its own target is in.
            message = f"link {_show(target)} {_show(path)}: no such file or directory"
            raise InvalidParameterError(message)
        if target in tree.directories:
            message = f"link {_show(target)} {_show(path)}: operation not permitted"
            raise InvalidParameterError(message)
        try:
            self._target.link(target, path)
        except FileExistsError:
            tree.remove(path)
            self._target.link(target, path)
        tree.linked(path, target)

    def _copy_up(self, path: bytes, link: bytes) -> bytes:
        """Bring the target of a hard link up from the layers below, as overlay does."""
        target = self.tree.locate(link)
        hidden = target in self.tree.whiteouts or self.tree.under_opaque(target)
        if not self._lower_fds or hidden:
            message = f"link {_show(link)} {_show(path)}: no such file or directory"
            raise (InvalidParameterError if hidden else MissingLinkTargetError)(message)
        copied = self._target.copy_up(self._lower_fds, target)
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
            if facts is not None or opaque:
                self._target.finish_directory(path, facts, opaque=opaque)


def _show(name: bytes) -> str:
    return name.decode(errors="replace")
