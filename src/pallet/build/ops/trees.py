"""Trees of this host on their way between layers and directories.

Owns   the layer that a client's tree becomes where a step has it mounted, and copies into directories.
Runs   on the loop; copies in zygote children.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pallet.build.cachekey import Use, combine
from pallet.build.cachestore import CacheRecord
from pallet.build.job import Solved
from pallet.build.ops.fileworker import FileAction, FilesReply, FilesRequest, Input
from pallet.spec.mounts import RootMount
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pallet.build.cachestore import CacheStore
    from pallet.build.job import Job
    from pallet.build.ops.contents import Contents
    from pallet.build.ops.layers import Layers
    from pallet.build.ports import ContextTree
    from pallet.image.importer import WorkerRunner


class Trees:
    """Copies trees."""

    def __init__(self, *, cache: CacheStore, contents: Contents, layers: Layers, workers: WorkerRunner) -> None:
        self._cache = cache
        self._contents = contents
        self._layers = layers
        self._workers = workers
        self._making = asyncio.Lock()

    async def input(self, layers: Sequence[str]) -> Input:
        """Layers as a worker reads them."""
        return await self._layers.input(layers)

    async def copy(self, given: Input, path: str, target: str) -> None:
        """Copy what is in directory ``path`` of a tree into an empty directory of this host."""
        parent, _, name = target.rpartition("/")
        reply = await self._workers.run_worker("build.files", FilesRequest(
            root=RootMount(base_dir=parent, lower=["empty"], upper=name), inputs=[given], seal=False,
            actions=[FileAction(kind="copy", path="/", paths=[path], wildcards=False, keep_owner=True)]),
            reply_type=FilesReply)
        reply.check()

    @asynccontextmanager
    async def layered(self, tree: ContextTree, job: Job) -> AsyncIterator[Solved]:
        """A client's tree as a layer, made once for the same content; held for the job."""
        solved = Solved(tree=tree)
        key = combine("tree", [await self._contents.digest(solved, Use(0, None), job)])
        async with self._making:
            record = self._cache.find(key)
            if record is None:
                record = await self._make(tree, key, job)
        self._cache.hold(record.id)
        try:
            for layer in record.layers:
                job.lease.add_layer(DiffID(layer))
            self._cache.touch(record)
            yield Solved(layers=tuple(DiffID(layer) for layer in record.layers), record=record.id)
        finally:
            self._cache.release(record.id)

    async def _make(self, tree: ContextTree, key: str, job: Job) -> CacheRecord:
        key, root = await self._layers.prepare()
        try:
            reply = await self._workers.run_worker("build.files", FilesRequest(
                root=root, inputs=[Input(path=tree.root)], seal=self._layers.seals,
                actions=[FileAction(kind="copy", path="/", paths=["/"], wildcards=False, keep_owner=True)]),
                reply_type=FilesReply)
            made = await self._layers.commit(key, (), job.lease, sealed=reply.check().sealed)
        finally:
            await self._layers.remove(key)
        return self._cache.put(CacheRecord(
            id="", kind="source.local", description="local source for context", layers=(made.diff_id,), own=1,
            size_bytes=made.size_bytes), [key])
