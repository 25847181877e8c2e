"""``api.backends.VolumeBackend``, and volumes for containers. Engine API tag Volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from pallet.aio import run_blocking
from pallet.engine.pruning import PruneGate, labels_match
from pallet.errors import NotFoundError, PalletError
from pallet.spec.engine.volume import (
    Volume,
    VolumeCreateRequest,
    VolumeList,
    VolumePruneResponse,
    VolumeUsage,
)
from pallet.volume.store import VolumeRecord, VolumeStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.engine.events import EventSink
    from pallet.engine.index import ContainerIndex
    from pallet.paths import DataPaths
    from pallet.spec.engine.filters import Filters
    from pallet.storage.metadata import Metadata


class Volumes:
    """The volume half of the Engine API."""

    def __init__(self, paths: DataPaths, metadata: Metadata, index: ContainerIndex, events: EventSink) -> None:
        self._index = index
        self._events = events
        self._gate = PruneGate()
        self._claims: dict[str, tuple[str, ...]] = {}
        """Volumes of containers that are being made, which the index does not show yet; by container."""
        self.store = VolumeStore(paths, metadata, self.users)

    def claim(self, name: str, container_id: str) -> None:
        """Count a container that is being made as a user of ``name``, until ``settle``."""
        self._claims[container_id] = (*self._claims.get(container_id, ()), name)

    def settle(self, container_id: str) -> None:
        """The container is made, or is not going to be."""
        self._claims.pop(container_id, None)

    def users(self, name: str) -> list[str]:
        """Ids of the containers that have the volume. Also called on workers."""
        found = [c.id for c in self._index if any(m.type == "volume" and m.name == name for m in c.mounts)]
        return found + [user for user, names in list(self._claims.items()) if name in names and user not in found]

    def _document(self, record: VolumeRecord, *, size_bytes: int | None = None) -> Volume:
        usage = UNSET if size_bytes is None else VolumeUsage(
            ref_count=len(self.users(record.name)), size=size_bytes)
        return Volume(created_at=record.created_at, driver=record.driver, labels=record.labels,
                      mountpoint=self.store.mountpoint(record.name), name=record.name, options=record.options,
                      usage_data=usage)

    async def ensure(self, name: str, *, driver: str, options: dict[str, str], labels: dict[str, str]) -> Volume:
        """Return the volume of that name, made if need be; "" makes an anonymous one.

        Raises: as ``VolumeStore.create``.
        """
        record, made = await run_blocking(self.store.create, name, driver=driver, options=options, labels=labels)
        if made:
            self._events.emit("volume", "create", record.name, {"driver": record.driver})
        return self._document(record)

    async def discard(self, name: str) -> None:
        """Remove a volume that went with its container; a missing one is no error.

        The container itself does not count as a user any more.
        """
        try:
            await run_blocking(self.store.remove, name, force=True)
        except NotFoundError:
            return
        self._events.emit("volume", "destroy", name, {"driver": "local"})

    async def list(self, filters: Filters) -> VolumeList:
        """See ``VolumeBackend.list``."""
        dangling = filters.boolean("dangling", default=False) if "dangling" in filters else None
        found = [
            self._document(record) for record in self.store.list()
            if filters.exact("driver", record.driver) and filters.pattern("name", record.name)
            and filters.labels(record.labels)
            and (dangling is None or dangling is not self.store.is_used(record.name))]
        return VolumeList(volumes=found)

    async def create(self, request: VolumeCreateRequest) -> Volume:
        """See ``VolumeBackend.create``."""
        return await self.ensure(request.name, driver=request.driver or "local",
                                 options=request.driver_opts or {}, labels=request.labels or {})

    async def inspect(self, name: str) -> Volume:
        """See ``VolumeBackend.inspect``."""
        return self._document(self.store.get(name))

    async def remove(self, name: str, *, force: bool) -> None:
        """See ``VolumeBackend.remove``."""
        try:
            await run_blocking(self.store.remove, name)
        except NotFoundError:
            if not force:
                raise
            return
        self._events.emit("volume", "destroy", name, {"driver": "local"})

    async def prune(self, filters: Filters, *, all_unused: bool) -> VolumePruneResponse:
        """See ``VolumeBackend.prune``."""
        with self._gate.enter():
            return await self._prune(filters, all_unused=all_unused)

    async def _prune(self, filters: Filters, *, all_unused: bool) -> VolumePruneResponse:
        deleted: list[str] = []
        reclaimed = 0
        for record in self.store.list():
            if self.store.is_used(record.name) or not (all_unused or record.anonymous):
                continue
            if not labels_match(filters, record.labels):
                continue
            size = await run_blocking(self.store.usage, record.name)
            try:
                await self.remove(record.name, force=False)
            except PalletError:
                continue  # a container took it in the meantime
            deleted.append(record.name)
            reclaimed += size
        self._events.emit("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return VolumePruneResponse(volumes_deleted=deleted, space_reclaimed=reclaimed)

    async def usage(self) -> Sequence[Volume]:
        """Every volume with its size, for ``system df``."""
        return [self._document(record, size_bytes=await run_blocking(self.store.usage, record.name))
                for record in self.store.list()]
