"""Where a container's changes go: its record on disk, the index, the event stream."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pallet.errors import PalletError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.engine.container import Container
    from pallet.engine.events import EventSink
    from pallet.engine.index import ContainerIndex
    from pallet.storage.metadata import Metadata

logger = logging.getLogger(__name__)

_WRITE_BEHIND_S = 0.02


class ContainerStore:
    """Saves and announces. Records are written on the loop thread.

    One row costs about 50 µs in WAL mode and no disk sync, less than a hop to the database worker;
    they are on the start path. See ADR "records on the loop thread".

    Start and exit are in the shim's directory before they are told here, and the next daemon reads
    them there (``engine/restore.py``). Their records may therefore follow a little later
    (``note_soon``): a container that ends or is removed at once then costs one write, not three.
    """

    def __init__(self, index: ContainerIndex, metadata: Metadata, events: EventSink) -> None:
        self.index = index
        self._metadata = metadata
        self._events = events
        self._due: dict[str, tuple[Container, Callable[[], None] | None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def save(self, container: Container) -> None:
        """Write the record."""
        self._metadata.put_container(container.id, container.name, container.encode())
        self._written(container)

    def _written(self, container: Container) -> None:
        _, then = self._due.pop(container.id, (container, None))
        if then is not None:
            then()

    def note_soon(self, container: Container, then: Callable[[], None] | None = None) -> None:
        """Write the record in a moment, or with the next change of it; a failure is logged.

        Args:
            then: called once the record is written or deleted: drops what restore would need else.
        """
        _, earlier = self._due.get(container.id, (container, None))
        self._due[container.id] = (container, then or earlier)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_BEHIND_S, self.flush)

    def flush(self) -> None:
        """Write what ``note_soon`` has put off."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for container, _ in list(self._due.values()):
            self.note(container)

    def note(self, container: Container) -> None:
        """Write the record of what has happened already; a full disk cannot undo that, so it is only logged."""
        try:
            self.save(container)
        except PalletError:
            logger.exception("record of %s is not written", container.id)

    def delete(self, container: Container) -> None:
        """Drop the record and the index entry."""
        self._metadata.delete_container(container.id)
        self.index.discard(container)
        self._written(container)

    def emit(self, container: Container, action: str, **attributes: str) -> None:
        """Announce ``action`` of the container."""
        self._events.emit("container", action, container.id, container.attributes(**attributes))

    def emit_network(self, container: Container, action: str) -> None:
        """Announce that the container joined or left its network."""
        if container.endpoint is not None:
            kind = container.endpoint.network_name
            self._events.emit("network", action, container.endpoint.network_id, {
                "container": container.id, "name": kind,
                "type": {"host": "host", "none": "null"}.get(kind, "bridge")})

    def emit_volumes(self, container: Container, action: str) -> None:
        """Announce mounts or unmounts of the container's volumes."""
        for mount in container.mounts:
            if mount.type == "volume":
                attributes = {"container": container.id, "driver": mount.driver or "local"}
                if action == "mount":
                    attributes |= {"destination": mount.destination, "propagation": mount.propagation,
                                   "read/write": str(not mount.read_only).lower()}
                self._events.emit("volume", action, mount.name, attributes)
