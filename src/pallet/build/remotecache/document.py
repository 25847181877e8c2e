"""The document that describes a cache: ``application/vnd.buildkit.cacheconfig.v0``.

Owns   its form, and what Pallet adds: each record's whole chain of layers.
Runs   anywhere; pure.
Spec   BuildKit's ``cache/remotecache/v1``. Keys are Pallet's own, so BuildKit finds nothing in it and takes
       no harm; of BuildKit's caches Pallet finds no keys either.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import DataLossError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pallet.spec.image import Descriptor
    from pallet.types import Digest

MEDIA_TYPE = "application/vnd.buildkit.cacheconfig.v0"
INLINE = "moby.buildkit.cache.v0"
"""Field of an image's config."""
UNCOMPRESSED = "containerd.io/uncompressed"
"""Annotation of a layer: its DiffID."""


class CacheLayer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A layer, by its blob, on another one."""

    blob: str = ""
    parent: int = 0
    """Its index; -1 for none. 0 is left out, as BuildKit does."""
    diff_id: str = msgspec.field(name="pallet.diffID", default="")


class CacheResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The layer that a key leads to."""

    layer: int = 0
    created_at: str = msgspec.field(name="createdAt", default="")


class CacheKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One cache key."""

    digest: str = ""
    layers: list[CacheResult] = []
    chain: list[str] = msgspec.field(name="pallet.chain", default_factory=list)
    """DiffIDs of the whole file system, base first."""
    description: str = msgspec.field(name="pallet.description", default="")


class CacheMount(msgspec.Struct, frozen=True, kw_only=True):
    """What a cache mount holds: the tar of a directory. No layer, and nothing of BuildKit's."""

    name: str
    """``ops.cachemounts.name_of`` of its id."""
    blob: str


class CacheDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of it."""

    layers: list[CacheLayer] = []
    records: list[CacheKey] = []
    mounts: list[CacheMount] | msgspec.UnsetType = msgspec.field(name="pallet.cacheMounts", default=msgspec.UNSET)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record of a cache, on its way in or out."""

    keys: tuple[str, ...]
    layers: tuple[str, ...]
    """DiffIDs, base first."""
    description: str = ""


@dataclass(slots=True)
class Imported:
    """What a cache elsewhere has: what keys lead to, and where layers' blobs are."""

    entries: dict[str, Entry] = field(default_factory=dict)
    blobs: dict[str, Descriptor] = field(default_factory=dict)
    """By DiffID."""
    mounts: dict[str, Descriptor] = field(default_factory=dict)
    """Contents of cache mounts by the mounts' names."""


_decode = msgspec.json.Decoder(CacheDocument).decode


def encode(entries: Iterable[Entry], blobs: Mapping[str, Digest], mounts: Mapping[str, Digest] | None = None) -> bytes:
    """Write the document.

    Args:
        blobs: the layers that go with it, by DiffID, in their order.
        mounts: contents of cache mounts, by the mounts' names.
    """
    places = {layer: place for place, layer in enumerate(blobs)}
    layers = [CacheLayer(blob=blob, diff_id=layer, parent=-1) for layer, blob in blobs.items()]
    records: list[CacheKey] = []
    for entry in entries:
        for below, above in zip(entry.layers, entry.layers[1:], strict=False):
            if above in places and below in places:
                place = places[above]
                layers[place] = msgspec.structs.replace(layers[place], parent=places[below])
        found = [CacheResult(layer=places[entry.layers[-1]])] if entry.layers and entry.layers[-1] in places else []
        records += [CacheKey(digest=f"sha256:{key}", layers=found, chain=list(entry.layers),
                             description=entry.description) for key in entry.keys]
    held = [CacheMount(name=name, blob=blob) for name, blob in (mounts or {}).items()]
    return msgspec.json.encode(CacheDocument(layers=layers, records=records, mounts=held or msgspec.UNSET))


def decode(raw: bytes, blobs: Sequence[Descriptor]) -> Imported:
    """Read the document.

    Args:
        blobs: the layers of the manifest that it came with.

    Raises:
        DataLossError: it cannot be read.
    """
    try:
        document = _decode(raw)
    except msgspec.DecodeError as error:
        message = f"invalid build cache: {error}"
        raise DataLossError(message) from error
    by_digest = {blob.digest: blob for blob in blobs}
    found = Imported()
    for layer in document.layers:
        if layer.diff_id and layer.blob in by_digest:
            found.blobs[layer.diff_id] = by_digest[layer.blob]  # type: ignore[index]
    for record in document.records:
        key = record.digest.removeprefix("sha256:")
        if record.chain:
            found.entries[key] = Entry(keys=(key,), layers=tuple(record.chain), description=record.description)
    for mount in document.mounts or ():
        if mount.blob in by_digest:
            found.mounts[mount.name] = by_digest[mount.blob]  # type: ignore[index]
    return found


def inline(config: bytes, document: bytes) -> bytes:
    """An image's config with its cache in it."""
    fields = msgspec.json.decode(config)
    fields[INLINE] = base64.b64encode(document).decode()
    return msgspec.json.encode(fields)


def inlined(config: bytes) -> bytes | None:
    """The cache in an image's config; None for none."""
    text = msgspec.json.decode(config).get(INLINE)
    return base64.b64decode(text) if isinstance(text, str) else None
