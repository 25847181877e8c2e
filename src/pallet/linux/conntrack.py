"""Connection tracking: dropping tracked UDP flows.

Owns   the wire form of NFNL_SUBSYS_CTNETLINK, as far as it is needed.
Runs   on a worker: the table of a busy host has a hundred thousand entries.
Needs  CAP_NET_ADMIN over the caller's network namespace.
Spec   <linux/netfilter/nfnetlink_conntrack.h>.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING

from pallet.errors import SyscallError
from pallet.linux import netlink
from pallet.linux.netlink import Message, attribute, attributes

if TYPE_CHECKING:
    from collections.abc import Collection

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ZONE = 1, 2, 18
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V6_SRC = 1, 3
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT = 1, 2
_ENOENT = 2


def delete_udp_flows(targets: Collection[tuple[str, int]]) -> int:
    """Drop every tracked UDP flow whose far end, after translation, is one of ``targets``.

    Without it a client that keeps its source port goes on to be led to a container that is gone.

    Args:
        targets: ``(address, port)`` pairs.

    Returns:
        How many flows were dropped.

    Raises:
        SyscallError: connection tracking cannot be read.
    """
    packed = {(ipaddress.ip_address(address).packed, port) for address, port in targets}
    needles = {address for address, _port in packed}
    dropped = 0
    with netlink.Netlink(netlink.NETLINK_NETFILTER) as link:
        for family in {socket.AF_INET if len(a) == 4 else socket.AF_INET6 for a in needles}:
            head = struct.pack("=BBH", family, 0, 0)
            for body in link.query(Message("get flows", _GET, netlink.NLM_F_DUMP, head)):
                # Most entries are others': look for the bytes before taking an entry apart.
                if not any(needle in body for needle in needles):
                    continue
                entry = attributes(body[4:])
                if _answering_end(entry.get(CTA_TUPLE_REPLY, b"")) not in packed:
                    continue
                dropped += _delete(link, head, entry)
    return dropped


def _answering_end(reply: bytes) -> tuple[bytes, int] | None:
    """Source of the reply direction: the container as the kernel sees it; None if not UDP."""
    parts = attributes(reply)
    proto = attributes(parts.get(CTA_TUPLE_PROTO, b""))
    if proto.get(CTA_PROTO_NUM, b"\0")[0] != socket.IPPROTO_UDP:
        return None
    addresses = attributes(parts.get(CTA_TUPLE_IP, b""))
    source = addresses.get(CTA_IP_V4_SRC) or addresses.get(CTA_IP_V6_SRC) or b""
    return source, int.from_bytes(proto.get(CTA_PROTO_SRC_PORT, b""), "big")


def _delete(link: netlink.Netlink, head: bytes, entry: dict[int, bytes]) -> int:
    body = head + attribute(CTA_TUPLE_ORIG | netlink.NLA_F_NESTED, entry[CTA_TUPLE_ORIG])
    if CTA_ZONE in entry:
        body += attribute(CTA_ZONE, entry[CTA_ZONE])
    try:
        link.request(Message("delete flow", _DELETE, 0, body))
    except SyscallError as error:
        if error.errno == _ENOENT:  # it timed out meanwhile
            return 0
        raise
    return 1
