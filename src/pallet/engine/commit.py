"""``docker commit``: pause, read the changes, go on, record the image. Engine API ImageCommit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING

from pallet.engine import merge
from pallet.engine.imageconfig import container_config, run_config
from pallet.engine.oci import cgroups_path
from pallet.engine.status import Status
from pallet.engine.trees import check_readable, readable
from pallet.errors import SystemFailureError
from pallet.image.changes import apply_changes
from pallet.image.committer import CommitPlan, Committer
from pallet.spec import reference as references
from pallet.zygote.freeze import FreezeReply, FreezeRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pallet.config import Config
    from pallet.engine.container import Container
    from pallet.engine.events import EventSink
    from pallet.engine.store import ContainerStore
    from pallet.engine.trees import ContainerTrees
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.engine.options import CommitOptions
    from pallet.spec.image import RunConfig
    from pallet.supervisor.client import Supervisor

logger = logging.getLogger(__name__)


class Commits:
    """Makes images of containers."""

    def __init__(
        self, *, config: Config, store: ContainerStore, images: ImageStore, supervisor: Supervisor,
        trees: ContainerTrees, events: EventSink,
    ) -> None:
        self._config = config
        self._store = store
        self._images = images
        self._supervisor = supervisor
        self._trees = trees
        self._events = events
        self._committer = Committer(images, supervisor)

    async def commit(self, options: CommitOptions) -> str:
        """See ``TreeBackend.commit``."""
        container = self._store.index.get(options.container)
        check_readable(container, "commit")
        plan = self._plan(container, options)
        paused = options.pause and container.status is Status.RUNNING
        stream = None
        try:
            async with self._paused(container) if paused else contextlib.nullcontext():
                stream = await self._trees.layer(container, options.epoch_s)
                image = await self._committer.run(stream, plan)
                self._announce(container, image, plan)
        finally:
            if stream is not None:
                await stream.aclose()
        return image.id

    def _plan(self, container: Container, options: CommitOptions) -> CommitPlan:
        reference = None
        if options.repository:
            reference = references.parse_repository_tag(
                options.repository, options.tag).with_default_tag()
        own = container.config
        given = options.config or own
        changed = container_config(apply_changes(run_config(given), options.changes))
        return CommitPlan(
            base=self._images.get(container.image_id), config=run_config(merge.merge(changed, own)),
            created_by=" ".join(own.cmd or ()), author=options.author, comment=options.comment,
            container_id=container.id if options.epoch_s is None else "", epoch_s=options.epoch_s,
            reference=reference)

    def _announce(self, container: Container, image: Image, plan: CommitPlan) -> None:
        name = ""
        if plan.reference is not None:
            name = plan.reference.familiar()
            labels = _labels(plan.config)
            self._events.emit("image", "tag", image.id, {**labels, "name": name})
        self._store.emit(container, "commit", comment=plan.comment, imageID=image.id, imageRef=name)

    @contextlib.asynccontextmanager
    async def _paused(self, container: Container) -> AsyncIterator[None]:
        """Keep the container's processes from running for the time of the block.

        A child of the zygote holds the freezer and lets go when the pipe's end here is closed,
        whatever closes it.
        """
        hold_read, hold_write = os.pipe2(os.O_CLOEXEC)
        state_read, state_write = os.pipe2(os.O_CLOEXEC)
        request = FreezeRequest(cgroups_path=cgroups_path(container, self._config),
                                driver=self._config.cgroup_driver)
        worker = asyncio.get_running_loop().create_task(self._supervisor.run_worker(
            "container.freeze", request, [hold_read, state_write], reply_type=FreezeReply))
        state = asyncio.get_running_loop().create_task(_first_read(state_read))
        try:
            await asyncio.wait({worker, state}, return_when=asyncio.FIRST_COMPLETED)
            problem = _problem(state, worker)
            if problem:
                msg = f"Cannot pause container {container.id}: {problem}"
                raise SystemFailureError(msg)
            self._store.emit(container, "pause")
            yield
        finally:
            os.close(hold_write)
            state.cancel()
            try:
                await asyncio.shield(asyncio.wait({worker, state}))
            finally:
                for fd in (hold_read, state_read, state_write):
                    os.close(fd)
        self._store.emit(container, "unpause")


async def _first_read(fd: int) -> bytes:
    os.set_blocking(fd, False)
    await readable(fd)
    return os.read(fd, 4096)


def _problem(state: asyncio.Task[bytes], worker: asyncio.Task[FreezeReply]) -> str:
    """Why the freeze did not come about; "" if it did."""
    if state.done():
        told = state.result()
        return "" if told == b"f" else told.decode(errors="replace") or "the freezer gave up"
    error = worker.exception()
    return str(error) if error is not None else "the freezer gave up"


def _labels(config: RunConfig) -> dict[str, str]:
    return dict(config.labels or {})
