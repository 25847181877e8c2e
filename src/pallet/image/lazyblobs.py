"""Blobs of layers that builds made: written from the layers' trees once somebody wants to send them.

Owns   the moment when they are made. A build commits a layer as it lies; its manifest names the plain tar,
       whose digest and size are known, and whose bytes the tree gives again at any time.
Runs   on the loop; zygote children write, worker threads hash.
Needs  trees that are as ``layer.seal`` left them: a damaged one fails by its digest.
Spec   docs/adr/0012-layers-without-blobs.md.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from pallet.aio import held, run_blocking
from pallet.errors import DataLossError, NotFoundError, PalletError
from pallet.layer.seal import SealReply, TarRequest
from pallet.storage.content import Ingest
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pallet.image.importer import WorkerRunner
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.storage.leases import Lease
    from pallet.storage.snapshot import MadeLayer
    from pallet.types import Digest


class LazyBlobs:
    """Makes blobs of made layers."""

    def __init__(self, images: ImageStore, workers: WorkerRunner) -> None:
        self._images = images
        self._workers = workers
        self._making: dict[Digest, asyncio.Lock] = {}

    async def of_images(self, images: Iterable[Image], lease: Lease) -> None:
        """Make every blob that the images' manifests name and that is not here, if it can be made.

        Raises:
            DataLossError: a layer's tree is not what it was.
        """
        for image in images:
            with suppress(NotFoundError, DataLossError):
                _, manifest = self._images.manifest(image.id)
                wanted = [layer.digest for layer in manifest.layers if not self._images.content.has(layer.digest)]
                for digest in wanted:
                    await self.ensure(digest, lease)

    async def ensure(self, digest: Digest, lease: Lease) -> bool:
        """Make one blob, named by a DiffID; whether it is here afterwards.

        Raises:
            DataLossError: the layer's tree is not what it was.
        """
        lease.add_blob(digest)
        try:
            async with self._making.setdefault(digest, asyncio.Lock()):
                return await self._make(digest)
        finally:
            self._making.pop(digest, None)

    async def _make(self, digest: Digest) -> bool:
        content = self._images.content
        if content.has(digest):
            return True
        made = self.made(DiffID(digest))
        if made is None:
            return False
        async with held(partial(content.ingest, digest), Ingest.abort) as ingest:
            await self._write(made, ingest.fileno())
            await run_blocking(_take_in, ingest, made.tar_bytes)
        return True

    def made(self, diff_id: DiffID) -> MadeLayer | None:
        """How a layer's tar is written; None for a layer that came with a blob, or is not here."""
        try:
            return self._images.snapshotter.made_here(diff_id)
        except NotFoundError:
            return None

    async def digest(self, made: MadeLayer) -> str:
        """DiffID that a layer's tree gives now."""
        fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return await self._write(made, fd)
        finally:
            os.close(fd)

    async def write(self, made: MadeLayer, fd: int, *, epoch_s: int | None = None) -> str:
        """Write a layer's tar into a descriptor; return its digest. ``epoch_s`` clamps its times."""
        return await self._write(made, fd, epoch_s)

    async def _write(self, made: MadeLayer, fd: int, epoch_s: int | None = None) -> str:
        reply = await self._workers.run_worker(
            "layer.tar", TarRequest(tree=made.tree, root_entry=made.root_entry, epoch_s=epoch_s), [fd],
            reply_type=SealReply)
        return reply.result().diff_id


def _take_in(ingest: Ingest, size_bytes: int) -> None:
    """Hash and publish what a worker wrote into the ingest's file.

    Raises:
        DataLossError: it is another tar than the layer's.
    """
    try:
        ingest.adopt(size_bytes)
        ingest.commit()
    except PalletError as error:
        message = f"a layer of a build is damaged: {error}"
        raise DataLossError(message) from error
