"""What a snapshotter is: trees of image layers and containers' writable layers.

Owns   the Protocol and the pieces every implementation shares; ``overlay.py`` and ``native.py``
       implement it under one contract suite (``tests/contract/test_snapshotter.py``).
Runs   in the daemon. ``prepare``, ``root_mount`` and ``remove`` are a few system calls and may be
       made on the loop thread; everything else belongs on a worker. Nothing here mounts: mounts
       are described as ``RootMount`` and made by the container's init in its own namespace.

A layer is keyed by its DiffID alone. It is unpacked into a draft without regard to the layers under
it, its whiteouts kept as overlay whiteouts (a character device 0:0; the xattr
``trusted.overlay.opaque``), and then committed by a rename.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pallet.errors import ConflictError, InvalidParameterError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.spec.mounts import RootMount
    from pallet.types import DiffID


_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


class LayerNotFoundError(NotFoundError):
    """A layer is not unpacked here."""


class SnapshotNotFoundError(NotFoundError):
    """There is no active snapshot of this key."""


class SnapshotExistsError(ConflictError):
    """``prepare`` was called twice for one key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDraft:
    """A layer being unpacked: fill ``path``, then commit or abort.

    A draft left behind by a killed daemon is removed by the next ``sweep``.
    """

    path: str
    """Empty directory that becomes the layer's root, or an empty file that becomes its EROFS image
    (``layer.worker`` looks which)."""
    directory: str
    """Everything of this draft; the snapshotter's own business."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeLayer:
    """A layer that a step made here: its tar is the same whenever it is written from the tree."""

    tree: str
    """Absolute path of the layer's directory."""
    tar_bytes: int
    root_entry: bool
    """The tar begins with an entry for the root directory itself."""


def is_key(key: str) -> bool:
    """Whether ``key`` may name a snapshot: it becomes a directory and part of a mount option."""
    return _KEY.fullmatch(key) is not None


def check_key(key: str) -> None:
    """Refuse what ``is_key`` refuses.

    Raises:
        InvalidParameterError: it does.
    """
    if not is_key(key):
        message = f"invalid snapshot key: {key!r}"
        raise InvalidParameterError(message)


COPIED = "="
"""First character of the ``lower`` link of a snapshot that is a copy: overlay must not mount it."""


class Snapshotter(Protocol):
    """Layer trees by DiffID and writable layers by container id."""

    name: str
    """Docker's driver name: ``overlay2``, ``vfs`` or ``erofs``."""
    copies: bool
    """``prepare`` and ``root_mount_of_layers`` copy whole trees: they belong on a worker."""

    def has_layer(self, diff_id: DiffID) -> bool:
        """Whether the layer is committed and whole."""
        ...

    def layer_size(self, diff_id: DiffID) -> int:
        """Bytes of the layer's regular files.

        Raises:
            LayerNotFoundError: it is not committed.
        """
        ...

    def layers(self) -> list[DiffID]:
        """Every committed layer."""
        ...

    def draft(self) -> LayerDraft:
        """Make a place to unpack a layer into."""
        ...

    def commit_layer(self, draft: LayerDraft, diff_id: DiffID, size_bytes: int, *,
                     implied_dirs: Sequence[bytes] = (), opaque_root: bool = False) -> None:
        """Publish a filled draft. Idempotent: of two drafts of one layer the first stays.

        Args:
            size_bytes: bytes of regular files (``Applied.size_bytes``).
            implied_dirs: ``Applied.implied_dirs``; ``settle`` gives them their parents' owner and
                mode.
            opaque_root: ``Applied.opaque_root``: the layer hides everything under it.
        """
        ...

    def abort(self, draft: LayerDraft) -> None:
        """Drop a draft. Idempotent, and nothing after a commit."""
        ...

    def commit_snapshot(self, key: str, diff_id: DiffID, size_bytes: int, *, tar_bytes: int,
                        root_entry: bool = False) -> None:
        """Make the writable layer of ``key`` a committed layer as it lies there, and drop the key.

        Nothing may use the snapshot any more, and ``layer.seal`` has made its directory one that gives
        the same tar for ever. Of two with the same DiffID the first stays.

        Args:
            tar_bytes: size of that tar.
            root_entry: it begins with an entry for the root directory.

        Raises:
            SnapshotNotFoundError: no such key.
            NotImplementedApiError: the driver copies whole trees.
        """
        ...

    def made_here(self, diff_id: DiffID) -> MadeLayer | None:
        """Say how to write the tar of a layer that ``commit_snapshot`` made; None for any other.

        Raises:
            LayerNotFoundError: it is not committed.
        """
        ...

    def settle(self, layers: Sequence[DiffID]) -> None:
        """Finish the layers of one image once all are committed, base first.

        A tar may hold ``tmp/x`` without ``tmp/``: the directory takes owner, mode and times from
        the layers below, which unpacking did not know. Idempotent; cheap when there is nothing.

        Raises:
            LayerNotFoundError: one of them is not committed.
        """
        ...

    def prepare(self, key: str, layers: Sequence[DiffID]) -> None:
        """Make the writable layer ``key`` on top of ``layers`` (base first; may be empty).

        Raises:
            SnapshotExistsError: ``key`` exists.
            LayerNotFoundError: a layer is not committed.
        """
        ...

    def has(self, key: str) -> bool:
        """Whether an active snapshot of this key exists."""
        ...

    def keys(self) -> list[str]:
        """Keys of every active snapshot."""
        ...

    def root_mount(self, key: str, *, volatile: bool = False) -> RootMount:
        """Describe the mount of an active snapshot.

        Args:
            volatile: skip syncs of the upper layer, for containers that are thrown away. What they
                wrote is not to be trusted after a power cut.

        Raises:
            SnapshotNotFoundError: no such key, or another driver made it.
        """
        ...

    def root_mount_of_layers(self, layers: Sequence[DiffID]) -> RootMount:
        """Describe a read-only mount of ``layers``, base first.

        Raises:
            LayerNotFoundError: a layer is not committed.
        """
        ...

    def remove(self, key: str) -> None:
        """Drop an active snapshot: a rename now, the deletion in the background. Idempotent."""
        ...

    def remove_layer(self, diff_id: DiffID) -> None:
        """Drop a committed layer that no image and no active snapshot uses. Idempotent.

        Raises:
            ConflictError: an active snapshot still uses it.
        """
        ...

    def discard_layer(self, diff_id: DiffID) -> None:
        """Give up the tree of a damaged layer; it counts as not committed until it is again.

        Containers on it find the tree that is committed next: theirs must not run meanwhile.

        Raises:
            LayerNotFoundError: it is not committed.
        """
        ...

    def strays(self, *, remove: bool = False) -> list[str]:
        """Layer directories without a record, relative to the snapshots' own directory.

        Args:
            remove: drop them too.
        """
        ...

    def usage(self, key: str) -> int:
        """Bytes of the files in the writable layer, each hard-linked file once; 0 of another driver's.

        Raises:
            SnapshotNotFoundError: no such key.
        """
        ...

    def sweep(self) -> int:
        """Remove drafts, trash and layers without a record; return how many. At start-up only."""
        ...

    def drain(self) -> None:
        """Wait until everything removed so far is deleted."""
        ...

    def close(self) -> None:
        """Finish background work: the deletion under way and syncs. What is left is swept later."""
        ...
