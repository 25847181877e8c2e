"""The default bridge network: bridge, addresses, sandboxes, ports and firewall as one.

Owns   everything of one bridge while the daemon runs; the controller has one of these.
Runs   on the loop, link changes on the blocking pool.
Needs  as ``bridge.py``, ``firewall.py``, ``sandbox.py``.
Spec   libnetwork's bridge driver.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import logging
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pallet import aio
from pallet.errors import InvalidParameterError, SyscallError, SystemFailureError
from pallet.linux import conntrack, netlink
from pallet.network import bridge, ipam, portmap
from pallet.network.firewall import Firewall, RuleOptions
from pallet.network.model import Endpoint, Sandbox
from pallet.network.sandbox import (
    PortFlags,
    Ready,
    SandboxPool,
    Wiring,
    link_name,
    new_identity,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pallet.config import BridgeConfig
    from pallet.network.model import (
        ConnectRequest,
        Listener,
        NetworkRecord,
        PublishedPort,
        SandboxSource,
    )

logger = logging.getLogger(__name__)

_CURSOR_BLOCK = 64
"""Addresses given out for one write of the record."""


class BridgeNetwork:
    """One bridge with its containers."""

    def __init__(
        self, config: BridgeConfig, *, record: NetworkRecord, source: SandboxSource,
        save: Callable[[NetworkRecord], None],
    ) -> None:
        self._config = config
        self.record = record
        self._source = source
        self._save = save
        self._host = netlink.Netlink()
        self._host_lock = threading.Lock()
        self._ports = portmap.PortAllocator(userland_proxy=config.userland_proxy)
        self._firewall: Firewall | None = None
        self._saved_cursor = 0
        self._ipv6_host = bridge.host_has_ipv6()
        self._plan: ipam.Plan
        self._space: ipam.AddressSpace
        self._pool: SandboxPool
        self._number = 0
        self._endpoints: dict[str, Endpoint] = {}

    # -- the whole --------------------------------------------------------------------------------

    async def start(self, live: Mapping[str, Endpoint]) -> list[str]:
        """Set everything up around ``live`` containers; returns what does not work here.

        Raises:
            InvalidParameterError: the settings contradict one another.
            SystemFailureError: no bridge, or no free pool of addresses.
        """
        warnings = await aio.run_blocking(self._make_bridge, live)
        plan = self._plan
        self._space = ipam.AddressSpace(
            plan.subnet, ip_range=plan.ip_range, reserved={plan.gateway, plan.route},
            cursor=self.record.cursor)
        self._endpoints = dict(live)
        for container_id, endpoint in live.items():
            address = ipaddress.IPv4Address(endpoint.ip)
            if address in plan.subnet and address not in self._space:
                self._space.claim(address)
            self._ports.adopt(container_id, endpoint.ports)
        ports = [port for endpoint in live.values() for port in endpoint.ports]
        warnings += self._install_firewall(ports)
        self._describe()
        self._pool = SandboxPool(
            size=self._config.sandbox_pool, source=self._source, port=self._port_flags(),
            wire=self._wire, unwire=self._unwire)
        self._pool.refill()
        return warnings

    def _port_flags(self) -> PortFlags:
        filtered = bridge.bridged_packets_are_filtered()
        return PortFlags(
            bridge=self._number, mtu=self._config.mtu,
            # With br_netfilter the forward chain separates them, and can let published ports
            # through, which an isolated port cannot.
            isolated=not self._config.icc and not filtered,
            hairpin=not self._config.userland_proxy and filtered)

    async def close(self, *, keep: bool) -> None:
        """Empty the pool and, without ``keep``, remove table and bridge."""
        await self._pool.close()
        if not keep:
            try:
                if self._firewall is not None:
                    self._firewall.remove()
                await aio.run_blocking(bridge.delete_bridge, self._host, self._config.name)
            except SyscallError as error:
                logger.warning("clean-up of network bridge failed: %s", error)
        if self._firewall is not None:
            self._firewall.close()
        self._host.close()

    def _make_bridge(self, live: Mapping[str, Endpoint]) -> list[str]:
        config, warnings = self._config, []
        found = bridge.HostNetworks(self._host, config.name)
        existing = found.bridge_address
        if existing is None and self.record.subnet:
            prefix_len = self.record.subnet.partition("/")[2]
            existing = ipaddress.IPv4Interface(f"{self.record.gateway}/{prefix_len}")
        if live and found.bridge_address is not None and config.bip is not None \
                and found.bridge_address != ipaddress.IPv4Interface(config.bip):
            warnings.append(
                f"bridge {config.name} keeps {found.bridge_address}, not the configured "
                f"{config.bip}, while containers from before use it")
            config = dataclasses.replace(config, bip=None)
        self._plan = ipam.plan_bridge(
            config, in_use=found.in_use, existing=existing, host_key=_host_key())
        self._number = bridge.ensure_bridge(
            self._host, config.name, self._plan, mtu=config.mtu)
        keep = {endpoint.link for endpoint in live.values()}
        bridge.adopt_ports(self._host, self._number, keep)
        bridge.delete_ports(self._host, self._number, keep=keep)
        if config.ip_forward:
            warnings += [
                f"cannot set net.{name.replace('/', '.')}: containers reach nothing but the host"
                for name in bridge.enable_forwarding(ipv6=self._plan.subnet6 is not None)]
        return warnings

    def _install_firewall(self, ports: Iterable[PublishedPort]) -> list[str]:
        config = self._config
        if not config.firewall:
            return []
        try:
            self._firewall = Firewall(RuleOptions(
                bridge=config.name, subnet=self._plan.subnet, subnet6=self._plan.subnet6,
                masquerade=config.ip_masq, inter_container=config.icc,
                translate_from_bridge=not config.userland_proxy))
            self._firewall.install(ports)
        except SyscallError as error:
            if self._firewall is not None:
                self._firewall.close()
                self._firewall = None
            return [f"nftables cannot be used ({error}): published ports go through the port proxy "
                    "and containers reach nothing beyond the host"]
        bridge.allow_loopback_routing(config.name)
        return []

    def present_warnings(self) -> list[str]:
        """What others have done to the host's network since the start, as far as it hurts."""
        try:
            if self._firewall is None or not self._firewall.forward_is_dropped():
                return []
        except SyscallError as error:
            return [f"nftables cannot be read: {error}"]
        name = self._config.name
        return ["another program's firewall drops forwarded packets by default (Docker does this), so "
                f"containers reach nothing beyond the host until it lets those of {name} pass, for "
                f"example: iptables -I DOCKER-USER -i {name} -j ACCEPT; "
                f"iptables -I DOCKER-USER -o {name} -j ACCEPT"]

    def _describe(self) -> None:
        """Bring the record up to date with the plan."""
        plan = self._plan
        self._saved_cursor = self._space.cursor
        config = self._config
        record = msgspec.structs.replace(
            self.record, subnet=str(plan.subnet), gateway=str(plan.gateway),
            ip_range=str(plan.ip_range) if plan.ip_range else "",
            subnet6=str(plan.subnet6) if plan.subnet6 else "",
            gateway6=str(plan.gateway6) if plan.gateway6 else "",
            options={
                "com.docker.network.bridge.default_bridge": "true",
                "com.docker.network.bridge.enable_icc": _boolean(config.icc),
                "com.docker.network.bridge.enable_ip_masquerade": _boolean(config.ip_masq),
                "com.docker.network.bridge.host_binding_ipv4": config.default_bind_ip,
                "com.docker.network.bridge.name": config.name,
                "com.docker.network.driver.mtu": str(config.mtu),
            })
        if record != self.record:
            self.record = record
            self._save(record)

    # -- containers -------------------------------------------------------------------------------

    async def connect(
        self, container_id: str, request: ConnectRequest, exposed: tuple[str, ...],
    ) -> Sandbox:
        """Take a sandbox and publish the container's ports, or leave nothing.

        Raises:
            InvalidParameterError: a port or address cannot be.
            SystemFailureError: a port is taken, addresses are out, the kernel refuses.
        """
        wanted = portmap.wanted_ports(
            request.port_bindings, exposed=exposed, publish_all=request.publish_all,
            default_ip=self._config.default_bind_ip, ipv6_host=self._ipv6_host)
        await self._check_bridge()
        ready = await self._sandbox(request)
        wiring = ready.wiring
        try:
            ports, listeners = self._publish(container_id, request, wiring, wanted)
        except BaseException:
            os.close(ready.netns_fd)
            self._unwire(wiring)
            raise
        plan = self._plan
        endpoint = Endpoint(
            network_name="bridge", network_id=self.record.id, endpoint_id=wiring.endpoint_id,
            sandbox_id=wiring.sandbox_id, ip=str(wiring.address.ip),
            prefix_len=plan.subnet.prefixlen, gateway=str(plan.route), mac=wiring.mac,
            ip6=str(wiring.address6.ip) if wiring.address6 else "",
            prefix_len6=plan.subnet6.prefixlen if plan.subnet6 else 0,
            gateway6=str(plan.gateway6) if plan.gateway6 else "",
            link=wiring.link, ports=tuple(ports), exposed=exposed)
        self._endpoints[container_id] = endpoint
        return Sandbox(ready.netns_fd, tuple(listeners), endpoint)

    async def release(self, container_id: str, endpoint: Endpoint) -> None:
        """Give back addresses and ports of an endpoint."""
        self._endpoints.pop(container_id, None)
        if endpoint.ports:
            if self._firewall is not None:
                try:
                    self._firewall.unpublish(endpoint.ports)
                except SyscallError as error:
                    logger.warning("unpublishing ports of %s failed: %s", container_id, error)
            self._ports.release(container_id, endpoint.ports)
            await self._forget_flows(endpoint.ports)
        address = ipaddress.IPv4Address(endpoint.ip)
        if address in self._plan.subnet:
            self._space.free(address)

    def _publish(
        self, container_id: str, request: ConnectRequest, wiring: Wiring,
        wanted: list[portmap.Wanted],
    ) -> tuple[list[PublishedPort], list[Listener]]:
        if not wanted:
            return [], []
        try:
            ports, listeners = self._ports.reserve(
                container_id, wanted, ip=str(wiring.address.ip),
                ip6=str(wiring.address6.ip) if wiring.address6 else "")
            try:
                if self._firewall is not None:
                    self._firewall.publish(ports)
            except SyscallError as error:
                for listener in listeners:
                    os.close(listener.fd)
                self._ports.release(container_id, ports)
                raise SystemFailureError(f"cannot publish ports with nftables: {error}") from error
        except SystemFailureError as error:
            message = ("driver failed programming external connectivity on endpoint "
                       f"{request.container_name} ({wiring.endpoint_id}): {error}")
            raise SystemFailureError(message) from error
        return ports, listeners

    async def _forget_flows(self, ports: Iterable[PublishedPort]) -> None:
        """Drop tracked UDP flows to the container: clients would go on to talk to nobody."""
        targets = {(port.target_ip, port.container_port) for port in ports if port.proto == "udp"}
        if targets:
            try:
                await aio.run_blocking(conntrack.delete_udp_flows, targets)
            except SyscallError as error:
                logger.warning("dropping tracked UDP flows failed: %s", error)

    # -- sandboxes --------------------------------------------------------------------------------

    async def _sandbox(self, request: ConnectRequest) -> Ready:
        if not (request.ip or request.mac):
            return await self._pool.take()
        address = None
        if request.ip:
            address = _ipv4(request.ip)
            self._space.claim(address)
        return (await self._pool.make([self._wire(address, request.mac)]))[0]

    def _wire(
        self, address: ipaddress.IPv4Address | None = None, mac: str | None = None,
    ) -> Wiring:
        plan = self._plan
        if address is None:
            address = self._space.take()
            self._note_cursor()
        address6 = None
        if plan.subnet6 is not None:
            ip6 = ipam.with_suffix_of(plan.subnet6, address, plan.subnet)
            address6 = ipaddress.IPv6Interface((ip6, plan.subnet6.prefixlen))
        endpoint_id, sandbox_id = new_identity()
        return Wiring(
            endpoint_id=endpoint_id, sandbox_id=sandbox_id, link=link_name(endpoint_id),
            mac=mac or ipam.mac_of(address), gateway=plan.route,
            address=ipaddress.IPv4Interface((address, plan.subnet.prefixlen)),
            address6=address6, gateway6=plan.gateway6)

    def _unwire(self, wiring: Wiring) -> None:
        self._space.free(wiring.address.ip)

    def _note_cursor(self) -> None:
        """Store the cursor one block ahead, once a block."""
        ahead = self._saved_cursor - self._space.cursor
        if 0 < ahead <= _CURSOR_BLOCK:
            return
        self._saved_cursor = self._space.cursor + _CURSOR_BLOCK
        self.record = msgspec.structs.replace(self.record, cursor=self._saved_cursor)
        self._save(self.record)

    async def _check_bridge(self) -> None:
        """Make the bridge anew if someone deleted it; costs a few microseconds otherwise."""
        with contextlib.suppress(OSError):  # no such interface
            if socket.if_nametoindex(self._config.name) == self._number:
                return
        logger.warning("bridge %s is gone: making it anew", self._config.name)
        self._number = await aio.run_blocking(self._remake_bridge)
        self._pool.use(self._port_flags())
        if self._firewall is not None:
            bridge.allow_loopback_routing(self._config.name)


    def _remake_bridge(self) -> int:
        with self._host_lock:
            number = bridge.ensure_bridge(
                self._host, self._config.name, self._plan, mtu=self._config.mtu)
            links = {endpoint.link for endpoint in self._endpoints.values()}
            bridge.adopt_ports(self._host, number, links)
        return number


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _ipv4(text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError as error:
        message = f"invalid IPv4 address: {text}"
        raise InvalidParameterError(message) from error


def _host_key() -> str:
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
