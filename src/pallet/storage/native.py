"""The native snapshotter: plain copies, for file systems and hosts where overlay does not work.

Owns   ``snapshots/c/<key>/fs``, each a whole root file system, and read-only views of layer stacks
       that more than one layer is in (``c/view-…``).
Runs   in the daemon. ``prepare`` and ``root_mount_of_layers`` copy the image: they belong on a
       worker, unlike overlay's.
Needs  nothing of the file system but devices for whiteouts (root).

Docker calls this driver ``vfs``. It is slow and takes the image's size for each container; files
are cloned where the file system can (btrfs, xfs).
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pallet.errors import NotImplementedApiError
from pallet.layer.copy import copy_tree
from pallet.spec.mounts import RootMount
from pallet.storage.layertable import LayerTable
from pallet.storage.snapshot import (
    COPIED,
    SnapshotExistsError,
    SnapshotNotFoundError,
    check_key,
    is_key,
)
from pallet.storage.usage import tree_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.paths import DataPaths
    from pallet.storage.layertable import LayerRecord
    from pallet.storage.metadata import Metadata
    from pallet.storage.snapshot import LayerDraft, MadeLayer
    from pallet.types import DiffID

_VIEW = "view-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NativeSnapshotter:
    """``Snapshotter`` by copying."""

    name = "vfs"
    copies = True

    def __init__(self, paths: DataPaths, metadata: Metadata) -> None:
        self._table = LayerTable(paths, metadata)
        self._base = str(paths.snapshots)
        self._active = str(paths.active)
        self._views = threading.Lock()
        paths.active.mkdir(mode=0o700, exist_ok=True)

    def has_layer(self, diff_id: DiffID) -> bool:
        return self._table.has(diff_id)

    def layer_size(self, diff_id: DiffID) -> int:
        return self._table.record(diff_id).size_bytes

    def layers(self) -> list[DiffID]:
        return self._table.all()

    def draft(self) -> LayerDraft:
        return self._table.draft()

    def commit_layer(self, draft: LayerDraft, diff_id: DiffID, size_bytes: int, *,
                     implied_dirs: Sequence[bytes] = (), opaque_root: bool = False) -> None:
        self._table.commit(draft, diff_id, size_bytes, implied_dirs=implied_dirs,
                           opaque_root=opaque_root)

    def commit_snapshot(self, key: str, diff_id: DiffID, size_bytes: int, *, tar_bytes: int,
                        root_entry: bool = False) -> None:
        message = "the vfs driver has no writable layers apart from their images to commit"
        raise NotImplementedApiError(message)

    def made_here(self, diff_id: DiffID) -> MadeLayer | None:
        self._table.record(diff_id)
        return None

    def abort(self, draft: LayerDraft) -> None:
        self._table.abort(draft)

    def settle(self, layers: Sequence[DiffID]) -> None:
        self._table.settle(layers)

    def prepare(self, key: str, layers: Sequence[DiffID]) -> None:
        check_key(key)
        stack = self._table.stack(layers)
        if self.has(key):
            message = f"snapshot {key} already exists"
            raise SnapshotExistsError(message)
        draft = self._table.draft()
        try:
            self._fill(draft.path, stack)
            base = sum(record.size_bytes for record in stack)
            os.symlink(f"{COPIED}{base}:" + ":".join(str(record.number) for record in stack),
                       f"{draft.directory}/lower")
            os.rename(draft.directory, f"{self._active}/{key}")
        except BaseException:
            self._table.abort(draft)
            raise

    def has(self, key: str) -> bool:
        return is_key(key) and Path(self._active, key).is_dir()

    def keys(self) -> list[str]:
        return [key for key in os.listdir(self._active) if not key.startswith(_VIEW)]

    def root_mount(self, key: str, *, volatile: bool = False) -> RootMount:
        self._lower(key)
        return RootMount(base_dir=self._base, lower=[], upper=f"c/{key}/fs")

    def root_mount_of_layers(self, layers: Sequence[DiffID]) -> RootMount:
        stack = self._table.stack(layers)
        if len(stack) == 1:
            return RootMount(base_dir=self._base, lower=[self._table.directory(stack[0].number)])
        numbers = ":".join(str(record.number) for record in stack)
        key = _VIEW + hashlib.sha256(numbers.encode()).hexdigest()[:32]
        with self._views:
            if not self.has(key):
                self.prepare(key, layers)
        return RootMount(base_dir=self._base, lower=[f"c/{key}/fs"])

    def remove(self, key: str) -> None:
        if is_key(key):
            self._table.trash.take(f"{self._active}/{key}")

    def remove_layer(self, diff_id: DiffID) -> None:
        # Containers have copies of their own; only views are tied to a layer.
        if self._table.has(diff_id):
            number = str(self._table.record(diff_id).number)
            for key in os.listdir(self._active):
                if key.startswith(_VIEW) and number in self._lower(key)[1:]:
                    self.remove(key)
        self._table.remove(diff_id, set())

    def discard_layer(self, diff_id: DiffID) -> None:
        self._table.discard(diff_id)

    def strays(self, *, remove: bool = False) -> list[str]:
        return self._table.strays(remove=remove)

    def usage(self, key: str) -> int:
        """Bytes beyond those of the image: what the files grew by."""
        try:
            base = int(self._lower(key)[0])
        except SnapshotNotFoundError:
            if self.has(key):
                return 0
            raise
        return max(tree_size(f"{self._active}/{key}/fs") - base, 0)

    def sweep(self) -> int:
        return self._table.sweep()

    def drain(self) -> None:
        """Wait until everything removed so far is deleted."""
        self._table.trash.drain()

    def close(self) -> None:
        self._table.close()

    def _fill(self, path: str, stack: Sequence[LayerRecord]) -> None:
        target_fd = os.open(path, _DIRECTORY)
        try:
            for record in reversed(stack):
                source_fd = self._table.open(record)
                try:
                    copy_tree(source_fd, target_fd, overlay=True)
                finally:
                    os.close(source_fd)
        finally:
            os.close(target_fd)

    def _lower(self, key: str) -> list[str]:
        """Size of the image and numbers of its layers, from the snapshot's ``lower`` link."""
        try:
            text = os.readlink(f"{self._active}/{key}/lower")
        except (FileNotFoundError, NotADirectoryError) as error:
            message = f"snapshot {key} does not exist"
            raise SnapshotNotFoundError(message) from error
        if not text.startswith(COPIED):
            message = f"snapshot {key} was made by the storage driver overlay2"
            raise SnapshotNotFoundError(message)
        return text.removeprefix(COPIED).split(":")
