"""Making network sandboxes: namespaces whose ``eth0`` is already on a bridge of the host.

Owns   the worker ``network.sandboxes``.
Runs   in a child of the zygote, which starts in the host's network namespace: one fork makes a
       batch, and all that waits for the kernel's link lock waits here and not in the daemon.
Needs  CAP_NET_ADMIN.
Spec   network_namespaces(7), veth(4), rtnetlink(7).

A sandbox exists only through its descriptor: when the last copy is closed, by whatever death, the
kernel removes the namespace and the pair of links.
"""

from __future__ import annotations

import ipaddress
import os

import msgspec

from pallet.errors import SyscallError
from pallet.linux import namespaces, netlink

LOOPBACK = 1
"""Index of ``lo`` in every namespace."""
_ENODEV = 19


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sandbox to make. Addresses are text with a prefix length."""

    link: str
    """Name of the host's end."""
    mac: str
    address: str
    gateway: str
    address6: str = ""
    gateway6: str = ""


class MakeSandboxes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The request: sandboxes on one bridge. The answer is their descriptors, in order."""

    bridge: int
    """Index of the bridge."""
    mtu: int
    isolated: bool = False
    """Ports of the bridge cannot reach each other."""
    hairpin: bool = False
    """Frames may leave by the port they came from."""
    plans: list[Plan]


_decoder = msgspec.json.Decoder(MakeSandboxes)


def run(request: bytes, _fds: list[int]) -> tuple[bytes, list[int]]:
    """Make all sandboxes of a request; this process ends up in the last one's namespace.

    Raises:
        SyscallError: the kernel refused. What was made goes with this process.
    """
    wanted = _decoder.decode(request)
    found = []
    with netlink.Netlink() as host:
        for plan in wanted.plans:
            namespaces.unshare(namespaces.CLONE_NEWNET)
            found.append(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            with netlink.Netlink() as inside:
                _furnish(host, inside, found[-1], wanted, plan)
    return b"", found


def _furnish(
    host: netlink.Netlink, inside: netlink.Netlink, netns_fd: int, wanted: MakeSandboxes,
    plan: Plan,
) -> None:
    messages = [netlink.veth_add(
        plan.link, master=wanted.bridge, mtu=wanted.mtu, peer_name="eth0", peer_netns_fd=netns_fd,
        peer_mac=plan.mac)]
    if wanted.isolated or wanted.hairpin:
        messages.append(netlink.bridge_port_set(
            plan.link, isolated=wanted.isolated, hairpin=wanted.hairpin))
    host.request(*messages)
    found = netlink.find_link(inside, "eth0")
    if found is None:
        raise SyscallError("get link", _ENODEV, "eth0")
    number = found.number
    messages = [netlink.link_up(LOOPBACK)]
    if not plan.address6:
        messages.append(netlink.link_without_ipv6_address(number))
    messages += [
        netlink.link_up(number),
        netlink.address_add(number, ipaddress.IPv4Interface(plan.address)),
        netlink.default_route_add(number, ipaddress.IPv4Address(plan.gateway))]
    if plan.address6:
        messages += [
            netlink.address_add(number, ipaddress.IPv6Interface(plan.address6)),
            netlink.default_route_add(number, ipaddress.IPv6Address(plan.gateway6))]
    inside.request(*messages)
