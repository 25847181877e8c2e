"""Networks of the Engine API: list and inspect.

Owns   the translation of network records to documents, and the filters of the list.
Runs   on the loop.
Spec   Engine API NetworkList, NetworkInspect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from pallet.engine.pruning import until_of
from pallet.errors import (
    ForbiddenError,
    InvalidParameterError,
    NotFoundError,
    NotImplementedApiError,
)
from pallet.network import view
from pallet.spec.engine.network import IPAM, IPAMPool, NetworkInspect, NetworkSummary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.engine.events import EventSink
    from pallet.network.controller import NetworkController
    from pallet.network.model import Member, NetworkRecord
    from pallet.spec.engine.filters import Filters
    from pallet.spec.engine.network import NetworkCreateRequest, NetworkCreateResponse

_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_SCOPE = "local"
_BUILT_IN = {"bridge", "host", "none"}


class Networks:
    """``api.backends.NetworkBackend`` over the network controller."""

    def __init__(self, controller: NetworkController, events: EventSink) -> None:
        self._controller = controller
        self._events = events

    async def list(self, filters: Filters) -> Sequence[NetworkSummary]:
        """List networks. Filter keys: dangling, driver, id, label, name, scope, type."""
        filters.validate(_FILTERS)
        kinds = _kinds(filters)
        dangling = filters.boolean("dangling", default=False) if "dangling" in filters else None
        found = []
        for record in self._controller.networks():
            if not _matches(record, filters) or (kinds and _kind(record) not in kinds):
                continue
            # Built-in networks are never "dangling": prune must not take them.
            is_dangling = record.name not in _BUILT_IN and not self._controller.members(record.id)
            if dangling is not None and is_dangling != dangling:
                continue
            found.append(summary(record))
        return found

    async def inspect(self, name_or_id: str, *, verbose: bool, scope: str) -> NetworkInspect:
        """Describe one network with its containers.

        Raises:
            NotFoundError: ``network x not found``.
        """
        del verbose  # adds what only swarm networks have
        record = self._controller.get(name_or_id)
        if scope not in {"", _SCOPE}:
            raise NotFoundError(f"network {name_or_id} not found")
        return summary(record, self._controller.members(record.id))

    async def remove(self, name_or_id: str) -> None:
        """Remove a network; the built-in ones cannot be.

        Raises:
            NotFoundError: ``network x not found``.
            ForbiddenError: it is a built-in one.
        """
        record = self._controller.get(name_or_id)
        message = f"{record.name} is a pre-defined network and cannot be removed"
        raise ForbiddenError(message)

    async def create(self, request: NetworkCreateRequest) -> NetworkCreateResponse:
        """Refuse to create a network.

        Raises:
            ForbiddenError: ``name`` is a built-in one's.
            NotImplementedApiError: user-defined networks are not there yet.
        """
        if request.name in {*_BUILT_IN, "default"}:
            message = f"operation is not permitted on predefined {request.name} network "
            raise ForbiddenError(message)
        raise NotImplementedApiError("user-defined networks are not supported yet")

    async def prune(self, filters: Filters) -> Sequence[str]:
        """Remove unused networks but the built-in ones; return their names."""
        filters.validate(("label", "label!", "until"))
        until_of(filters)
        self._events.emit("network", "prune", "", {"reclaimed": "0"})
        return []


def summary(record: NetworkRecord, members: Sequence[Member] = ()) -> NetworkSummary:
    """Return the document of one network; a list shows no containers."""
    pools = []
    if record.subnet:
        pools.append(IPAMPool(subnet=record.subnet, gateway=record.gateway,
                              ip_range=record.ip_range or UNSET))
    if record.subnet6:
        pools.append(IPAMPool(subnet=record.subnet6, gateway=record.gateway6))
    return NetworkSummary(
        name=record.name, id=record.id, created=record.created, scope=_SCOPE,
        driver=record.driver, enable_ipv6=bool(record.subnet6),
        ipam=IPAM(config=pools or None),
        containers={member.container_id: view.endpoint_resource(member.endpoint, member.name)
                    for member in members},
        options=record.options, labels=record.labels)


def _matches(record: NetworkRecord, filters: Filters) -> bool:
    return (filters.exact("driver", record.driver) and filters.pattern("name", record.name)
            and filters.pattern("id", record.id) and filters.exact("scope", _SCOPE)
            and filters.labels(record.labels))


def _kind(record: NetworkRecord) -> str:
    return "builtin" if record.name in _BUILT_IN else "custom"


def _kinds(filters: Filters) -> set[str]:
    """Values of ``type``; several of them mean any."""
    wanted = filters.get("type")
    for value in wanted:
        if value not in {"builtin", "custom"}:
            message = f"invalid filter: 'type'='{value}'"
            raise InvalidParameterError(message)
    return set(wanted)
