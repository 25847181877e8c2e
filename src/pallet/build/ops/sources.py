"""Sources: images, clients' trees, downloads and checkouts, as what a graph begins with.

Owns   which source is brought here how.
Runs   on the loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pallet.build import graph
from pallet.build.job import Solved
from pallet.errors import InvalidParameterError
from pallet.image.moments import unix_seconds

if TYPE_CHECKING:
    from pallet.build.graph import Vertex
    from pallet.build.images import BuildImages
    from pallet.build.job import Job

_NANO = 1_000_000_000


class Sources:
    """Brings sources here."""

    def __init__(self, *, images: BuildImages) -> None:
        self._images = images

    async def bring(self, vertex: Vertex, job: Job) -> Solved:
        """Bring the source of a vertex here.

        Raises:
            PalletError: it cannot be had.
        """
        op = vertex.op
        if isinstance(op, graph.ImageSource):
            return self._image(op, job)
        if isinstance(op, graph.LocalSource):
            return await self._local(op, vertex, job)
        message = f"{type(op).__name__} cannot be a source here"
        raise InvalidParameterError(message)

    def _image(self, op: graph.ImageSource, job: Job) -> Solved:
        image = self._images.find(op.digest)
        for layer in image.diff_ids:
            job.lease.add_layer(layer)
        created = int(unix_seconds(image.created) * _NANO)
        return Solved(layers=image.diff_ids, created_ns=created, cached=True)

    async def _local(self, op: graph.LocalSource, vertex: Vertex, job: Job) -> Solved:
        """One transfer a build for each tree and filter, whoever asks."""
        task = job.trees.get(op)
        if task is None:
            task = job.trees[op] = asyncio.get_running_loop().create_task(
                job.client.tree(op, job.watch, job.digest(vertex)))
        return Solved(tree=await asyncio.shield(task))
