"""Committed layers: their directories, their records, and whether they have reached the disk.

Owns   ``snapshots/l``, ``snapshots/draft`` and the ``layers`` records; shared by all snapshotters.
Runs   in the daemon. Look-ups are dictionary reads and may be made anywhere; commits take a lock.

Crash safety. A layer is unpacked into ``draft/<n>``, renamed to ``l/<n>``, and then recorded. A
killed daemon leaves a draft, or a directory without a record: ``sweep`` removes both. Syncing
1.3 GB takes three seconds on a development machine's disk, so a commit does not wait for it: the
record says ``synced`` false and carries the kernel's boot id. Once no layer is being unpacked any
more, at the latest after half a minute, a thread syncs the file system and marks the records. After
a power cut the boot id differs, and layers that were never marked are dropped at start-up.
``image/repair.py`` unpacks them again from their blobs without a download, under the same number:
containers go by it.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import stat
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import ConflictError
from pallet.layer import erofs, lower
from pallet.linux.syncfs import syncfs
from pallet.storage.erofs import IMAGE, LayerMounts, supported
from pallet.storage.ready import ReadyLayers
from pallet.storage.snapshot import LayerDraft, LayerNotFoundError
from pallet.storage.trash import Trash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.paths import DataPaths
    from pallet.storage.metadata import Metadata
    from pallet.types import DiffID

logger = logging.getLogger(__name__)

_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_TOPDIR = 0x00020000
_MAX_DELAY_S = 30.0


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One committed layer."""

    number: int
    size_bytes: int
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    """Of the layer's root directory: a container's upper directory must look like the topmost."""
    opaque_root: bool = False
    implied_dirs: list[bytes] = []
    """Still without the attributes of their parents."""
    boot_id: str = ""
    synced: bool = False
    image: bool = False
    """The tree is an EROFS image (``l/<n>/image``), not a directory (``l/<n>/fs``)."""
    tar_bytes: int = 0
    """Size of the layer's tar, of a layer made here whose blob is written when it is wanted; else 0."""
    root_entry: bool = False
    """That tar has an entry for the root directory."""
    lost: bool = False
    """Dropped after a power cut; the number is kept for the layer's return."""


_decode = msgspec.json.Decoder(LayerRecord).decode
_encode = msgspec.json.Encoder().encode


class LayerTable:
    """Layers of one data root."""

    def __init__(self, paths: DataPaths, metadata: Metadata, *, images: bool = False) -> None:
        """Open the table; with ``images`` new layers become EROFS images. Old ones stay as they are."""
        for directory in (paths.layers, paths.drafts):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.base_dir = str(paths.snapshots)
        self.ready = ReadyLayers(paths.ready)
        self.trash = Trash(paths.trash, idle=self.ready.refill)
        self._layers_dir = str(paths.layers)
        self._drafts_dir = str(paths.drafts)
        self._metadata = metadata
        # One lock for records, directories and leases: see ``gc``.
        self._lock = metadata.lock
        self._boot_id = _boot_id()
        self._draft_numbers = itertools.count()
        self._drafts: set[str] = set()
        self._no_drafts = threading.Event()
        self._no_drafts.set()
        self._unsynced = threading.Event()
        self._syncer: threading.Thread | None = None
        self._closing = False
        _spread(self._drafts_dir)
        self._records = {diff_id: _decode(record) for diff_id, record in metadata.layers()}
        self._images = images
        self._mounts = LayerMounts(self._layers_dir)
        self._imaged = {record.number for record in self._records.values() if record.image}

    def has(self, diff_id: DiffID) -> bool:
        """Whether the layer is committed."""
        found = self._records.get(diff_id)
        return found is not None and not found.lost

    def record(self, diff_id: DiffID) -> LayerRecord:
        """Record of a layer.

        Raises:
            LayerNotFoundError: it is not committed.
        """
        found = self._records.get(diff_id)
        if found is None or found.lost:
            message = f"layer {diff_id} does not exist"
            raise LayerNotFoundError(message)
        return found

    def all(self) -> list[DiffID]:
        """Every committed layer, and those that were lost but not given up."""
        return list(self._records)

    def stack(self, layers: Sequence[DiffID]) -> list[LayerRecord]:
        """Records of the layers that show, topmost first.

        A layer that comes twice counts where it is on top: overlay refuses the same directory
        twice, and all that the lower one holds is decided by the upper one already. Nothing shows
        below a layer with an opaque root.
        """
        found: dict[DiffID, LayerRecord] = {}
        for diff_id in reversed(layers):
            if diff_id not in found:
                record = self.record(diff_id)
                found[diff_id] = record
                if record.opaque_root:
                    break
        return list(found.values())

    def directory(self, number: int) -> str:
        """Path of a layer's tree, relative to ``base_dir`` unless it is a mounted image.

        Short, since 127 must fit in a page.
        """
        return self._mounts.path(number) if number in self._imaged else f"l/{number}/fs"

    def draft(self) -> LayerDraft:
        """Make an empty draft."""
        # Random: ext4 picks the block group of a TOPDIR's child by a hash of its name.
        directory = f"{self._drafts_dir}/{next(self._draft_numbers)}-{os.urandom(4).hex()}"
        os.mkdir(directory, 0o700)
        path = f"{directory}/{IMAGE if self._images else 'fs'}"
        if self._images:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        else:
            os.mkdir(path, 0o755)
        with self._lock:
            self._drafts.add(directory)
            self._no_drafts.clear()
        return LayerDraft(path=path, directory=directory)

    def abort(self, draft: LayerDraft) -> None:
        """Drop a draft."""
        self.trash.take(draft.directory)
        self._end(draft)

    def _end(self, draft: LayerDraft) -> None:
        with self._lock:
            self._drafts.discard(draft.directory)
            if not self._drafts:
                self._no_drafts.set()

    def adopt(self, tree: str) -> LayerDraft:
        """Make a directory that was written elsewhere a draft, by a rename.

        Raises:
            FileNotFoundError: there is none.
        """
        directory = f"{self._drafts_dir}/{next(self._draft_numbers)}-{os.urandom(4).hex()}"
        os.mkdir(directory, 0o700)
        path = f"{directory}/fs"
        try:
            os.rename(tree, path)
        except BaseException:
            os.rmdir(directory)
            raise
        with self._lock:
            self._drafts.add(directory)
            self._no_drafts.clear()
        return LayerDraft(path=path, directory=directory)

    def commit(self, draft: LayerDraft, diff_id: DiffID, size_bytes: int, *,
               implied_dirs: Sequence[bytes], opaque_root: bool, tar_bytes: int = 0,
               root_entry: bool = False) -> None:
        """Publish a draft; see ``Snapshotter.commit_layer`` and ``commit_snapshot``."""
        with self._lock:
            before = self._records.get(diff_id)
            if before is not None and not before.lost:
                self.abort(draft)
                return
            image, root = _root_attributes(draft.path)
            record = LayerRecord(
                number=before.number if before else self._metadata.next_layer_number(),
                size_bytes=size_bytes, mode=root.mode, uid=root.uid, gid=root.gid, image=image,
                opaque_root=opaque_root, implied_dirs=list(implied_dirs), boot_id=self._boot_id,
                tar_bytes=tar_bytes, root_entry=root_entry)
            (self._imaged.add if image else self._imaged.discard)(record.number)
            os.rename(draft.directory, f"{self._layers_dir}/{record.number}")
            self._put(diff_id, record)
        self._end(draft)
        self._sync_later()

    def _put(self, diff_id: DiffID, record: LayerRecord) -> None:
        self._metadata.put_layer(diff_id, _encode(record))
        self._records[diff_id] = record

    def remove(self, diff_id: DiffID, in_use: set[int]) -> None:
        """Drop a layer that is not among the layer numbers ``in_use``.

        Raises:
            ConflictError: it is.
        """
        with self._lock:
            record = self._records.get(diff_id)
            if record is None:
                return
            if record.number in in_use:
                message = f"layer {diff_id} is in use by a container"
                raise ConflictError(message)
            # Record first: a directory without one is swept, one without a directory is trouble.
            self._metadata.delete_layer(diff_id)
            del self._records[diff_id]
        self.trash.take(f"{self._layers_dir}/{record.number}", self._mounts.take(record.number))
        self._imaged.discard(record.number)

    def discard(self, diff_id: DiffID) -> None:
        """Drop the tree of a damaged layer and keep its number; see ``Snapshotter.discard_layer``."""
        with self._lock:
            record = self.record(diff_id)
            # Record first: after a kill here the next daemon unpacks the layer again.
            self._put(diff_id, msgspec.structs.replace(record, lost=True))
            self._mounts.forget(record.number)
            self.trash.take(f"{self._layers_dir}/{record.number}")

    def strays(self, *, remove: bool = False) -> list[str]:
        """Directories without a record, and remove them; see ``Snapshotter.strays``."""
        with self._lock:
            known = {str(record.number) for record in self._records.values()}
            found = sorted(name for name in os.listdir(self._layers_dir) if name not in known)
            if remove:
                for name in found:
                    self.trash.take(f"{self._layers_dir}/{name}")
        return [f"l/{name}" for name in found]

    def settle(self, layers: Sequence[DiffID]) -> None:
        """Give implied directories the attributes they have below; see ``Snapshotter.settle``."""
        for index, diff_id in enumerate(layers):
            record = self.record(diff_id)
            if not record.implied_dirs:
                continue
            below = self.stack(layers[:index]) if not record.opaque_root else []
            with self._lock:
                record = self.record(diff_id)
                self._adopt(record, below)
                name = IMAGE if record.image else "fs"
                _, root = _root_attributes(f"{self._layers_dir}/{record.number}/{name}")
                self._put(diff_id, msgspec.structs.replace(
                    record, implied_dirs=[], mode=root.mode, uid=root.uid, gid=root.gid))

    def _adopt(self, record: LayerRecord, below: Sequence[LayerRecord]) -> None:
        fds: list[int] = []
        try:
            for layer in (record, *below):
                # One by one, so that all are closed whatever fails.
                fds.append(self.open(layer))  # noqa: PERF401
            for path in record.implied_dirs:
                found = lower.directory_attributes(fds[1:], path)
                if found is not None and record.image:
                    self._patch_image(record.number, os.stat(path or b".", dir_fd=fds[0]).st_ino, found)
                elif found is not None:
                    lower.set_directory_attributes(fds[0], path, found)
        finally:
            for fd in fds:
                os.close(fd)

        if record.image:
            self._mounts.forget(record.number)  # the kernel may have read the directories before

    def _patch_image(self, number: int, nid: int, found: lower.DirectoryAttributes) -> None:
        fd = os.open(f"{self._layers_dir}/{number}/{IMAGE}", os.O_RDWR | os.O_CLOEXEC)
        try:
            xattrs = {os.fsencode(name): value for name, value in found.xattrs.items()}
            if not erofs.patch_directory(
                    fd, nid, erofs.Attributes(found.mode, found.uid, found.gid, found.mtime_ns), xattrs):
                logger.warning("layer %d: xattrs of an implied directory are too long", number)
        finally:
            os.close(fd)

    def open(self, record: LayerRecord) -> int:
        """Return a descriptor of a layer's root; the caller closes it."""
        path = os.path.join(self.base_dir, self.directory(record.number))
        # A mount's path in /proc is a link; that of a directory must not be one.
        follow = 0 if record.image else os.O_NOFOLLOW
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow)

    def sweep(self) -> int:
        """Remove drafts, unrecorded directories, and layers a power cut may have damaged."""
        left = self.ready.left()
        swept = self.trash.sweep() + sum(map(self.trash.take, left))
        for entry in list(os.scandir(self._drafts_dir)):
            swept += self.trash.take(entry.path)
        there = {entry.name for entry in os.scandir(self._layers_dir)}
        failure = supported(self.base_dir) if self._imaged else ""
        for diff_id, record in list(self._records.items()):
            if record.image and failure and not record.lost:
                logger.warning("layer %s is dropped, EROFS images do not work here: %s", diff_id, failure)
                self._put(diff_id, msgspec.structs.replace(record, lost=True))
                continue
            doubtful = not record.synced and record.boot_id != self._boot_id
            if not record.lost and (doubtful or str(record.number) not in there):
                logger.warning("layer %s may not have reached the disk and is dropped", diff_id)
                self._put(diff_id, msgspec.structs.replace(record, lost=True))
        known = {str(record.number) for record in self._records.values() if not record.lost}
        for name in there - known:
            swept += self.trash.take(f"{self._layers_dir}/{name}")
        if any(not record.synced and not record.lost for record in self._records.values()):
            self._sync_later()
        return swept

    def close(self) -> None:
        """Sync what is not yet, and end the threads."""
        self._closing = True
        self._no_drafts.set()
        self._unsynced.set()
        if self._syncer is not None:
            self._syncer.join()
        self._mounts.close()
        self.trash.close()
        self.ready.close()

    def _sync_later(self) -> None:
        self._unsynced.set()
        with self._lock:
            if self._syncer is None and not self._closing:
                self._syncer = threading.Thread(target=self._sync_loop, name="pallet-sync",
                                                daemon=True)
                self._syncer.start()

    def _sync_loop(self) -> None:
        while True:
            self._unsynced.wait()
            # In the middle of a pull a sync takes the disk from those who are still unpacking:
            # it made 1.3 GB take half as long again.
            self._no_drafts.wait(_MAX_DELAY_S)
            self._unsynced.clear()
            wanted = [item for item in list(self._records.items())
                      if not item[1].synced and not item[1].lost]
            if wanted and self._sync():
                self._mark_synced(wanted)
            if self._closing:
                return

    def _sync(self) -> bool:
        fd = os.open(self._layers_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        except OSError as error:
            logger.warning("cannot sync %s: %s", self._layers_dir, error)
            return False
        finally:
            os.close(fd)
        return True

    def _mark_synced(self, wanted: Sequence[tuple[DiffID, LayerRecord]]) -> None:
        with self._lock, suppress(Exception), self._metadata.transaction():
            for diff_id, record in wanted:
                now = self._records.get(diff_id)
                if now is not None and now.number == record.number and not now.lost:
                    self._put(diff_id, msgspec.structs.replace(now, synced=True))


def _root_attributes(path: str) -> tuple[bool, erofs.Attributes]:
    """Whether ``path`` is an image, and what its root is like."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        mode = stat.S_IMODE(status.st_mode)
        return False, erofs.Attributes(mode, status.st_uid, status.st_gid, status.st_mtime_ns)
    with open(path, "rb") as file:
        return True, erofs.root_attributes(file.fileno())


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _spread(directory: str) -> None:
    """Mark ``directory`` as one whose children are unrelated trees (``chattr +T``).

    ext4 then starts each in another block group. Without a journal it also searches past every
    inode deleted in the last minutes before it takes one of the same group: making 50,000 files
    soon after deleting as many took 40 s instead of 1.3 s.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = struct.unpack("i", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(4)))[0]
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("i", flags | _TOPDIR))
    except OSError:
        return  # not ext4
    finally:
        os.close(fd)
