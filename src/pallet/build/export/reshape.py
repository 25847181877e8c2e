"""Other layers than those that the steps made: squashed into one, or with times of SOURCE_DATE_EPOCH.

Owns   the new layers and the config that names them.
Runs   on the loop; zygote children write and unpack.
Spec   docker build ``--squash``; BuildKit's ``rewrite-timestamp``.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from pallet.aio import run_blocking
from pallet.build.export.trees import pipe_of
from pallet.build.exportworker import SquashRequest
from pallet.image.importer import Importer
from pallet.layer.diffworker import DiffReply
from pallet.spec import image as spec
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from pallet.build.ports import SolvedTarget
    from pallet.build.treeclient import WorkerRunner
    from pallet.image.importer import AddedLayer
    from pallet.image.lazyblobs import LazyBlobs
    from pallet.image.store import ImageStore
    from pallet.storage.leases import Lease
    from pallet.storage.snapshot import MadeLayer


class Reshaper:
    """Makes targets of other layers, for one build."""

    def __init__(self, images: ImageStore, workers: WorkerRunner, blobs: LazyBlobs, lease: Lease,
                 added: dict[DiffID, spec.Descriptor]) -> None:
        """``added`` is told the blobs of the layers that are made."""
        self._images = images
        self._workers = workers
        self._blobs = blobs
        self._lease = lease
        self._added = added
        self._importer = Importer(images, workers)
        self._rewritten: dict[DiffID, DiffID] = {}

    async def squashed(self, target: SolvedTarget, base: Sequence[str], epoch_s: int | None) -> SolvedTarget:
        """Put all layers above ``base`` into one."""
        if len(target.layers) - len(base) < 2:
            return target
        snapshotter = self._images.snapshotter
        root = await run_blocking(snapshotter.root_mount_of_layers, [DiffID(layer) for layer in target.layers])
        below = await run_blocking(snapshotter.root_mount_of_layers, [DiffID(layer) for layer in base])
        request = SquashRequest(root=root, base=below, epoch_s=epoch_s)

        async def run(write_fd: int) -> None:
            reply = await self._workers.run_worker("build.squash", request, [write_fd], reply_type=DiffReply)
            reply.result()

        layer = await self._add(pipe_of(run))
        config = spec.decode_config(target.config)
        kept = _history_of_layers(config.history or [], len(base))
        steps = [msgspec.structs.replace(step, empty_layer=True) for step in (config.history or [])[len(kept):]]
        merged = spec.History(created=config.created, comment=f"merge {target.layers[-1]} to "
                              f"{base[-1] if base else 'scratch'}")
        layers = (*base, layer)
        return replace(target, layers=layers, config=spec.encode(msgspec.structs.replace(
            config, rootfs=spec.RootFS(diff_ids=[DiffID(one) for one in layers]), history=[*kept, *steps, merged])))

    async def rewritten(self, target: SolvedTarget, epoch_s: int) -> SolvedTarget:
        """Let no file of the layers that were made here be younger than ``epoch_s``."""
        layers = [await self._with_epoch(DiffID(layer), epoch_s) for layer in target.layers]
        config = spec.decode_config(target.config)
        return replace(target, layers=tuple(layers), config=spec.encode(msgspec.structs.replace(
            config, rootfs=spec.RootFS(diff_ids=layers))))

    async def _with_epoch(self, layer: DiffID, epoch_s: int) -> DiffID:
        made = self._blobs.made(layer)
        if made is None:
            return layer
        if layer not in self._rewritten:
            self._rewritten[layer] = await self._add(self._clamped(made, epoch_s))
        return self._rewritten[layer]

    async def _clamped(self, made: MadeLayer, epoch_s: int) -> AsyncGenerator[bytes, None]:
        async def run(write_fd: int) -> None:
            await self._blobs.write(made, write_fd, epoch_s=epoch_s)

        async with aclosing(pipe_of(run)) as tar:
            async for data in tar:
                yield data

    async def _add(self, tar: AsyncIterator[bytes]) -> DiffID:
        """Bring a layer's tar in; the build's lease keeps it."""
        def record(lease: Lease, added: AddedLayer) -> DiffID:
            del lease
            self._lease.add_blob(added.descriptor.digest)
            self._added[added.applied.diff_id] = added.descriptor
            self._lease.add_layer(added.applied.diff_id)
            return added.applied.diff_id

        return await self._importer.add_layer(tar, record)


def _history_of_layers(history: Sequence[spec.History], count: int) -> list[spec.History]:
    """The entries that the first ``count`` layers belong to."""
    found: list[spec.History] = []
    left = count
    for entry in history:
        if not left and not entry.empty_layer:
            break
        found.append(entry)
        left -= 0 if entry.empty_layer else 1
        if not left:
            break
    return found

