"""Caches from elsewhere: what they have for a key, brought here when a build asks for it.

Owns   the way from a layer's blob back to the layer that a step made: unpacked, sealed, compared.
Runs   on the loop; transfers in threads, unpacking in zygote children.
Spec   BuildKit's ``--cache-from``: ``type=registry``, ``type=local``; a cache that is not there is no error.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from functools import partial
from typing import TYPE_CHECKING, Protocol

from pallet.aio import held, run_blocking
from pallet.build.credentials import login
from pallet.build.ops.layers import new_key
from pallet.build.remotecache import document
from pallet.build.remotecache.document import MEDIA_TYPE, Imported
from pallet.errors import DataLossError, InvalidParameterError, NotFoundError
from pallet.layer.seal import SealReply, SealRequest
from pallet.layer.worker import ApplyReply, ApplyRequest
from pallet.spec import image as spec
from pallet.spec import reference as references
from pallet.storage.content import Ingest
from pallet.types import DiffID, Digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pallet.build.job import Job
    from pallet.build.remotecache.document import Entry
    from pallet.build.request import CacheLink
    from pallet.image.importer import WorkerRunner
    from pallet.image.store import ImageStore
    from pallet.spec.image import Descriptor, StoredManifest
    from pallet.spec.reference import Reference
    from pallet.transfer.auth import LoginCredentials

_MAX_DOCUMENT_BYTES = 32 << 20
TAG = "org.opencontainers.image.ref.name"


class Registries(Protocol):
    """``transfer.artifacts.Artifacts``."""

    async def manifest(self, reference: Reference, credentials: LoginCredentials) -> StoredManifest:
        """Return what a tag or digest names."""
        ...

    async def fetch(self, reference: Reference, blob: Descriptor, credentials: LoginCredentials) -> None:
        """Bring a blob into the content store."""
        ...

    async def push(self, reference: Reference, document: StoredManifest, blobs: Sequence[Descriptor],
                   credentials: LoginCredentials) -> None:
        """Send blobs and the manifest that names them."""
        ...


class RemoteCache:
    """One cache elsewhere, for one build."""

    def __init__(self, imported: Imported, fetch: Callable[[Descriptor], Awaitable[None]]) -> None:
        self._imported = imported
        self.fetch = fetch

    def find(self, key: str) -> Entry | None:
        """What a key leads to."""
        return self._imported.entries.get(key)

    def blob(self, layer: str) -> Descriptor | None:
        """The blob of a layer, by its DiffID."""
        return self._imported.blobs.get(layer)

    def mount(self, name: str) -> Descriptor | None:
        """What a cache mount held."""
        return self._imported.mounts.get(name)

    def without_mounts(self) -> RemoteCache:
        """The same, for a build that wants no cache mounts of it."""
        return RemoteCache(dataclasses.replace(self._imported, mounts={}), self.fetch)


class CacheImporter:
    """Reads caches."""

    def __init__(self, *, images: ImageStore, workers: WorkerRunner, registries: Registries) -> None:
        self._images = images
        self._workers = workers
        self._registries = registries
        self._bringing: dict[str, asyncio.Lock] = {}

    async def open(self, link: CacheLink, job: Job) -> RemoteCache | None:
        """Read what a cache has; None where there is none.

        Raises:
            InvalidParameterError: the link lacks something, or is of an unknown kind.
        """
        if link.kind == "registry":
            return await self._registry(link.attributes, job)
        if link.kind == "local":
            return await self._local(link.attributes, job)
        message = f"unknown cache importer: {link.kind}"
        raise InvalidParameterError(message)

    async def _registry(self, attributes: Mapping[str, str], job: Job) -> RemoteCache | None:
        if not attributes.get("ref"):
            message = "ref is required for cache import"
            raise InvalidParameterError(message)
        reference = references.parse_normalized(attributes["ref"]).with_default_tag()
        credentials = await login(job.client, reference)

        async def fetch(blob: Descriptor) -> None:
            job.lease.add_blob(blob.digest)
            await self._registries.fetch(reference, blob, credentials)

        stored = await self._registries.manifest(reference, credentials)
        if stored.is_index:
            # Of an image for several platforms, or a cache in the form of a list.
            listed = [entry for entry in stored.index().manifests if not entry.is_attestation]
            config = next((entry for entry in listed if entry.media_type == MEDIA_TYPE), None)
            if config is not None:
                return await self._of(config, [entry for entry in listed if entry is not config], fetch)
            if not listed:
                return None
            stored = await self._registries.manifest(
                reference.repository().with_digest(listed[0].digest), credentials)
        manifest = stored.manifest()
        return await self._of(manifest.config, manifest.layers, fetch)

    async def _local(self, attributes: Mapping[str, str], job: Job) -> RemoteCache | None:
        store = f"local:{attributes.get('src', '')}"
        if not attributes.get("src"):
            message = "local cache importer requires src"
            raise InvalidParameterError(message)

        async def fetch(blob: Descriptor) -> None:
            content = self._images.content
            job.lease.add_blob(blob.digest)
            if content.has(blob.digest):
                return
            async with held(partial(content.ingest, blob.digest), Ingest.abort) as ingest:
                async for piece in await job.client.blob(store, blob.digest):
                    await run_blocking(ingest.write, piece)
                await run_blocking(ingest.commit)

        digest = Digest(attributes.get("digest", "") or await self._listed(store, attributes, job))
        if not digest:
            return None
        await fetch(spec.Descriptor(media_type="", digest=digest, size=0))
        raw = await run_blocking(self._images.content.read, digest)
        if spec.sniff_media_type(raw) in spec.INDEX_TYPES:
            listed = spec.decode_index(raw).manifests
            config = next((entry for entry in listed if entry.media_type == MEDIA_TYPE), None)
            return await self._of(config, [entry for entry in listed if entry is not config], fetch)
        manifest = spec.decode_manifest(raw)
        return await self._of(manifest.config, manifest.layers, fetch)

    async def _listed(self, store: str, attributes: Mapping[str, str], job: Job) -> str:
        """Digest that the layout's index has for a tag; "" for none. Clients of BuildKit look themselves."""
        try:
            raw = b"".join([piece async for piece in await job.client.blob(store, "index.json")])
        except NotFoundError:
            return ""
        tag = attributes.get("tag", "latest")
        entries = spec.decode_index(raw).manifests
        return next((str(entry.digest) for entry in entries if (entry.annotations or {}).get(TAG) == tag), "")

    async def _of(self, config: Descriptor | None, layers: Sequence[Descriptor],
                  fetch: Callable[[Descriptor], Awaitable[None]]) -> RemoteCache | None:
        if config is None or config.size > _MAX_DOCUMENT_BYTES:
            return None
        await fetch(config)
        raw = await run_blocking(self._images.content.read, config.digest)
        if config.media_type == MEDIA_TYPE:
            return RemoteCache(document.decode(raw, layers), fetch)
        found = document.inlined(raw)
        if found is None:
            return None
        imported = document.decode(found, ())
        imported.blobs = dict(zip(map(str, spec.decode_config(raw).rootfs.diff_ids), layers, strict=False))
        return RemoteCache(imported, fetch)

    async def bring(self, cache: RemoteCache, entry: Entry, job: Job) -> int | None:
        """Bring all layers of an entry here; the size of the topmost, None where the cache lacks one.

        Raises:
            PalletError: a transfer failed.
        """
        snapshotter = self._images.snapshotter
        if snapshotter.copies:
            return None  # the layer would need the very tar that its maker saw, kept beside it
        for layer in map(DiffID, entry.layers):
            job.lease.add_layer(layer)
            if snapshotter.has_layer(layer):
                continue
            blob = cache.blob(layer)
            if blob is None:
                return None
            async with self._bringing.setdefault(layer, asyncio.Lock()):
                if not snapshotter.has_layer(layer):
                    await cache.fetch(blob)
                    await self._unpack(layer, blob)
            self._bringing.pop(layer, None)
        return snapshotter.layer_size(DiffID(entry.layers[-1])) if entry.layers else 0

    async def _unpack(self, layer: DiffID, blob: Descriptor) -> None:
        """Make the layer of its blob, as a step would have left it."""
        snapshotter, content = self._images.snapshotter, self._images.content
        key = new_key()
        await run_blocking(snapshotter.prepare, key, ())
        try:
            root = snapshotter.root_mount(key)
            fd = await run_blocking(content.open, blob.digest)
            try:
                (await self._workers.run_worker("layer.apply", ApplyRequest(
                    target=os.path.join(root.base_dir, root.upper or "")), [fd], reply_type=ApplyReply)).result()
            finally:
                os.close(fd)
            sealed = (await self._workers.run_worker(
                "layer.seal", SealRequest(root=root, unpacked=True), reply_type=SealReply)).result()
            if sealed.diff_id != layer:
                message = f"layer {layer} of a build cache comes to {sealed.diff_id}"
                raise DataLossError(message)
            await run_blocking(partial(snapshotter.commit_snapshot, key, layer, sealed.size_bytes,
                                       tar_bytes=sealed.tar_bytes, root_entry=sealed.root_entry))
        finally:
            await asyncio.shield(run_blocking(snapshotter.remove, key))


