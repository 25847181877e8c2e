"""What an image's layers do to its files: indexes of layers, kept, and their stack.

Owns   ``<data-root>/indexes``: one file a layer, made when it is first asked for.
Runs   on the event loop; the work in zygote children, so that the daemon holds no file list.
Needs  the layers' blobs.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.image.lazyblobs import LazyBlobs
from pallet.layer.explore import ExploreReply, ExploreRequest
from pallet.layer.index import IndexReply, IndexRequest
from pallet.spec import digest as digests
from pallet.spec.own.explore import Exploration, LayerFacts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from io import BufferedRandom
    from pathlib import Path

    from pallet.image.importer import WorkerRunner
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.paths import DataPaths
    from pallet.spec.engine.options import Stream
    from pallet.types import DiffID, Digest

_CHUNK_BYTES = 1 << 16


class Explorer:
    """Explores images."""

    def __init__(self, *, images: ImageStore, paths: DataPaths, workers: WorkerRunner) -> None:
        self._images = images
        self._directory = paths.indexes
        self._workers = workers
        self._blobs = LazyBlobs(images, workers)
        self._hidden: dict[str, int] = {}

    def hidden_bytes(self, image: Image) -> int | None:
        """Bytes that later layers hide; None until the image was explored."""
        if len(image.diff_ids) < 2:
            return 0
        return self._hidden.get(image.id)

    async def explore(self, image: Image, *, entries: bool) -> Stream[bytes]:
        """Return the JSON of an ``Exploration`` in chunks.

        Raises:
            DataLossError: a layer's blob is missing or damaged.
        """
        _, manifest = self._images.manifest(image.id)
        blobs = [layer.digest for layer in manifest.layers]
        with self._images.lease() as lease:
            for blob in blobs:
                lease.add_blob(blob)
            for diff_id, blob in zip(image.diff_ids, blobs, strict=True):
                if not self._path(diff_id).exists() and not self._images.content.has(blob):
                    await self._blobs.ensure(blob, lease)
                await self._index(diff_id, blob)
        frame = self._frame(image, [(layer.digest, layer.size) for layer in manifest.layers])
        out = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the iterator
        try:
            fds = [os.open(self._path(layer), os.O_RDONLY | os.O_CLOEXEC) for layer in image.diff_ids]
            try:
                reply = await self._workers.run_worker(
                    "layer.explore", ExploreRequest(frame=frame, entries=entries), [out.fileno(), *fds],
                    reply_type=ExploreReply)
            finally:
                for fd in fds:
                    os.close(fd)
            self._hidden[image.id] = reply.result()
        except BaseException:
            out.close()
            raise
        return _read(out)

    def _frame(self, image: Image, blobs: list[tuple[Digest, int]]) -> Exploration:
        steps = [step.created_by for step in image.config.history or () if not step.empty_layer]
        steps += [""] * (len(image.diff_ids) - len(steps))
        snapshotter = self._images.snapshotter
        return Exploration(
            id=image.id, repo_tags=list(image.repo_tags), size=image.size_bytes,
            layers=[LayerFacts(diff_id=diff_id, blob=blob, blob_size=size, created_by=step,
                               size=snapshotter.layer_size(diff_id) if snapshotter.has_layer(diff_id) else 0)
                    for diff_id, (blob, size), step in zip(image.diff_ids, blobs, steps, strict=False)])

    def _path(self, diff_id: DiffID) -> Path:
        return self._directory / digests.encoded(diff_id)

    async def _index(self, diff_id: DiffID, blob: Digest) -> None:
        target = self._path(diff_id)
        if target.exists():
            return
        await run_blocking(self._sweep)
        draft = tempfile.NamedTemporaryFile(dir=self._directory, prefix=".", delete=False)  # noqa: SIM115
        try:
            with draft:
                fd = self._images.content.open(blob)
                try:
                    reply = await self._workers.run_worker(
                        "layer.index", IndexRequest(), [fd, draft.fileno()], reply_type=IndexReply)
                finally:
                    os.close(fd)
            reply.result()
            os.rename(draft.name, target)
        except BaseException:
            os.unlink(draft.name)
            raise

    def _sweep(self) -> None:
        """Drop indexes of layers that are gone."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        known = {digests.encoded(layer) for layer in self._images.snapshotter.layers()}
        for name in os.listdir(self._directory):
            if name not in known and not name.startswith("."):
                os.unlink(self._directory / name)

    def sweep(self) -> None:
        """Drop what an earlier daemon left half made, and indexes of layers that are gone."""
        self._sweep()
        for name in os.listdir(self._directory):
            if name.startswith("."):
                os.unlink(self._directory / name)


async def _read(out: BufferedRandom) -> AsyncGenerator[bytes, None]:
    try:
        out.seek(0)
        while chunk := await run_blocking(partial(out.read, _CHUNK_BYTES)):
            yield chunk
    finally:
        out.close()
