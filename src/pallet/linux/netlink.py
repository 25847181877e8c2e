"""Netlink sockets, and rtnetlink messages: links, addresses, routes.

Owns   the wire form of NETLINK_ROUTE. Builders return ``Message`` values and do no I/O; ``Netlink``
       sends a batch of them with one ``send`` and reads the answers.
Runs   anywhere; synchronous. One call takes microseconds, but any change of a link waits for the
       kernel's link lock, which the clean-up of dead namespaces may hold for milliseconds: in the
       daemon, call from the blocking pool.
Needs  CAP_NET_ADMIN over the namespace the socket was opened in (which may be another than the
       caller's: the socket keeps it).
Spec   netlink(7), rtnetlink(7), <linux/if_link.h>, <linux/rtnetlink.h>.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

from pallet.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Iterator

# <linux/netlink.h>
NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_MULTI = 0x2
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_GET_STRICT_CHK = 12

# <linux/rtnetlink.h>
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 3, 0, 1
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15

# <linux/if_link.h>, <linux/if_addr.h>, <linux/veth.h>
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_NET_NS_FD = 20, 26, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
IFLA_BR_FORWARD_DELAY, IFLA_BR_STP_STATE = 1, 5
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
VETH_INFO_PEER = 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD = 0x02
IFF_UP = 0x1

_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_RECEIVE_BYTES = 32 * 1024
"""The kernel fills dumps up to this; a larger buffer costs an mmap a call."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Message(NamedTuple):
    """One request: what it is called in errors, its type, extra flags, body, and its object."""

    call: str
    type: int
    flags: int
    body: bytes
    about: str = ""


class Link(NamedTuple):
    """A network interface."""

    number: int
    name: str
    kind: str
    """``bridge``, ``veth``, …; empty for hardware and loopback."""
    master: int
    """Index of the bridge it is a port of, 0 for none."""
    up: bool
    mtu: int
    mac: str
    alias: str = ""


def attribute(kind: int, value: bytes) -> bytes:
    """Encode one attribute, padded to four bytes."""
    size = len(value) + 4
    return _ATTR.pack(size, kind) + value + b"\0" * (-size & 3)


def nested(kind: int, *values: bytes) -> bytes:
    """Encode an attribute that holds others."""
    return attribute(kind | NLA_F_NESTED, b"".join(values))


def text(kind: int, value: str) -> bytes:
    """Encode a zero-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """Encode a 32-bit number in host order."""
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes) -> dict[int, bytes]:
    """Decode a run of attributes; a later one of the same type wins."""
    found: dict[int, bytes] = {}
    offset, end = 0, len(data)
    while offset + 4 <= end:
        size, kind = _ATTR.unpack_from(data, offset)
        if size < 4:
            break
        found[kind & NLA_TYPE_MASK] = data[offset + 4:offset + size]
        offset += (size + 3) & ~3
    return found


def string(value: bytes) -> str:
    """Decode a zero-terminated string attribute."""
    return value.rstrip(b"\0").decode(errors="replace")


class Netlink:
    """A netlink socket. Not thread-safe: one user at a time."""

    def __init__(self, protocol: int = NETLINK_ROUTE, *, fd: int | None = None) -> None:
        """Open a socket in the calling thread's namespace, or take over ``fd``."""
        if fd is None:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
            self._socket.bind((0, 0))
        else:
            self._socket = socket.socket(fileno=fd)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, *messages: Message) -> None:
        """Send ``messages`` in one go; the kernel runs them in order, each on its own.

        Raises:
            SyscallError: of the first that failed; those after it were still tried.
        """
        if not messages:
            return
        first = self._sequence + 1
        parts = [
            self.encode(message, message.flags | NLM_F_REQUEST | NLM_F_ACK) for message in messages]
        self._socket.send(b"".join(parts))
        failed: SyscallError | None = None
        waiting = len(messages)
        while waiting:
            for kind, sequence, body in self.receive():
                if kind != NLMSG_ERROR or not first <= sequence < first + len(messages):
                    continue
                waiting -= 1
                code = -struct.unpack_from("=i", body)[0]
                if code and failed is None:
                    message = messages[sequence - first]
                    failed = SyscallError(message.call, code, message.about or None)
        if failed is not None:
            raise failed

    def query(self, message: Message) -> list[bytes]:
        """Send one get request and return the bodies of its answers (after the header).

        Raises:
            SyscallError: the kernel refused, for example ENODEV.
        """
        self._socket.send(self.encode(message, message.flags | NLM_F_REQUEST))
        expected = self._sequence
        found: list[bytes] = []
        while True:
            for kind, sequence, body in self.receive():
                if sequence != expected:
                    continue
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    if code:
                        raise SyscallError(message.call, code, message.about or None)
                    return found
                found.append(body)
                if message.flags & NLM_F_DUMP != NLM_F_DUMP:
                    return found

    def encode(self, message: Message, flags: int) -> bytes:
        """Number ``message`` and return it with its header."""
        self._sequence += 1
        body = message.body
        size = _HEADER.size + len(body)
        head = _HEADER.pack(size, message.type, flags, self._sequence, 0)
        return head + body + b"\0" * (-size & 3)

    @property
    def sequence(self) -> int:
        """Number of the message that was encoded last."""
        return self._sequence

    @property
    def socket(self) -> socket.socket:
        """The socket itself, for batches of other netlink families."""
        return self._socket

    def receive(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield ``(type, sequence, body)`` of each message in the next datagram."""
        data = self._socket.recv(_RECEIVE_BYTES)
        offset = 0
        while offset + _HEADER.size <= len(data):
            size, kind, _flags, sequence, _port = _HEADER.unpack_from(data, offset)
            yield kind, sequence, data[offset + _HEADER.size:offset + size]
            offset += (size + 3) & ~3


# --- links ---------------------------------------------------------------------------------------


def mac_bytes(mac: str) -> bytes:
    """``02:42:ac:11:00:02`` as six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def _link(index: int = 0, *, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(0, 0, index, flags, change)


def bridge_add(name: str, *, mac: str, mtu: int) -> Message:
    """Create a bridge that is down. A fixed ``mac`` keeps it from changing with its ports."""
    data = nested(IFLA_INFO_DATA, number(IFLA_BR_FORWARD_DELAY, 0), number(IFLA_BR_STP_STATE, 0))
    body = (_link() + text(IFLA_IFNAME, name) + number(IFLA_MTU, mtu)
            + attribute(IFLA_ADDRESS, mac_bytes(mac))
            + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"), data))
    return Message("add link", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, name)


def veth_add(
    name: str, *, master: int, mtu: int, peer_name: str, peer_netns_fd: int, peer_mac: str,
) -> Message:
    """Create a pair: ``name`` here, up and a port of bridge ``master``; its peer, down, there.

    The peer is made in the namespace of ``peer_netns_fd`` at once: it never exists here.
    """
    peer = (_link() + text(IFLA_IFNAME, peer_name) + number(IFLA_MTU, mtu)
            + attribute(IFLA_ADDRESS, mac_bytes(peer_mac)) + number(IFLA_NET_NS_FD, peer_netns_fd))
    data = nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER | NLA_F_NESTED, peer))
    body = (_link(flags=IFF_UP, change=IFF_UP) + text(IFLA_IFNAME, name) + number(IFLA_MTU, mtu)
            + number(IFLA_MASTER, master)
            + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "veth"), data))
    return Message("add link", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, name)


def bridge_port_set(
    name: str, *, isolated: bool = False, hairpin: bool = False,
) -> Message:
    """Set a bridge port's flags: isolated ports cannot reach each other; hairpin sends back."""
    data = nested(
        IFLA_INFO_SLAVE_DATA, attribute(IFLA_BRPORT_MODE, bytes([hairpin])),
        attribute(IFLA_BRPORT_ISOLATED, bytes([isolated])))
    body = (_link() + text(IFLA_IFNAME, name)
            + nested(IFLA_LINKINFO, text(IFLA_INFO_SLAVE_KIND, "bridge"), data))
    return Message("set bridge port", RTM_NEWLINK, 0, body, name)


def link_up(index: int, *, up: bool = True) -> Message:
    """Set a link up or down."""
    body = _link(index, flags=IFF_UP if up else 0, change=IFF_UP)
    return Message("set link up", RTM_NEWLINK, 0, body, str(index))


def link_set(index: int, *, mac: str | None = None, mtu: int | None = None,
             name: str | None = None, alias: str | None = None,
             master: int | None = None) -> Message:
    """Change a link's properties; None leaves one as it is."""
    body = _link(index)
    if mac is not None:
        body += attribute(IFLA_ADDRESS, mac_bytes(mac))
    if mtu is not None:
        body += number(IFLA_MTU, mtu)
    if name is not None:
        body += text(IFLA_IFNAME, name)
    if alias is not None:
        body += text(IFLA_IFALIAS, alias)
    if master is not None:
        body += number(IFLA_MASTER, master)
    return Message("set link", RTM_NEWLINK, 0, body, str(index))


def link_without_ipv6_address(index: int) -> Message:
    """Keep the kernel from giving a link an IPv6 link-local address when it goes up."""
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    body = _link(index) + nested(IFLA_AF_SPEC, nested(socket.AF_INET6, mode))
    return Message("set link address mode", RTM_NEWLINK, 0, body, str(index))


def link_delete(index: int) -> Message:
    """Delete a link (and a veth's peer)."""
    return Message("delete link", RTM_DELLINK, 0, _link(index), str(index))


def find_link(netlink: Netlink, name: str) -> Link | None:
    """Return the link called ``name``, or None if there is none."""
    message = Message("get link", RTM_GETLINK, 0, _link() + text(IFLA_IFNAME, name), name)
    try:
        found = netlink.query(message)
    except SyscallError as error:
        if error.errno == 19:  # ENODEV
            return None
        raise
    return decode_link(found[0])


def links(netlink: Netlink) -> list[Link]:
    """Return every link of the socket's namespace."""
    message = Message("get links", RTM_GETLINK, NLM_F_DUMP, _link())
    return [decode_link(body) for body in netlink.query(message)]


def decode_link(body: bytes) -> Link:
    """Decode the body of an RTM_NEWLINK message."""
    _family, _type, index, flags, _change = _IFINFO.unpack_from(body)
    found = attributes(body[_IFINFO.size:])
    info = attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        number=index,
        name=string(found.get(IFLA_IFNAME, b"")),
        kind=string(info.get(IFLA_INFO_KIND, b"")),
        master=int.from_bytes(found.get(IFLA_MASTER, b""), "little" if _LITTLE else "big"),
        up=bool(flags & IFF_UP),
        mtu=int.from_bytes(found.get(IFLA_MTU, b""), "little" if _LITTLE else "big"),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        alias=string(found.get(IFLA_IFALIAS, b"")),
    )


_LITTLE = struct.pack("=H", 1) == b"\1\0"


# --- addresses and routes ------------------------------------------------------------------------


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _address(index: int, interface: IPInterface) -> bytes:
    return _IFADDR.pack(
        _family(interface.version), interface.network.prefixlen, 0, RT_SCOPE_UNIVERSE, index)


def address_add(index: int, interface: IPInterface) -> Message:
    """Give a link an address with its prefix; IPv6 without duplicate detection."""
    packed = interface.ip.packed
    body = (_address(index, interface) + attribute(IFA_LOCAL, packed)
            + attribute(IFA_ADDRESS, packed))
    if isinstance(interface, ipaddress.IPv4Interface):
        body += attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    else:
        body += number(IFA_FLAGS, IFA_F_NODAD)
    flags = NLM_F_CREATE | NLM_F_REPLACE
    return Message("add address", RTM_NEWADDR, flags, body, str(interface))


def address_delete(index: int, interface: IPInterface) -> Message:
    """Take an address away from a link."""
    body = _address(index, interface) + attribute(IFA_LOCAL, interface.ip.packed)
    return Message("delete address", RTM_DELADDR, 0, body, str(interface))


def default_route_add(index: int, gateway: IPAddress) -> Message:
    """Send everything that has no better route through ``gateway`` on link ``index``."""
    head = _RTMSG.pack(_family(gateway.version), 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT,
                       RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
    body = head + attribute(RTA_GATEWAY, gateway.packed) + number(RTA_OIF, index)
    return Message("add route", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body, f"via {gateway}")


def addresses(netlink: Netlink) -> list[tuple[int, IPInterface]]:
    """Return ``(link index, address with prefix)`` of every address of the namespace."""
    message = Message("get addresses", RTM_GETADDR, NLM_F_DUMP, _IFADDR.pack(0, 0, 0, 0, 0))
    found: list[tuple[int, IPInterface]] = []
    for body in netlink.query(message):
        _fam, prefix, _flags, _scope, index = _IFADDR.unpack_from(body)
        attrs = attributes(body[_IFADDR.size:])
        packed = attrs.get(IFA_LOCAL) or attrs.get(IFA_ADDRESS)
        if packed:
            address = ipaddress.ip_address(packed)
            found.append((index, ipaddress.ip_interface(f"{address}/{prefix}")))
    return found


def routes(netlink: Netlink) -> list[tuple[int, IPNetwork]]:
    """Return ``(link index, destination)`` of every unicast route but default ones."""
    message = Message("get routes", RTM_GETROUTE, NLM_F_DUMP, _RTMSG.pack(*[0] * 9))
    found: list[tuple[int, IPNetwork]] = []
    for body in netlink.query(message):
        _fam, prefix, _src, _tos, _table, _proto, _scope, kind, _flags = _RTMSG.unpack_from(body)
        attrs = attributes(body[_RTMSG.size:])
        if kind == RTN_UNICAST and prefix and RTA_DST in attrs:
            address = ipaddress.ip_address(attrs[RTA_DST])
            index = struct.unpack("=i", attrs[RTA_OIF])[0] if RTA_OIF in attrs else 0
            found.append((index, ipaddress.ip_network(f"{address}/{prefix}", strict=False)))
    return found


def namespace_fd(pid: int | None = None) -> int:
    """Open the network namespace of a process (None: of the caller). The caller closes it."""
    path = "/proc/self/ns/net" if pid is None else f"/proc/{pid}/ns/net"
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
