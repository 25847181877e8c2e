"""``api.backends.ContainerBackend``: one line a call, each handed to the part that does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.aio import run_blocking, shielded
from pallet.engine import listing, names, view, wait
from pallet.engine.start import check_startable
from pallet.engine.status import Status
from pallet.errors import ConflictError, InvalidParameterError, NotFoundError, PalletError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.engine.attach import Attacher
    from pallet.engine.container import Container
    from pallet.engine.containerlogs import LogReader
    from pallet.engine.create import Creator
    from pallet.engine.files import ContainerFiles
    from pallet.engine.remove import Remover
    from pallet.engine.start import Starter
    from pallet.engine.stop import Stopper
    from pallet.engine.store import ContainerStore
    from pallet.engine.tasks import Tasks
    from pallet.image.store import ImageStore
    from pallet.network.controller import NetworkController
    from pallet.spec.engine.container import (
        ContainerCreateResponse,
        ContainerInspect,
        ContainerSummary,
    )
    from pallet.spec.engine.options import (
        AttachOptions,
        CreateOptions,
        ListOptions,
        LogsOptions,
        LogStream,
        OpenStream,
        WaitCondition,
    )
    from pallet.storage.snapshot import Snapshotter


class Containers:
    """The container half of the Engine API."""

    def __init__(
        self, *, store: ContainerStore, images: ImageStore, snapshotter: Snapshotter, files: ContainerFiles,
        network: NetworkController, creator: Creator, starter: Starter, stopper: Stopper, remover: Remover,
        attacher: Attacher, logs: LogReader, tasks: Tasks,
    ) -> None:
        self._store = store
        self._index = store.index
        self._images = images
        self._snapshotter = snapshotter
        self._files = files
        self._network = network
        self._creator = creator
        self._starter = starter
        self._stopper = stopper
        self._remover = remover
        self._attacher = attacher
        self._logs = logs
        self._tasks = tasks

    async def create(self, options: CreateOptions) -> ContainerCreateResponse:
        """See ``ContainerBackend.create``."""
        return await shielded(self._creator.create(options))

    async def list(self, options: ListOptions) -> Sequence[ContainerSummary]:
        """See ``ContainerBackend.list``."""
        found = listing.select(self._index, options, self._descendants)
        names: dict[tuple[str, str], str] = {}  # many containers, few images
        for c in found:
            key = (c.image_ref, c.image_id)
            if key not in names:
                names[key] = self._image_name(c)
        return [view.summary(c, await self._sizes(c) if options.size else None, names[c.image_ref, c.image_id])
                for c in found]

    def _descendants(self, name: str) -> set[str]:
        """Ids of image ``name`` and of every image whose layers start with its layers."""
        try:
            base = self._images.resolve(name)
        except (NotFoundError, InvalidParameterError):
            return set()
        depth = len(base.diff_ids)
        return {image.id for image in self._images.list() if image.diff_ids[:depth] == base.diff_ids}

    def _image_name(self, container: Container) -> str:
        """The reference it was made from, or the id once that names another image."""
        try:
            current = self._images.resolve(container.image_ref)
        except (NotFoundError, InvalidParameterError):
            return container.image_id
        return container.image_ref if current.id == container.image_id else container.image_id

    async def _sizes(self, container: Container) -> tuple[int, int]:
        own = await run_blocking(self._snapshotter.usage, container.id)
        return own, own + sum(self._snapshotter.layer_size(layer) for layer in container.layers)

    async def inspect(self, name_or_id: str, *, size: bool) -> ContainerInspect:
        """See ``ContainerBackend.inspect``."""
        container = self._index.get(name_or_id)
        root = self._snapshotter.root_mount(container.id) if self._snapshotter.has(container.id) else None
        return view.inspect(container, self._files, root, await self._sizes(container) if size else None)

    async def start(self, name_or_id: str) -> None:
        """See ``ContainerBackend.start``."""
        await shielded(self._start(self._index.get(name_or_id)))

    async def _start(self, container: Container) -> None:
        async with container.lock:
            check_startable(container)
            container.stopped_by_hand = False
            container.restart_count = 0
            container.restart_delay_s = 0.0
            try:
                await self._starter.start(container)
            except PalletError:
                self._remove_unstarted(container)
                raise

    def _remove_unstarted(self, container: Container) -> None:
        """AutoRemove also counts for a start that failed."""
        if container.host_config.auto_remove and container.status in {Status.CREATED, Status.EXITED}:
            self._tasks.spawn(self._remover.remove_after_exit(container), f"removal of {container.id[:12]}")

    async def stop(self, name_or_id: str, *, signal: str | None, timeout_s: int | None) -> None:
        """See ``ContainerBackend.stop``."""
        await shielded(self._stopper.stop(self._index.get(name_or_id), signal=signal, timeout_s=timeout_s))

    async def restart(self, name_or_id: str, *, signal: str | None, timeout_s: int | None) -> None:
        """See ``ContainerBackend.restart``."""
        await shielded(self._restart(self._index.get(name_or_id), signal, timeout_s))

    async def _restart(self, container: Container, signal: str | None, timeout_s: int | None) -> None:
        try:
            await self._stopper.restart(container, signal=signal, timeout_s=timeout_s)
        except PalletError:
            self._remove_unstarted(container)
            raise

    async def kill(self, name_or_id: str, *, signal: str) -> None:
        """See ``ContainerBackend.kill``."""
        await shielded(self._stopper.kill(self._index.get(name_or_id), signal=signal))

    async def rename(self, name_or_id: str, *, new_name: str) -> None:
        """See ``ContainerBackend.rename``."""
        container = self._index.get(name_or_id)
        if not new_name:
            msg = "Neither old nor new names may be empty"
            raise InvalidParameterError(msg)
        new = names.check(new_name)
        async with container.lock:
            old = container.name
            if container.removed:
                msg = f"No such container: {name_or_id}"
                raise NotFoundError(msg)
            if new == old:
                msg = "Renaming a container with the same name as its current name"
                raise InvalidParameterError(msg)
            self._index.reserve_name(new, container.id)
            container.name = new
            try:
                self._store.save(container)
            except BaseException:
                container.name = old
                self._index.release_name(new)
                raise
            self._index.release_name(old)
            self._network.rename(container.id, new)
        self._store.emit(container, "rename", oldName=f"/{old}")

    async def remove(self, name_or_id: str, *, force: bool, volumes: bool, link: bool) -> None:
        """See ``ContainerBackend.remove``."""
        container = self._index.get(name_or_id)
        if link:
            msg = "Conflict, cannot remove the default link name of the container"
            raise ConflictError(msg)
        await shielded(self._remover.remove(container, force=force, volumes=volumes))

    async def subscribe_wait(self, name_or_id: str, *, condition: WaitCondition) -> wait.Wait:
        """See ``ContainerBackend.subscribe_wait``."""
        return wait.subscribe(self._index.get(name_or_id), condition)

    async def attach(self, name_or_id: str, options: AttachOptions, open_stream: OpenStream) -> None:
        """See ``ContainerBackend.attach``."""
        await self._attacher.attach(self._index.get(name_or_id), options, open_stream)

    async def logs(self, name_or_id: str, options: LogsOptions) -> LogStream:
        """See ``ContainerBackend.logs``."""
        return self._logs.open(self._index.get(name_or_id), options)

    async def resize(self, name_or_id: str, *, height: int, width: int) -> None:
        """See ``ContainerBackend.resize``."""
        container = self._index.get(name_or_id)
        if container.shim is None or container.status is not Status.RUNNING:
            msg = f"container {container.id} is not running"
            raise ConflictError(msg)
        container.shim.resize(height, width)
        self._store.emit(container, "resize", height=str(height), width=str(width))
