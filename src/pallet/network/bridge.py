"""The default bridge: the link itself, its addresses, the kernel settings it needs.

Owns   one bridge link in the daemon's network namespace and the sysctls below ``/proc/sys/net``.
Runs   on the blocking pool: link changes wait for the kernel's link lock.
Needs  CAP_NET_ADMIN; a writable ``/proc/sys/net`` for forwarding.
Spec   libnetwork's bridge driver (set-up steps), ip-sysctl.rst.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pallet.errors import SyscallError, SystemFailureError
from pallet.linux import netlink

if TYPE_CHECKING:
    from collections.abc import Collection

    from pallet.network.ipam import Plan

ALIAS = "pallet"
"""Marks a bridge as made by Pallet; a bridge without it is the user's and is never deleted."""

_SYSCTL = Path("/proc/sys/net")


class HostNetworks:
    """What the host's interfaces and routes occupy, as of construction."""

    def __init__(self, link: netlink.Netlink, bridge: str) -> None:
        found = netlink.find_link(link, bridge)
        own = found.number if found else -1
        self.bridge = found
        self.in_use: list[ipaddress.IPv4Network] = []
        self.bridge_address: ipaddress.IPv4Interface | None = None
        for number, interface in netlink.addresses(link):
            if not isinstance(interface, ipaddress.IPv4Interface):
                continue
            if number != own:
                self.in_use.append(interface.network)
            elif self.bridge_address is None:
                self.bridge_address = interface
        for number, network in netlink.routes(link):
            if number != own and isinstance(network, ipaddress.IPv4Network):
                self.in_use.append(network)


def ensure_bridge(link: netlink.Netlink, name: str, plan: Plan, *, mtu: int) -> int:
    """Create or repair the bridge: link, addresses, up. Returns its index.

    Raises:
        SystemFailureError: the kernel refuses, or a link of that name is no bridge.
    """
    try:
        found = netlink.find_link(link, name)
        if found is None:
            mac = "02:42:" + os.urandom(4).hex(":")
            link.request(netlink.bridge_add(name, mac=mac, mtu=mtu))
            found = netlink.find_link(link, name)
            if found is not None:  # the kernel takes no alias when it makes a link
                link.request(netlink.link_set(found.number, alias=ALIAS))
        if found is None or found.kind != "bridge":
            message = f"cannot use {name} as a bridge: a link of that name is something else"
            raise SystemFailureError(message)
        if plan.subnet6 is None:
            # No link-local address either: no neighbour discovery traffic on every port.
            with contextlib.suppress(SyscallError):
                link.request(netlink.link_without_ipv6_address(found.number))
        else:
            _allow_ipv6(name)
        _set_addresses(link, found.number, plan)
        link.request(netlink.link_up(found.number))
    except SyscallError as error:
        message = f"Failed to create bridge {name}: {error}"
        raise SystemFailureError(message) from error
    return found.number


def _set_addresses(link: netlink.Netlink, number: int, plan: Plan) -> None:
    wanted: list[netlink.IPInterface] = [
        ipaddress.IPv4Interface(f"{plan.gateway}/{plan.subnet.prefixlen}")]
    if plan.subnet6 is not None:
        wanted += [ipaddress.IPv6Interface(f"{plan.gateway6}/{plan.subnet6.prefixlen}"),
                   ipaddress.IPv6Interface("fe80::1/64")]
    present = [interface for at, interface in netlink.addresses(link) if at == number]
    for interface in present:
        if isinstance(interface, ipaddress.IPv4Interface) and interface not in wanted:
            link.request(netlink.address_delete(number, interface))
    link.request(*[
        netlink.address_add(number, interface)
        for interface in wanted if interface not in present])


def _allow_ipv6(name: str) -> None:
    write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0")
    write_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
    # Its link-local address asks for containers on behalf of others; while duplicate detection
    # still runs, for two seconds, it would not.
    write_sysctl(f"ipv6/conf/{name}/accept_dad", "0")


def delete_bridge(link: netlink.Netlink, name: str) -> bool:
    """Delete the bridge if Pallet made it; tells whether it did."""
    found = netlink.find_link(link, name)
    if found is None or found.kind != "bridge" or found.alias != ALIAS:
        return False
    with contextlib.suppress(SyscallError):
        link.request(netlink.link_delete(found.number))
    return True


def adopt_ports(link: netlink.Netlink, number: int, names: Collection[str]) -> None:
    """Put ``names`` back on the bridge: those that have lost it with an earlier bridge."""
    if not names:
        return
    for port in netlink.links(link):
        if port.name in names and port.master != number:
            link.request(netlink.link_set(port.number, master=number), netlink.link_up(port.number))


def delete_ports(link: netlink.Netlink, number: int, *, keep: Collection[str]) -> list[str]:
    """Delete the bridge's veth ports but those named in ``keep``; returns their names.

    An earlier daemon's pool and containers that died meanwhile leave some: the kernel is about to
    delete those by itself, so a vanished link is no error.
    """
    deleted = []
    for port in netlink.links(link):
        if port.master != number or port.kind != "veth" or port.name in keep:
            continue
        try:
            link.request(netlink.link_delete(port.number))
        except SyscallError as error:
            if error.errno != errno.ENODEV:
                raise
        deleted.append(port.name)
    return deleted


# --- kernel settings -----------------------------------------------------------------------------


def write_sysctl(name: str, value: str) -> bool:
    """Set ``net/<name>`` unless it has that value already; False if the host forbids it."""
    path = _SYSCTL / name
    try:
        if path.read_text(encoding="ascii").strip() != value:
            path.write_text(value, encoding="ascii")
    except OSError:
        return False
    return True


def enable_forwarding(*, ipv6: bool) -> list[str]:
    """Turn routing on and never off, as Docker does; returns what could not be set."""
    names = ["ipv4/ip_forward"]
    if ipv6:
        names += ["ipv6/conf/default/forwarding", "ipv6/conf/all/forwarding"]
    return [name for name in names if not write_sysctl(name, "1")]


def allow_loopback_routing(bridge: str) -> bool:
    """Let connections from 127.0.0.1 be translated to containers on ``bridge``.

    Only with the firewall's ``guard`` chain in place: without it containers could reach the host's
    127.0.0.0/8.
    """
    return write_sysctl(f"ipv4/conf/{bridge}/route_localnet", "1")


def bridged_packets_are_filtered() -> bool:
    """Tell whether br_netfilter passes bridged packets through the IP hooks."""
    try:
        value = (_SYSCTL / "bridge/bridge-nf-call-iptables").read_text(encoding="ascii")
    except OSError:
        return False
    return value.strip() == "1"


def host_has_ipv6() -> bool:
    """Tell whether ``[::]`` can be bound on this host."""
    try:
        disabled = (_SYSCTL / "ipv6/conf/all/disable_ipv6").read_text(encoding="ascii")
    except OSError:
        return False
    return disabled.strip() == "0"
