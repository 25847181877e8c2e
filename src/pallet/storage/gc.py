"""Garbage collection: mark from records, leases and containers, sweep blobs and layers.

Owns   the rule of what is reachable. A manifest reaches its config and layers, an index the
       manifests that are here.
Runs   in a worker of the daemon, one at a time, while the caller keeps new image records out.
Needs  pulls to lease what they bring in before they commit it (``storage/leases.py``).
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from pallet.errors import ConflictError, PalletError
from pallet.spec import image as images
from pallet.types import DiffID, Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pallet.storage.content import ContentStore
    from pallet.storage.metadata import Metadata
    from pallet.storage.snapshot import Snapshotter

logger = logging.getLogger(__name__)

_MAX_DOCUMENT_BYTES = 8 << 20
"""A blob larger than this is no manifest."""


def collect(content: ContentStore, snapshotter: Snapshotter, metadata: Metadata,
            blobs: Iterable[Digest], layers: Iterable[DiffID]) -> int:
    """Remove what is not reachable from ``blobs``, ``layers`` and the leases.

    Returns the bytes of the blobs removed. Layers that containers use stay.
    """
    garbage, stale = unreachable(content, snapshotter, metadata, blobs, layers)
    freed = 0
    for digest, size in garbage.items():
        # Look again under the lock: a pull may have begun to rely on it since the lists were made.
        with metadata.lock:
            gone = None if metadata.leased("blob", digest) else content.detach(digest)
        if gone is not None:
            gone.unlink()
            freed += size
    for diff_id in stale:
        with metadata.lock, suppress(ConflictError):  # a container's; a later run takes it
            if not metadata.leased("layer", diff_id):
                snapshotter.remove_layer(diff_id)
    return freed


def unreachable(content: ContentStore, snapshotter: Snapshotter, metadata: Metadata,
                blobs: Iterable[Digest], layers: Iterable[DiffID]) -> tuple[dict[Digest, int], list[DiffID]]:
    """Blobs (with their sizes) and layers that nothing of ``blobs``, ``layers`` and the leases needs."""
    present = dict(content.walk())
    candidates = list(snapshotter.layers())
    leased = [resource for held in metadata.leases().values() for resource in held]
    roots = [*blobs, *(Digest(key) for kind, key in leased if kind == "blob")]
    kept = {*layers, *(DiffID(key) for kind, key in leased if kind == "layer")}
    reached = _reach(content, roots, present)
    garbage = {digest: size for digest, size in present.items() if digest not in reached}
    return garbage, [diff_id for diff_id in candidates if diff_id not in kept]


def release(content: ContentStore, metadata: Metadata, digest: Digest) -> None:
    """Remove one blob although something still points to it, unless it is leased."""
    with metadata.lock:
        gone = None if metadata.leased("blob", digest) else content.detach(digest)
    if gone is not None:
        gone.unlink()


def _reach(content: ContentStore, roots: Iterable[Digest],
           present: dict[Digest, int]) -> set[Digest]:
    reached: set[Digest] = set()
    pending = list(roots)
    while pending:
        digest = pending.pop()
        if digest in reached or digest not in present:
            continue
        reached.add(digest)
        if present[digest] <= _MAX_DOCUMENT_BYTES:
            pending += _children(content, digest)
    return reached


def _children(content: ContentStore, digest: Digest) -> list[Digest]:
    """What a manifest or index points to; nothing for any other blob."""
    if content.head(digest, 1) != b"{":
        return []
    try:
        raw = content.read(digest)
        if b"schemaVersion" not in raw:
            return []
        media_type = images.sniff_media_type(raw)
        if media_type in images.INDEX_TYPES:
            return [entry.digest for entry in images.decode_index(raw).manifests]
        manifest = images.decode_manifest(raw)
    except PalletError as error:
        logger.debug("blob %s is no manifest: %s", digest, error)
        return []
    return [manifest.config.digest, *(layer.digest for layer in manifest.layers)]
