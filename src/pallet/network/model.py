"""What the network package hands over and takes: requests, sandboxes, endpoints, records.

Owns   types only; no I/O. ``Endpoint`` and ``NetworkRecord`` are disk documents.
Runs   anywhere.
Spec   Engine API EndpointSettings, PortMap, Network; libnetwork's sandbox and endpoint.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from pallet.spec.engine.network import PortBinding


class PublishedPort(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One host address and port that leads to a container's port; one IP family each."""

    proto: str
    """``tcp`` or ``udp``."""
    container_port: int
    host_ip: str
    """Address it is bound to; ``0.0.0.0`` or ``::`` for all."""
    host_port: int
    target_ip: str
    """The container's address; may be IPv4 where ``host_ip`` is IPv6 (carried by the proxy)."""


class Endpoint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A container's place in one network. The engine stores it in the container's record."""

    network_name: str
    """The name as ``NetworkSettings.Networks`` spells it: ``bridge``, ``host``, ``none``."""
    network_id: str
    endpoint_id: str
    sandbox_id: str = ""
    ip: str = ""
    prefix_len: int = 0
    gateway: str = ""
    mac: str = ""
    ip6: str = ""
    prefix_len6: int = 0
    gateway6: str = ""
    link: str = ""
    """The host's end of the veth pair."""
    ports: tuple[PublishedPort, ...] = ()
    exposed: tuple[str, ...] = ()
    """``80/tcp`` forms of every exposed port, published or not."""


class LiveEndpoint(Struct, frozen=True, kw_only=True):
    """A container that still runs when the daemon comes back."""

    container_name: str
    """Without the slash."""
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound socket that reserves a published port and feeds the port proxy.

    ``fd`` is a listening TCP socket or a bound UDP socket. Without the user-land proxy it has a
    filter that lets nothing through, so that it never becomes readable.
    """

    fd: int
    proto: str
    target_ip: str
    target_port: int


@dataclass(slots=True)
class Sandbox:
    """A network ready for one start. The holder closes it once the start message is sent.

    ``netns_fd`` is None where the runtime makes or joins the namespace itself (``none``, ``host``,
    ``container:ID``).
    """

    netns_fd: int | None
    listeners: tuple[Listener, ...]
    endpoint: Endpoint | None
    closed: bool = field(default=False, repr=False)

    def close(self) -> None:
        """Close this process's copies of all fds; harmless when done twice."""
        if self.closed:
            return
        self.closed = True
        if self.netns_fd is not None:
            os.close(self.netns_fd)
        for listener in self.listeners:
            os.close(listener.fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectRequest:
    """What a container asks of its network at start.

    ``network_mode`` is HostConfig.NetworkMode; ``default`` and ``""`` are the bridge. ``ip``,
    ``ip6`` and ``mac`` are what the user fixed. ``exposed`` holds ``80/tcp`` forms and decides,
    with ``publish_all``, what gets an ephemeral host port.
    """

    container_name: str
    network_mode: str = "default"
    ip: str | None = None
    ip6: str | None = None
    mac: str | None = None
    port_bindings: Mapping[str, Sequence[PortBinding] | None] = field(default_factory=dict)
    exposed: Collection[str] = ()
    publish_all: bool = False


class NetworkRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A network as stored."""

    id: str
    name: str
    driver: str
    created: str
    """RFC 3339 with nanoseconds."""
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    subnet6: str = ""
    gateway6: str = ""
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    cursor: int = 0
    """Offset in the subnet from which the next address is looked for; moves in blocks."""


@dataclass(frozen=True, slots=True)
class Member:
    """A container connected to a network, as its inspect shows it."""

    container_id: str
    name: str
    endpoint: Endpoint


class NetworkStore(Protocol):
    """The part of ``storage.metadata.Metadata`` that networks need. Blocking."""

    def put_network(self, network_id: str, name: str, record: bytes) -> None:
        """Insert or replace a record."""

    def networks(self) -> list[tuple[str, str, bytes]]:
        """Every ``(id, name, record)``."""
        ...


class SandboxSource(Protocol):
    """The part of ``supervisor.client.Supervisor`` that networks need."""

    async def run_raw_worker(
        self, kind: str, request: bytes, fds: Iterable[int] = (),
    ) -> tuple[bytes, list[int]]:
        """Run a worker in a zygote child; return its reply and descriptors."""
        ...
