"""Layers in progress, shared between pulls.

Owns   the set of layers being brought in and the limits that span all pulls of a daemon.
Runs   on the event loop.
Needs  ``ContentStore``, ``Snapshotter`` and the ``Supervisor`` as ``WorkerRunner``.
Spec   Docker daemon option max-concurrent-downloads.

Two pulls that want one layer share the work and both see its progress; it is cancelled when the
last of them goes away.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.transfer.layer_job import LayerJob, LayerSource, LayerTools

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.image import Descriptor
    from pallet.storage.content import ContentStore
    from pallet.storage.snapshot import Snapshotter
    from pallet.transfer.layer_job import WorkerRunner
    from pallet.transfer.retry import RetryPolicy
    from pallet.transfer.threads import TransferThreads
    from pallet.types import DiffID

    Watcher = Callable[[ProgressMessage], None]


@dataclass(slots=True, kw_only=True, eq=False)
class _Work:
    """A layer in progress and the pulls that watch it."""

    task: asyncio.Task[None]
    watchers: list[Watcher] = field(default_factory=list)
    last: ProgressMessage | None = None

    def emit(self, message: ProgressMessage) -> None:
        self.last = message
        for watcher in list(self.watchers):
            watcher(message)


class LayerPool:
    """Brings layers in. One a daemon."""

    def __init__(
        self, content: ContentStore, snapshotter: Snapshotter, workers: WorkerRunner,
        threads: TransferThreads, *, max_downloads: int, retry: RetryPolicy,
        max_unpacks: int | None = None,
    ) -> None:
        """``max_unpacks`` None is one more than processors: the last layer then shares its time.

        Five equal layers on two processors end together after 2.5 layers' work; two at a time
        would leave the fifth alone on one processor.
        """
        self._tools = LayerTools(
            content=content, snapshotter=snapshotter, workers=workers, threads=threads, retry=retry,
            downloads=asyncio.Semaphore(max_downloads),
            unpacks=asyncio.Semaphore(max_unpacks or (os.cpu_count() or 1) + 1))
        self._works: dict[tuple[str, str], _Work] = {}

    def has(self, descriptor: Descriptor, diff_id: DiffID) -> bool:
        """Whether the layer is unpacked and its blob kept, so that there is nothing to do."""
        return (self._tools.snapshotter.has_layer(diff_id)
                and self._tools.content.has(descriptor.digest))

    async def obtain(self, source: LayerSource, watch: Watcher) -> None:
        """Make sure that the layer is committed and its blob kept.

        Joins work that is already going on. Being cancelled ends the work if nobody else wants it.

        Raises:
            PalletError: it could not be had; nothing is left of it.
            MissingLinkTargetError: as ``LayerJob.run``.
        """
        work = self._work(source)
        if work.last is not None:
            watch(work.last)
        work.watchers.append(watch)
        try:
            await asyncio.shield(work.task)
        except asyncio.CancelledError:
            if work.watchers == [watch] and not work.task.done():
                self._forget(source, work)
                await _end(work.task)
            raise
        finally:
            work.watchers.remove(watch)

    def _work(self, source: LayerSource) -> _Work:
        key = (source.descriptor.digest, source.diff_id)
        work = self._works.get(key)
        if work is None:
            job = LayerJob(self._tools, source)
            work = _Work(task=asyncio.ensure_future(job.run()))
            job.emit = work.emit
            self._works[key] = work
            started = work
            work.task.add_done_callback(lambda _task: self._forget(source, started))
        return work

    def _forget(self, source: LayerSource, work: _Work) -> None:
        key = (source.descriptor.digest, source.diff_id)
        if self._works.get(key) is work:
            del self._works[key]

    async def close(self) -> None:
        """Stop everything in progress and wait for it."""
        for work in list(self._works.values()):
            await _end(work.task)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
