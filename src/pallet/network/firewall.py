"""The nftables table of one bridge: NAT for published ports, masquerading, isolation.

Owns   the table ``inet pallet`` (``inet pallet-<bridge>`` for another bridge than ``pallet0``) and
       nothing else: no chain or rule of anyone else is read on a container's path or ever changed.
       All its base chains have policy accept, and a base chain's accept ends only itself, so what
       the user's own tables drop stays dropped.
Runs   in the daemon, on the loop (a transaction of elements takes tens of microseconds).
Needs  CAP_NET_ADMIN, nf_tables. Without them the port proxy carries the traffic.

The rules never change after ``install``: publishing a port adds an element to a map.

```
map  addr4, addr6   host address . protocol . host port : container address . container port
map  any4, any6                    protocol . host port : container address . container port

guard        prerouting raw   from the bridge to 127.0.0.0/8: drop (the bridge has route_localnet)
prerouting   dstnat           not from the bridge, not to 127.0.0.0/8, to a local address: publish
output       dstnat           not to ::1, to a local address: publish
publish                       dnat by addr4, any4, addr6, any6
postrouting  srcnat           from the subnet, not to the bridge: masquerade
                              from 127.0.0.0/8 to the bridge: masquerade
forward      filter           to the bridge: established, within the bridge, or published; else drop
```

A container that goes through the host's address to a published port is not translated but reaches
the listener and so the port proxy, as with Docker: with br_netfilter a translated packet would be
bridged back to its own port, where the bridge drops it. Only without the user-land proxy is it
translated, and then (with br_netfilter) the ports are hairpin ports.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.errors import SyscallError
from pallet.linux import nft
from pallet.linux.nft import NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NFT_CMP_NEQ, NFT_REG32_00

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pallet.linux.netlink import Message
    from pallet.network.model import PublishedPort

logger = logging.getLogger(__name__)

PRIORITY_RAW, PRIORITY_DSTNAT, PRIORITY_FILTER, PRIORITY_SRCNAT = -300, -100, 0, 100
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_ANY = ("0.0.0.0", "::")

_TARGET4 = nft.concatenation(nft.IPV4_ADDR, nft.INET_SERVICE)
_TARGET6 = nft.concatenation(nft.IPV6_ADDR, nft.INET_SERVICE)
_PORT = (nft.INET_PROTO, nft.INET_SERVICE)
MAPS = {
    "addr4": (nft.concatenation(nft.IPV4_ADDR, *_PORT), _TARGET4),
    "any4": (nft.concatenation(*_PORT), _TARGET4),
    "addr6": (nft.concatenation(nft.IPV6_ADDR, *_PORT), _TARGET6),
    "any6": (nft.concatenation(*_PORT), _TARGET6),
}
"""Map name to key type and value type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOptions:
    """What the rules of one bridge depend on."""

    bridge: str
    subnet: ipaddress.IPv4Network
    subnet6: ipaddress.IPv6Network | None = None
    masquerade: bool = True
    inter_container: bool = True
    translate_from_bridge: bool = False
    """Also translate what comes from the bridge itself (no user-land proxy)."""

    @property
    def table(self) -> str:
        """Name of the table."""
        return "pallet" if self.bridge == "pallet0" else f"pallet-{self.bridge}"


def map_element(port: PublishedPort) -> tuple[str, bytes, bytes] | None:
    """Return ``(map, key, value)`` of a published port, None where NAT cannot carry it.

    NAT cannot go from an IPv6 address to a container that has only an IPv4 one.
    """
    host, target = ipaddress.ip_address(port.host_ip), ipaddress.ip_address(port.target_ip)
    if host.version != target.version:
        return None
    # Every field of a concatenation fills whole 32-bit registers.
    key = struct.pack("=B3x", _PROTOCOLS[port.proto]) + struct.pack(">H2x", port.host_port)
    value = target.packed + struct.pack(">H2x", port.container_port)
    if port.host_ip in _ANY:
        return f"any{host.version}", key, value
    return f"addr{host.version}", host.packed + key, value


class Firewall:
    """The installed table. Keeps what is published, to rebuild the table if it vanishes."""

    def __init__(self, options: RuleOptions) -> None:
        self._options = options
        self._nft = nft.Nftables()
        self._elements: dict[str, dict[bytes, bytes]] = {name: {} for name in MAPS}

    def close(self) -> None:
        """Close the socket; the table stays."""
        self._nft.close()

    def install(self, ports: Iterable[PublishedPort]) -> None:
        """Replace the table by a new one that publishes ``ports``, in one transaction.

        Raises:
            SyscallError: the kernel lacks nf_tables or refuses.
        """
        self._elements = {name: {} for name in MAPS}
        for port in ports:
            if (element := map_element(port)) is not None:
                self._elements[element[0]][element[1]] = element[2]
        self._rebuild()

    def publish(self, ports: Iterable[PublishedPort]) -> None:
        """Add the map elements of ``ports``, all or none.

        Raises:
            SyscallError: EEXIST when another container's element is in the way.
        """
        self._change([e for port in ports if (e := map_element(port)) is not None], add=True)

    def unpublish(self, ports: Iterable[PublishedPort]) -> None:
        """Delete the map elements of ``ports``; those that are not there are passed over."""
        elements = [e for port in ports if (e := map_element(port)) is not None]
        self._change([e for e in elements if self._elements[e[0]].get(e[1]) == e[2]], add=False)

    def remove(self) -> None:
        """Delete the table; harmless when it is gone already."""
        try:
            self._nft.commit([nft.table_delete(NFPROTO_INET, self._options.table)])
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise

    def forward_is_dropped(self) -> bool:
        """Tell whether a table of someone else drops forwarded packets by policy."""
        chains = [chain for family in (NFPROTO_IPV4, NFPROTO_INET)
                  for chain in self._nft.base_chains(family)]
        return any(hook == nft.NF_INET_FORWARD and policy == nft.NF_DROP
                   for _table, _chain, hook, policy in chains)

    def _change(self, elements: list[tuple[str, bytes, bytes]], *, add: bool) -> None:
        grouped: dict[str, dict[bytes, bytes]] = {}
        for name, key, value in elements:
            grouped.setdefault(name, {})[key] = value
        table = self._options.table
        messages: list[Message] = []
        for name, pairs in grouped.items():
            messages += (
                nft.elements_add(NFPROTO_INET, table, name, pairs) if add
                else nft.elements_delete(NFPROTO_INET, table, name, list(pairs)))
        missing = False
        try:
            self._nft.commit(messages)
        except SyscallError as error:
            # Someone flushed the rule set (``nft flush ruleset``, a firewall's restart).
            if error.errno != errno.ENOENT:
                raise
            missing = True
        for name, pairs in grouped.items():
            for key, value in pairs.items():
                if add:
                    self._elements[name][key] = value
                else:
                    self._elements[name].pop(key, None)
        if missing:
            logger.warning("nftables table %s is gone or was changed: installing it anew", table)
            self._rebuild()

    def _rebuild(self) -> None:
        table = self._options.table
        # Adding it first makes the deletion succeed whether or not it was there.
        messages = [nft.table_add(NFPROTO_INET, table), nft.table_delete(NFPROTO_INET, table)]
        messages += ruleset(self._options)
        for name, pairs in self._elements.items():
            messages += nft.elements_add(NFPROTO_INET, table, name, pairs)
        self._nft.commit(messages)


# --- rules ---------------------------------------------------------------------------------------


def ruleset(options: RuleOptions) -> list[Message]:
    """Return the messages that create the table, its maps, chains and rules."""
    table = options.table
    messages = [nft.table_add(NFPROTO_INET, table)]
    messages += [
        nft.map_add(NFPROTO_INET, table, name, set_id=at, key=key, data=data)
        for at, (name, (key, data)) in enumerate(MAPS.items(), 1)]
    hooks = {
        "guard": ("filter", nft.NF_INET_PRE_ROUTING, PRIORITY_RAW),
        "prerouting": ("nat", nft.NF_INET_PRE_ROUTING, PRIORITY_DSTNAT),
        "output": ("nat", nft.NF_INET_LOCAL_OUT, PRIORITY_DSTNAT),
        "postrouting": ("nat", nft.NF_INET_POST_ROUTING, PRIORITY_SRCNAT),
        "forward": ("filter", nft.NF_INET_FORWARD, PRIORITY_FILTER),
    }
    messages += [nft.chain_add(NFPROTO_INET, table, name) for name in ("publish", "to_bridge")]
    messages += [
        nft.chain_add(NFPROTO_INET, table, name, type_=kind, hook=hook, priority=priority)
        for name, (kind, hook, priority) in hooks.items()]
    messages += [
        nft.rule_add(NFPROTO_INET, table, chain, expressions, comment=comment)
        for chain, expressions, comment in (
            *_destination_rules(options), *_source_rules(options), *_forward_rules(options))]
    return messages


Rule = tuple[str, list[bytes], str]
"""Chain, expressions, comment."""


def _interface(key: int, name: str, operator: int = nft.NFT_CMP_EQ) -> list[bytes]:
    # Names are compared over the whole 16 bytes (IFNAMSIZ), zero padded.
    return [nft.meta(key), nft.compare(name.encode().ljust(16, b"\0"), operator)]


def _from(name: str, operator: int = nft.NFT_CMP_EQ) -> list[bytes]:
    return _interface(nft.NFT_META_IIFNAME, name, operator)


def _to(name: str, operator: int = nft.NFT_CMP_EQ) -> list[bytes]:
    return _interface(nft.NFT_META_OIFNAME, name, operator)


def _version(version: int) -> list[bytes]:
    family = NFPROTO_IPV4 if version == 4 else NFPROTO_IPV6
    return [nft.meta(nft.NFT_META_NFPROTO), nft.compare(bytes([family]))]


def _address(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, *, source: bool,
    operator: int = nft.NFT_CMP_EQ,
) -> list[bytes]:
    size = network.max_prefixlen // 8
    offset = (12 if source else 16) if network.version == 4 else (8 if source else 24)
    return [
        *_version(network.version),
        nft.payload(nft.NFT_PAYLOAD_NETWORK_HEADER, offset, size),
        nft.masked(network.netmask.packed),
        nft.compare(network.network_address.packed, operator)]


_LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
_LOOPBACK6 = ipaddress.IPv6Network("::1/128")


def _destination_rules(options: RuleOptions) -> list[Rule]:
    publish = [nft.destination_type(), nft.compare(struct.pack("=I", nft.RTN_LOCAL)),
               nft.verdict(nft.NFT_GOTO, "publish")]
    own = [] if options.translate_from_bridge else _from(options.bridge, NFT_CMP_NEQ)
    rules: list[Rule] = [
        ("guard", [*_from(options.bridge), *_address(_LOOPBACK, source=False),
                   nft.verdict(nft.NF_DROP)], "the host's loopback is not the containers'"),
        ("prerouting", [*own, *_address(_LOOPBACK, source=False, operator=NFT_CMP_NEQ), *publish],
         ""),
        ("prerouting", [*own, *_version(6), *publish], ""),
        ("output", [*_version(4), *publish], ""),
        ("output", [*_address(_LOOPBACK6, source=False, operator=NFT_CMP_NEQ), *publish], ""),
    ]
    for version in (4, 6):
        registers = 4 if version == 6 else 1
        rules += [("publish", _translation(version, registers, specific=specific), "")
                  for specific in (True, False)]
    return rules


def _translation(version: int, registers: int, *, specific: bool) -> list[bytes]:
    """DNAT by one map: its key is loaded into 32-bit registers side by side."""
    family = NFPROTO_IPV4 if version == 4 else NFPROTO_IPV6
    at = NFT_REG32_00
    expressions = _version(version)
    if specific:
        offset = 16 if version == 4 else 24
        expressions.append(
            nft.payload(nft.NFT_PAYLOAD_NETWORK_HEADER, offset, registers * 4, register=at))
        at += registers
    return [
        *expressions,
        nft.meta(nft.NFT_META_L4PROTO, register=at),
        nft.payload(nft.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, register=at + 1),
        nft.lookup(f"{'addr' if specific else 'any'}{version}", key=NFT_REG32_00,
                   result=NFT_REG32_00),
        nft.destination_nat(family, address=NFT_REG32_00, port=NFT_REG32_00 + registers)]


def _has_bits(key: int, bits: int) -> list[bytes]:
    return [nft.connection(key), nft.masked(struct.pack("=I", bits)),
            nft.compare(bytes(4), NFT_CMP_NEQ)]


def _source_rules(options: RuleOptions) -> list[Rule]:
    bridge = options.bridge
    rules: list[Rule] = []
    for subnet in (options.subnet, options.subnet6):
        if subnet is None:
            continue
        inside = _address(subnet, source=True)
        if options.masquerade:
            rules.append(("postrouting", [*_to(bridge, NFT_CMP_NEQ), *inside, nft.masquerade()],
                          "containers to the world"))
        if options.translate_from_bridge:
            rules.append(("postrouting", [
                *_to(bridge), *inside, *_has_bits(nft.NFT_CT_STATUS, nft.IPS_DST_NAT),
                nft.masquerade()], "containers to their own published ports"))
    rules.append(("postrouting", [
        *_to(bridge), *_address(_LOOPBACK, source=True), nft.masquerade()],
        "127.0.0.1 to published ports"))
    return rules


def _forward_rules(options: RuleOptions) -> list[Rule]:
    bridge = options.bridge
    established = nft.CT_STATE_ESTABLISHED | nft.CT_STATE_RELATED
    published = _has_bits(nft.NFT_CT_STATUS, nft.IPS_DST_NAT)
    accept, drop = nft.verdict(nft.NF_ACCEPT), nft.verdict(nft.NF_DROP)
    rules: list[Rule] = [
        ("forward", [*_to(bridge), nft.verdict(nft.NFT_JUMP, "to_bridge")], ""),
        ("to_bridge", [*_has_bits(nft.NFT_CT_STATE, established), accept], "answers"),
        ("to_bridge", [*published, accept], "published ports"),
    ]
    if options.inter_container:
        rules.append(("to_bridge", [*_from(bridge), accept], "containers to each other"))
    rules.append(("to_bridge", [nft.counter(), drop], "not published"))
    return rules
