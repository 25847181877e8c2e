"""Address management: free pools for networks, free addresses in a subnet, MACs.

Owns   decisions only; no I/O.
Runs   anywhere.
Spec   libnetwork's default IPAM driver and default local address pools; dockerd ``--bip``,
       ``--fixed-cidr``, ``--default-address-pool``.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError, SystemFailureError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from pallet.config import BridgeConfig

DEFAULT_POOLS: tuple[tuple[str, int], ...] = (
    ("172.17.0.0/16", 16), ("172.18.0.0/16", 16), ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16), ("172.24.0.0/14", 16), ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
)
"""Docker's local pools: ``(base, prefix length of a network)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The addresses of a bridge network."""

    subnet: ipaddress.IPv4Network
    gateway: ipaddress.IPv4Address
    """The bridge's own address."""
    route: ipaddress.IPv4Address
    """Where containers send what is not on the bridge; the gateway unless configured."""
    ip_range: ipaddress.IPv4Network | None = None
    """Where containers' addresses come from (``--fixed-cidr``); None is the whole subnet."""
    subnet6: ipaddress.IPv6Network | None = None
    gateway6: ipaddress.IPv6Address | None = None


def plan_bridge(
    config: BridgeConfig, *, in_use: Collection[ipaddress.IPv4Network],
    existing: ipaddress.IPv4Interface | None, host_key: str,
) -> Plan:
    """Decide the default bridge's addresses.

    Args:
        config: what the user fixed.
        in_use: networks of the host's routes and interfaces, without the bridge's own.
        existing: the address the bridge already has, or had when the daemon ran last; it is kept
            where nothing else is asked for.
        host_key: stands for this host; the IPv6 prefix is made of it when none is configured.

    Raises:
        InvalidParameterError: the settings contradict one another.
        SystemFailureError: every pool overlaps with the host's networks.
    """
    if config.bip is not None:
        interface = _interface(config.bip)
    elif existing is not None and not _overlaps(existing.network, in_use):
        interface = existing
    else:
        subnet = choose_subnet(config.address_pools or DEFAULT_POOLS, in_use)
        interface = ipaddress.IPv4Interface(f"{subnet[1]}/{subnet.prefixlen}")
    subnet, gateway = interface.network, interface.ip
    ip_range = None
    if config.fixed_cidr:
        ip_range = _network4(config.fixed_cidr)
        if not ip_range.subnet_of(subnet):
            message = f"fixed-cidr {ip_range} is not inside the bridge's subnet {subnet}"
            raise InvalidParameterError(message)
    route = gateway
    if config.default_gateway:
        route = ipaddress.IPv4Address(config.default_gateway)
        if route not in subnet:
            message = f"default gateway {route} is not inside the bridge's subnet {subnet}"
            raise InvalidParameterError(message)
    subnet6 = gateway6 = None
    if config.ipv6:
        subnet6 = _network6(config.fixed_cidr_v6) if config.fixed_cidr_v6 else (
            unique_local_prefix(f"{host_key}/{config.name}"))
        gateway6 = subnet6[1]
    return Plan(subnet=subnet, gateway=gateway, route=route, ip_range=ip_range,
                subnet6=subnet6, gateway6=gateway6)


def choose_subnet(
    pools: Sequence[tuple[str, int]], in_use: Collection[ipaddress.IPv4Network],
) -> ipaddress.IPv4Network:
    """Return the first subnet of ``pools`` that overlaps with none of ``in_use``.

    Raises:
        SystemFailureError: there is none; in Docker's words.
    """
    for base, prefix_len in pools:
        for subnet in _network4(base).subnets(new_prefix=prefix_len):
            if not _overlaps(subnet, in_use):
                return subnet
    raise SystemFailureError(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to "
        "assign to the network")


def unique_local_prefix(key: str) -> ipaddress.IPv6Network:
    """Derive a stable ``fdxx:xxxx:xxxx::/64`` from ``key`` (RFC 4193 prefix)."""
    digest = hashlib.sha256(key.encode()).digest()
    return ipaddress.IPv6Network((b"\xfd" + digest[:5] + bytes(10), 64))


def mac_of(address: ipaddress.IPv4Address) -> str:
    """``02:42:`` and the address's bytes: no two containers of a subnet share one."""
    return "02:42:" + address.packed.hex(":")


class AddressSpace:
    """The addresses of one subnet that are out.

    The search goes on from where it ended last, so an address comes back as late as possible:
    the kernel takes a dead container's namespace down in the background, and until then it still
    answers ARP for its address.
    """

    def __init__(
        self, subnet: ipaddress.IPv4Network, *, ip_range: ipaddress.IPv4Network | None = None,
        reserved: Collection[ipaddress.IPv4Address] = (), cursor: int = 0,
    ) -> None:
        """``reserved`` are never given out (gateways); ``cursor`` is an offset in the range."""
        self._subnet = subnet
        pool = ip_range or subnet
        self._first = int(pool.network_address)
        self._count = pool.num_addresses
        ends = {int(subnet.network_address), int(subnet.broadcast_address)}
        self._taken = {int(address) for address in reserved} | (
            ends if subnet.prefixlen < 31 else set())
        self._reserved = frozenset(self._taken)
        self.cursor = cursor % self._count

    def take(self) -> ipaddress.IPv4Address:
        """Return a free address and mark it as taken.

        Raises:
            SystemFailureError: ``no available IPv4 addresses on this network's address pools``.
        """
        for offset in self._offsets():
            value = self._first + offset
            if value not in self._taken:
                self._taken.add(value)
                self.cursor = (offset + 1) % self._count
                return ipaddress.IPv4Address(value)
        raise SystemFailureError(
            "no available IPv4 addresses on this network's address pools: bridge")

    def claim(self, address: ipaddress.IPv4Address) -> None:
        """Mark one address as taken.

        Raises:
            InvalidParameterError: it is not in the subnet.
            SystemFailureError: ``Address already in use``.
        """
        if address not in self._subnet:
            message = (f"invalid endpoint settings: no configured subnet contains IP address "
                       f"{address}")
            raise InvalidParameterError(message)
        if int(address) in self._taken:
            raise SystemFailureError("Address already in use")
        self._taken.add(int(address))

    def free(self, address: ipaddress.IPv4Address) -> None:
        """Give an address back; harmless if it is not out."""
        if int(address) not in self._reserved:
            self._taken.discard(int(address))

    def __contains__(self, address: ipaddress.IPv4Address) -> bool:
        """Tell whether an address is taken or reserved."""
        return int(address) in self._taken

    def _offsets(self) -> Iterator[int]:
        yield from range(self.cursor, self._count)
        yield from range(self.cursor)


def with_suffix_of(
    subnet: ipaddress.IPv6Network, address: ipaddress.IPv4Address,
    subnet4: ipaddress.IPv4Network,
) -> ipaddress.IPv6Address:
    """Return the IPv6 address at the same offset in ``subnet`` as ``address`` has in its own.

    Raises:
        InvalidParameterError: the IPv6 subnet is too small for that.
    """
    offset = int(address) - int(subnet4.network_address)
    if offset >= subnet.num_addresses:
        message = f"IPv6 subnet {subnet} is smaller than the IPv4 subnet {subnet4}"
        raise InvalidParameterError(message)
    return subnet[offset]


def _overlaps(subnet: ipaddress.IPv4Network, others: Collection[ipaddress.IPv4Network]) -> bool:
    return any(subnet.overlaps(other) for other in others)


def _interface(text: str) -> ipaddress.IPv4Interface:
    try:
        interface = ipaddress.IPv4Interface(text)
    except ValueError as error:
        message = f"invalid bip {text!r}: {error}"
        raise InvalidParameterError(message) from error
    if interface.ip == interface.network.network_address and interface.network.prefixlen < 31:
        message = f"invalid bip {text!r}: it is the network's own address, not a host's"
        raise InvalidParameterError(message)
    return interface


def _network4(text: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text, strict=False)
    except ValueError as error:
        message = f"invalid CIDR address: {text}"
        raise InvalidParameterError(message) from error


def _network6(text: str) -> ipaddress.IPv6Network:
    try:
        return ipaddress.IPv6Network(text, strict=False)
    except ValueError as error:
        message = f"invalid CIDR address: {text}"
        raise InvalidParameterError(message) from error
