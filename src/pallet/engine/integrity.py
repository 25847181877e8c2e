"""Checks of the store on demand: one at a time, and containers on damaged layers are told.

Runs   on the event loop.
Needs  ``image.check``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pallet.engine.status import is_running
from pallet.errors import ConflictError
from pallet.image.check import LayerUser, StoreCheck

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pallet.engine.events import EventSink
    from pallet.engine.index import ContainerIndex
    from pallet.image.check import Fetcher
    from pallet.image.importer import WorkerRunner
    from pallet.image.store import ImageStore
    from pallet.paths import DataPaths
    from pallet.spec.engine.auth import AuthConfig
    from pallet.spec.own.disk import CheckMessage
    from pallet.storage.metadata import Metadata

logger = logging.getLogger(__name__)


class Integrity:
    """Runs ``StoreCheck`` for the API."""

    def __init__(
        self, *, images: ImageStore, metadata: Metadata, paths: DataPaths, workers: WorkerRunner,
        fetcher: Fetcher, index: ContainerIndex, events: EventSink,
    ) -> None:
        self._images = images
        self._metadata = metadata
        self._paths = paths
        self._workers = workers
        self._fetcher = fetcher
        self._index = index
        self._events = events
        self._busy = False

    async def check(self, *, repair: bool, credentials: Mapping[str, AuthConfig],
                    report: Callable[[CheckMessage], None]) -> None:
        """See ``DiskBackend.check``."""
        if self._busy:
            message = "a check is already running"
            raise ConflictError(message)
        self._busy = True

        def tell(message: CheckMessage) -> None:
            if message.problem and message.stage == "layers":
                self._tell_containers(message)
            report(message)

        try:
            await StoreCheck(
                images=self._images, metadata=self._metadata, paths=self._paths,
                workers=self._workers, fetcher=self._fetcher.authenticated(credentials), users=self._users,
                report=tell, repair=repair).run()
        finally:
            self._busy = False

    def _users(self) -> Iterable[LayerUser]:
        snapshotter = self._images.snapshotter
        return [LayerUser(container_id=c.id, layers=c.layers, running=is_running(c.status),
                          has_root=snapshotter.has(c.id))
                for c in self._index if not c.hidden]

    def _tell_containers(self, message: CheckMessage) -> None:
        """An event for each container on the layer: ``layer-repaired`` or ``layer-damaged``."""
        action = "layer-repaired" if message.repaired else "layer-damaged"
        for container_id in message.containers:
            container = self._index.find(container_id)
            if container is not None:
                logger.warning("container %s: its layer %s %s", container.id, message.subject, message.problem)
                self._events.emit("container", action, container.id,
                                  container.attributes(layer=message.subject, problem=message.problem))
