"""Images out of OCI layouts that the client serves.

Owns   the way from a layout's blobs to an image of the store: one without a name.
Runs   on the loop; disk work in threads, unpacking in zygote children.
Spec   image-spec image-layout.md; BuildKit's ``oci-layout://`` contexts.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from pallet.aio import held, run_blocking
from pallet.errors import DataLossError
from pallet.layer.model import MissingLinkTargetError
from pallet.layer.worker import ApplyReply, ApplyRequest
from pallet.spec import image as spec
from pallet.storage.content import Ingest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.build.job import Job
    from pallet.image.importer import WorkerRunner
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.image import Descriptor
    from pallet.types import DiffID, Digest

_MAX_DOCUMENT_BYTES = 8 << 20


class Layouts:
    """Brings images in from clients' layouts."""

    def __init__(self, *, images: ImageStore, workers: WorkerRunner) -> None:
        self._images = images
        self._workers = workers

    async def bring(self, store: str, digest: Digest, job: Job, tell: Callable[[int, int], None]) -> Image:
        """Bring one platform's image here.

        Args:
            store: the layout's name at the client.
            digest: of its manifest.
            tell: called with bytes done and the total.

        Raises:
            NotFoundError: the client has no such blob.
            DataLossError: what it sends is not what it should be.
        """
        content = self._images.content
        await self._blob(store, digest, job, limit_bytes=_MAX_DOCUMENT_BYTES)
        manifest = spec.decode_manifest(await run_blocking(content.read, digest))
        await self._blob(store, manifest.config.digest, job, limit_bytes=_MAX_DOCUMENT_BYTES)
        config = spec.decode_config(await run_blocking(content.read, manifest.config.digest))
        layers = list(config.rootfs.diff_ids)
        if len(layers) != len(manifest.layers):
            message = "layers from manifest don't match image configuration"
            raise DataLossError(message)
        done, total = 0, sum(layer.size for layer in manifest.layers)
        for index, blob in enumerate(manifest.layers):
            await self._blob(store, blob.digest, job)
            job.lease.add_layer(layers[index])
            if not self._images.snapshotter.has_layer(layers[index]):
                await self._unpack(layers, index, blob)
            done += blob.size
            tell(done, total)
        tell(total, total)
        return await run_blocking(partial(self._images.put, manifest.config.digest, manifest_digest=digest))

    async def _blob(self, store: str, digest: Digest, job: Job, *, limit_bytes: int = 0) -> None:
        content = self._images.content
        job.lease.add_blob(digest)
        if content.has(digest):
            return
        async with held(partial(content.ingest, digest), Ingest.abort) as ingest:
            async for piece in await job.client.blob(f"oci:{store}", digest):
                if limit_bytes and ingest.size + len(piece) > limit_bytes:
                    message = f"document {digest} is larger than {limit_bytes} bytes"
                    raise DataLossError(message)
                await run_blocking(ingest.write, piece)
            await run_blocking(ingest.commit)

    async def _unpack(self, layers: Sequence[DiffID], index: int, blob: Descriptor) -> None:
        try:
            await self._apply(layers[index], blob, [])
        except MissingLinkTargetError:
            below = await run_blocking(self._images.snapshotter.root_mount_of_layers, layers[:index])
            await self._apply(layers[index], blob, [os.path.join(below.base_dir, name) for name in below.lower])

    async def _apply(self, layer: DiffID, blob: Descriptor, lower_dirs: list[str]) -> None:
        snapshotter = self._images.snapshotter
        async with (held(snapshotter.draft, snapshotter.abort) as draft,
                    held(partial(self._images.content.open, blob.digest), os.close) as fd):
            applied = (await self._workers.run_worker(
                "layer.apply", ApplyRequest(target=draft.path, lower_dirs=lower_dirs), [fd],
                reply_type=ApplyReply)).result()
            if applied.diff_id != layer:
                message = f"layer {blob.digest} comes to {applied.diff_id}, its image says {layer}"
                raise DataLossError(message)
            await run_blocking(partial(snapshotter.commit_layer, draft, layer, applied.size_bytes,
                                       implied_dirs=applied.implied_dirs, opaque_root=applied.opaque_root))
