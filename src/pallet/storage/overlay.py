"""The overlay snapshotter: layers and upper directories, joined by the kernel's overlayfs.

Owns   ``snapshots/c``: one directory a container with ``upper``, ``work`` and ``lower``, a symlink
       whose text is the numbers of the layers below, topmost first (``7:3:1``). Making it is one
       system call, it needs no record, and it says what a layer is still used by.
Runs   in the daemon; nothing is mounted here.
Needs  a file system that overlay accepts as upper (ext4, xfs with ftype=1, btrfs, tmpfs).
Spec   Linux Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pallet.spec.mounts import RootMount
from pallet.storage import ready
from pallet.storage.layertable import LayerTable
from pallet.storage.snapshot import (
    COPIED,
    MadeLayer,
    SnapshotExistsError,
    SnapshotNotFoundError,
    check_key,
    is_key,
)
from pallet.storage.usage import tree_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.paths import DataPaths
    from pallet.storage.metadata import Metadata
    from pallet.storage.snapshot import LayerDraft
    from pallet.types import DiffID

_EMPTY = "empty"
_PLAIN_ROOT = (0o755, 0, 0)


class OverlaySnapshotter:
    """``Snapshotter`` on overlayfs."""

    copies = False

    def __init__(self, paths: DataPaths, metadata: Metadata, *, images: bool = False) -> None:
        """Open the snapshots of a data root.

        Args:
            images: new layers become EROFS images (``erofs_snapshotter``). Both kinds of layers
                serve whichever way the daemon was started.
        """
        self.name = "erofs" if images else "overlay2"
        self._table = LayerTable(paths, metadata, images=images)
        self._base = str(paths.snapshots)
        self._active = str(paths.active)
        paths.active.mkdir(mode=0o700, exist_ok=True)
        # Overlay needs a lower directory: this is the one of an image without layers.
        (paths.snapshots / _EMPTY).mkdir(mode=0o755, exist_ok=True)
        self._options = _mount_options()

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
        check_key(key)
        if not self._table.has(diff_id):
            try:
                draft = self._table.adopt(f"{self._active}/{key}/upper")
            except FileNotFoundError as error:
                raise _missing(key) from error
            self._table.commit(draft, diff_id, size_bytes, implied_dirs=(), opaque_root=False,
                               tar_bytes=tar_bytes, root_entry=root_entry)
        self.remove(key)

    def made_here(self, diff_id: DiffID) -> MadeLayer | None:
        record = self._table.record(diff_id)
        if not record.tar_bytes:
            return None
        return MadeLayer(tree=f"{self._base}/{self._table.directory(record.number)}",
                         tar_bytes=record.tar_bytes, root_entry=record.root_entry)

    def abort(self, draft: LayerDraft) -> None:
        self._table.abort(draft)

    def settle(self, layers: Sequence[DiffID]) -> None:
        self._table.settle(layers)

    def prepare(self, key: str, layers: Sequence[DiffID]) -> None:
        check_key(key)
        stack = self._table.stack(layers)
        directory = f"{self._active}/{key}"
        if os.path.lexists(directory):
            message = f"snapshot {key} already exists"
            raise SnapshotExistsError(message)
        if not self._table.ready.take(directory):
            ready.make(directory)
        # The link last: without it the snapshot is half made, and ``root_mount`` says so.
        upper = f"{directory}/upper"
        if stack and (stack[0].mode, stack[0].uid, stack[0].gid) != _PLAIN_ROOT:
            os.chown(upper, stack[0].uid, stack[0].gid)
            os.chmod(upper, stack[0].mode)
        os.symlink(":".join(str(record.number) for record in stack) or "-", f"{directory}/lower")

    def has(self, key: str) -> bool:
        return is_key(key) and Path(self._active, key).is_dir()

    def keys(self) -> list[str]:
        return os.listdir(self._active)

    def root_mount(self, key: str, *, volatile: bool = False) -> RootMount:
        lower = [self._table.directory(int(number)) for number in self._lower(key)] or [_EMPTY]
        options = [*self._options, "volatile"] if volatile else self._options
        return RootMount(base_dir=self._base, lower=lower, upper=f"c/{key}/upper",
                         work=f"c/{key}/work", options=_across(lower, options))

    def root_mount_of_layers(self, layers: Sequence[DiffID]) -> RootMount:
        stack = self._table.stack(layers)
        lower = [self._table.directory(record.number) for record in stack] or [_EMPTY]
        return RootMount(base_dir=self._base, lower=lower,
                         options=_across(lower, self._options) if len(lower) > 1 else [])

    def remove(self, key: str) -> None:
        if is_key(key):
            self._table.trash.take(f"{self._active}/{key}")

    def remove_layer(self, diff_id: DiffID) -> None:
        self._table.remove(diff_id, self._used_numbers())

    def discard_layer(self, diff_id: DiffID) -> None:
        self._table.discard(diff_id)

    def strays(self, *, remove: bool = False) -> list[str]:
        return self._table.strays(remove=remove)

    def usage(self, key: str) -> int:
        try:
            return tree_size(f"{self._active}/{key}/upper")
        except FileNotFoundError as error:
            if self.has(key):
                return 0
            raise _missing(key) from error

    def sweep(self) -> int:
        return self._table.sweep()

    def drain(self) -> None:
        """Wait until everything removed so far is deleted."""
        self._table.trash.drain()

    def close(self) -> None:
        self._table.close()

    def _lower(self, key: str) -> list[str]:
        try:
            text = os.readlink(f"{self._active}/{key}/lower")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(key) from error
        if text.startswith(COPIED):
            message = f"snapshot {key} was made by the storage driver vfs"
            raise SnapshotNotFoundError(message)
        return text.split(":") if text != "-" else []

    def _used_numbers(self) -> set[int]:
        used: set[int] = set()
        for key in self.keys():
            try:
                used.update(map(int, self._lower(key)))
            except SnapshotNotFoundError:
                continue  # removed meanwhile, half made, or a copy of its own
        return used


def erofs_snapshotter(paths: DataPaths, metadata: Metadata) -> OverlaySnapshotter:
    """Make the snapshotter whose new layers are EROFS images."""
    return OverlaySnapshotter(paths, metadata, images=True)


def _missing(key: str) -> SnapshotNotFoundError:
    return SnapshotNotFoundError(f"snapshot {key} does not exist")


def _across(lower: Sequence[str], options: list[str]) -> list[str]:
    """Add what an overlay across file systems needs.

    Without ``xino`` every file shows its layer's device number, and programs told to stay on one
    file system (tar, cp -x) leave the image's files out.
    """
    return [*options, "xino=on"] if any(path.startswith("/") for path in lower) else options


def _mount_options() -> list[str]:
    """Undo module defaults that would tie an upper directory to one set of lower inodes.

    ``index`` makes a mount fail once a layer was unpacked again; ``redirect_dir`` and ``metacopy``
    leave an upper directory that cannot be read by itself, as copies of it (commit) must.
    """
    options = []
    for name in ("index", "metacopy", "redirect_dir"):
        try:
            value = Path("/sys/module/overlay/parameters", name).read_text(encoding="ascii").strip()
        except OSError:
            continue  # the module is not loaded yet, or older: its defaults are off
        if value == "Y":
            options.append(f"{name}=off")
    return options
