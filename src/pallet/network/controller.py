"""The one door to the network package: connect a container, release it, list networks.

Owns   the default bridge network and the ``host`` and ``none`` networks, their members, the pool
       of ready sandboxes.
Runs   on the daemon's event loop; kernel calls that may wait for the kernel's link lock run on
       the blocking pool.
Needs  CAP_NET_ADMIN in the daemon's network namespace; nf_tables if there is to be NAT.
Spec   Engine API NetworkInspect; libnetwork's bridge driver.

Which addresses are out is not stored one by one: a container's endpoint is in its own record, which
the engine writes before the start and hands back to ``start`` here. What is stored is the network's
cursor, in blocks, so that a later daemon goes on behind the addresses that were given out last.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import InvalidParameterError, NotFoundError
from pallet.network import portmap
from pallet.network.bridge_network import BridgeNetwork
from pallet.network.model import Endpoint, Member, NetworkRecord, Sandbox
from pallet.network.sandbox import new_identity
from pallet.spec.engine.wire import rfc3339_nano

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.config import BridgeConfig
    from pallet.network.model import (
        ConnectRequest,
        LiveEndpoint,
        NetworkStore,
        SandboxSource,
    )

_BUILT_IN = {"bridge": "bridge", "host": "host", "none": "null"}
"""Network name to driver."""
_record_decoder = msgspec.json.Decoder(NetworkRecord)
_encoder = msgspec.json.Encoder()


class NetworkController:
    """Networks of one daemon."""

    def __init__(self, config: BridgeConfig, *, store: NetworkStore, netns: SandboxSource) -> None:
        self._config = config
        self._store = store
        self._source = netns
        self._records: dict[str, NetworkRecord] = {}
        self._members: dict[str, Member] = {}
        self._bridge: BridgeNetwork | None = None
        self._warnings: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """What does not work on this host now, one sentence each; for ``info`` and ``doctor``."""
        return self._warnings + (self._bridge.present_warnings() if self._bridge else [])

    async def start(self, live: Mapping[str, LiveEndpoint]) -> None:
        """Create or repair the bridge, its table and the built-in networks' records.

        Args:
            live: container id to endpoint of each container that runs on; every other endpoint
                of an earlier daemon is taken down (links, map elements, addresses).

        Raises:
            InvalidParameterError: the settings contradict one another.
            SystemFailureError: the bridge cannot be made, or no free address pool is left.
        """
        self._load()
        self._members = {
            container_id: Member(container_id, one.container_name, one.endpoint)
            for container_id, one in live.items()}
        if self._config.name == "none":
            del self._records["bridge"]
            return
        ours = {container_id: one.endpoint for container_id, one in live.items()
                if one.endpoint.network_name == "bridge"}
        self._bridge = BridgeNetwork(
            self._config, record=self._records["bridge"], source=self._source, save=self._save)
        self._warnings += await self._bridge.start(ours)

    async def connect(self, container_id: str, request: ConnectRequest) -> Sandbox:
        """Give a container its network: address, sandbox, published ports.

        Raises:
            NotFoundError: ``network x not found``.
            InvalidParameterError: addresses or ports that cannot be.
            SystemFailureError: a port is taken, the pool is exhausted, the kernel refuses.
        """
        mode = network_name(request.network_mode)
        if self._bridge is None and request.network_mode in {"", "default"}:
            mode = "none"
        if mode.startswith("container:"):
            return Sandbox(None, (), None)
        exposed = exposed_ports(request)
        if mode in {"host", "none"}:
            record = self.get(mode)
            endpoint_id, sandbox_id = new_identity()
            sandbox = Sandbox(None, (), Endpoint(
                network_name=mode, network_id=record.id, endpoint_id=endpoint_id,
                sandbox_id=sandbox_id, exposed=() if mode == "host" else exposed))
        else:
            record = self.get(mode)
            if self._bridge is None or record.name != "bridge":
                raise NotFoundError(f"network {mode} not found")
            # A container that is started again without a release: its old ports are not in its way.
            await self.release(container_id)
            sandbox = await self._bridge.connect(container_id, request, exposed)
        if sandbox.endpoint is not None:
            self._members[container_id] = Member(
                container_id, request.container_name, sandbox.endpoint)
        return sandbox

    async def release(self, container_id: str) -> None:
        """Forget a container's endpoint and ports; harmless for an unknown one."""
        member = self._members.pop(container_id, None)
        if member is None or self._bridge is None:
            return
        if member.endpoint.network_id == self._bridge.record.id:
            await self._bridge.release(container_id, member.endpoint)

    async def close(self, *, keep: bool) -> None:
        """Empty the pool; with ``keep`` False and no member left remove bridge and table."""
        if self._bridge is None:
            return
        used = any(member.endpoint.network_id == self._bridge.record.id
                   for member in self._members.values())
        await self._bridge.close(keep=keep or used)
        self._bridge = None

    def rename(self, container_id: str, name: str) -> None:
        """Note a container's new name (without slash)."""
        member = self._members.get(container_id)
        if member is not None:
            self._members[container_id] = Member(container_id, name, member.endpoint)

    def networks(self) -> list[NetworkRecord]:
        """Every network, by name."""
        return [self._records[name] for name in sorted(self._records)]

    def get(self, name_or_id: str) -> NetworkRecord:
        """Find a network by full id, name, or unique id prefix.

        Raises:
            NotFoundError: ``network x not found``.
            InvalidParameterError: several networks have this id prefix.
        """
        records = self._records.values()
        for record in records:
            if record.id == name_or_id:
                return record
        if name_or_id in self._records:
            return self._records[name_or_id]
        found = [r for r in records if name_or_id and r.id.startswith(name_or_id)]
        if len(found) > 1:
            message = (f"network {name_or_id} is ambiguous "
                       f"({len(found)} matches found on ID prefix)")
            raise InvalidParameterError(message)
        if not found:
            raise NotFoundError(f"network {name_or_id} not found")
        return found[0]

    def members(self, network_id: str) -> list[Member]:
        """Containers connected to a network."""
        return [member for member in self._members.values()
                if member.endpoint.network_id == network_id]

    def endpoint(self, container_id: str) -> Endpoint | None:
        """The endpoint a container has now."""
        member = self._members.get(container_id)
        return member.endpoint if member else None

    def gateway(self) -> str:
        """IPv4 address of the default bridge: what ``host-gateway`` stands for; "" without one."""
        return self._bridge.record.gateway if self._bridge else ""

    def _load(self) -> None:
        for _id, name, raw in self._store.networks():
            self._records[name] = _record_decoder.decode(raw)
        for name, driver in _BUILT_IN.items():
            if name not in self._records:
                self._save(NetworkRecord(
                    id=secrets.token_hex(32), name=name, driver=driver,
                    created=rfc3339_nano(time.time_ns())))

    def _save(self, record: NetworkRecord) -> None:
        self._records[record.name] = record
        self._store.put_network(record.id, record.name, _encoder.encode(record))


def network_name(mode: str) -> str:
    """HostConfig.NetworkMode as a network's name; ``""`` and ``default`` are ``bridge``."""
    return "bridge" if mode in {"", "default"} else mode


def exposed_ports(request: ConnectRequest) -> tuple[str, ...]:
    """Every port that ``NetworkSettings.Ports`` lists, ``80/tcp`` forms in order."""
    both = {portmap.parse_port(port) for port in (*request.exposed, *request.port_bindings)}
    return tuple(f"{port}/{proto}" for port, proto in sorted(both))
