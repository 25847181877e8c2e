"""Caches to elsewhere: the records of a build with the layers that it made.

Owns   which records go (``mode=min``: what the outputs are made of; ``max``: everything), and their manifest.
Runs   on the loop; compression in threads.
Spec   BuildKit's ``--cache-to``: ``type=registry``, ``type=local``, ``type=inline``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from pallet.aio import run_blocking
from pallet.build.credentials import login
from pallet.build.export.values import flag
from pallet.build.remotecache import document
from pallet.build.remotecache.document import MEDIA_TYPE, UNCOMPRESSED, Entry
from pallet.build.remotecache.importer import TAG as _TAG
from pallet.build.remotecache.mounts import compress
from pallet.errors import InvalidParameterError
from pallet.spec import digest as digests
from pallet.spec import image as spec
from pallet.spec import reference as references
from pallet.types import DiffID, Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pallet.build.cachestore import CacheStore
    from pallet.build.graph import Vertex
    from pallet.build.job import Job
    from pallet.build.remotecache.importer import Registries
    from pallet.build.remotecache.mounts import MountExporter
    from pallet.build.request import CacheLink
    from pallet.image.lazyblobs import LazyBlobs
    from pallet.image.store import ImageStore
    from pallet.spec.image import Descriptor

_PIECE_BYTES = 1 << 20
_MODES = frozenset({"min", "max"})


class CacheExporter:
    """Writes caches."""

    def __init__(self, *, images: ImageStore, cache: CacheStore, blobs: LazyBlobs, registries: Registries,
                 mounts: MountExporter) -> None:
        self._images = images
        self._mounts = mounts
        self._cache = cache
        self._blobs = blobs
        self._registries = registries

    def inline(self, config: bytes, job: Job, layers: Sequence[str]) -> bytes:
        """An image's config with the records that its layers come from."""
        return document.inline(config, document.encode(self._entries(job, [layers], "min"), {}))

    async def export(self, link: CacheLink, job: Job, targets: Sequence[Sequence[str]],
                     vertices: Sequence[Vertex] = ()) -> dict[str, str]:
        """Write a cache of a job that is solved; returns what the exporter's response has of it.

        Args:
            targets: layers of the outputs.
            vertices: what was solved: whose cache mounts go along, where the link asks for that.

        Raises:
            InvalidParameterError: the link lacks something, or is of an unknown kind.
            PalletError: it cannot be written.
        """
        attributes = link.attributes
        mode = attributes.get("mode", "min")
        if mode not in _MODES:
            message = f"unsupported cache export mode: {mode}"
            raise InvalidParameterError(message)
        if link.kind not in {"registry", "local"}:
            message = f"unknown cache exporter: {link.kind!r}".replace("'", '"')
            raise InvalidParameterError(message)
        entries = self._entries(job, targets, mode)
        blobs = await self._layers(entries, job)
        mounts = await self._mounts.export(vertices, job) if flag(attributes, "cache-mounts") else {}
        raw = document.encode(entries, {layer: blob.digest for layer, blob in blobs.items()},
                              {name: blob.digest for name, blob in mounts.items()})
        held = list({blob.digest: blob for blob in (*blobs.values(), *mounts.values())}.values())
        config = await self._put(raw, MEDIA_TYPE, job)
        manifest = msgspec.json.encode({
            "schemaVersion": 2, "mediaType": spec.OCI_MANIFEST, "config": _plain(config),
            "layers": [_plain(blob) for blob in held]})
        top = await self._put(manifest, spec.OCI_MANIFEST, job)
        stored = spec.StoredManifest(raw=manifest, media_type=spec.OCI_MANIFEST, digest=top.digest)
        if link.kind == "registry":
            if not attributes.get("ref"):
                message = "ref is required for cache export"
                raise InvalidParameterError(message)
            reference = references.parse_normalized(attributes["ref"]).with_default_tag()
            await self._registries.push(reference, stored, [*held, config],
                                        await login(job.client, reference))
        else:
            await self._send(attributes, [*held, config, top], job)
        return {"cache.manifest": msgspec.json.encode(_plain(top)).decode()}

    def _entries(self, job: Job, targets: Sequence[Sequence[str]], mode: str) -> list[Entry]:
        found: dict[str, Entry] = {}
        for solved in job.results.values():
            record = self._cache.get(solved.record) if solved.record else None
            if record is None or not record.layers:
                continue
            if mode == "min" and not any(tuple(target[:len(record.layers)]) == record.layers for target in targets):
                continue
            found[record.id] = Entry(keys=tuple(sorted(self._cache.keys_of(record.id))), layers=record.layers,
                                     description=record.description)
        return list(found.values())

    async def _layers(self, entries: Sequence[Entry], job: Job) -> dict[str, Descriptor]:
        """Compressed blobs of all layers that were made here, by DiffID."""
        found: dict[str, Descriptor] = {}
        for layer in dict.fromkeys(layer for entry in entries for layer in entry.layers):
            if self._blobs.made(DiffID(layer)) is not None and await self._blobs.ensure(Digest(layer), job.lease):
                found[layer] = await run_blocking(self._compress, Digest(layer), job)
        return found

    def _compress(self, layer: Digest, job: Job) -> Descriptor:
        content = self._images.content
        with content.path(layer).open("rb") as source:
            digest, size = compress(source, content, job.lease)
        return spec.Descriptor(media_type=spec.OCI_LAYER_GZIP, digest=digest, size=size,
                               annotations={UNCOMPRESSED: layer})

    async def _put(self, raw: bytes, media_type: str, job: Job) -> Descriptor:
        digest = digests.of_bytes(raw)
        job.lease.add_blob(digest)
        await run_blocking(self._images.content.put, raw, digest)
        return spec.Descriptor(media_type=media_type, digest=digest, size=len(raw))

    async def _send(self, attributes: Mapping[str, str], blobs: Sequence[Descriptor], job: Job) -> None:
        if not attributes.get("dest"):
            message = "local cache exporter requires dest"
            raise InvalidParameterError(message)
        store = f"local:{attributes['dest']}"
        for blob in blobs:
            await job.client.put_blob(store, blob.digest, blob.size, self._read(blob))
        if getattr(job.client, "writes_index", False):
            # BuildKit's clients do that themselves, by the exporter's response.
            entry = {**_plain(blobs[-1]), "annotations": {_TAG: attributes.get("tag", "latest")}}
            index = msgspec.json.encode({"schemaVersion": 2, "mediaType": spec.OCI_INDEX, "manifests": [entry]})
            for name, data in (("index.json", index), ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')):
                await job.client.put_blob(store, name, len(data), _one(data))

    async def _read(self, blob: Descriptor) -> AsyncIterator[bytes]:
        fd = await run_blocking(self._images.content.open, blob.digest)
        try:
            while data := await run_blocking(os.read, fd, _PIECE_BYTES):
                yield data
        finally:
            os.close(fd)


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _plain(descriptor: Descriptor) -> dict[str, object]:
    return {name: value for name, value in msgspec.to_builtins(descriptor).items() if value is not None}
