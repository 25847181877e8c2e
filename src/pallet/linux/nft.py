"""nf_tables over nfnetlink: tables, chains, maps, rules, elements, in one transaction.

Owns   the wire form of NFNL_SUBSYS_NFTABLES. Builders return ``Message`` values and expressions
       are bytes; no I/O but in ``Nftables.commit``.
Runs   anywhere; synchronous, tens of microseconds a transaction.
Needs  CAP_NET_ADMIN over the socket's namespace; nf_tables with inet NAT (Linux >= 5.2).
Spec   <linux/netfilter/nf_tables.h>, <linux/netfilter/nfnetlink.h>.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, Self

from pallet.errors import SyscallError
from pallet.linux import netlink
from pallet.linux.netlink import Message, attribute, attributes, nested, string, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# <linux/netfilter.h>, <linux/netfilter/nfnetlink.h>
NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 1, 2, 10
NF_INET_PRE_ROUTING, NF_INET_LOCAL_IN, NF_INET_FORWARD = 0, 1, 2
NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING = 3, 4
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NF_DROP, NF_ACCEPT = 0, 1

# <linux/netfilter/nf_tables.h>
NFT_MSG_NEWTABLE, NFT_MSG_GETTABLE, NFT_MSG_DELTABLE = 0, 1, 2
NFT_MSG_NEWCHAIN, NFT_MSG_GETCHAIN = 3, 4
NFT_MSG_NEWRULE = 6
NFT_MSG_NEWSET = 9
NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_DELSETELEM = 12, 13, 14
NFT_JUMP, NFT_GOTO = -3, -4
NFT_REG_VERDICT, NFT_REG_1, NFT_REG32_00 = 0, 1, 8
NFTA_TABLE_NAME = 1
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK = 1, 3, 4
NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE = 5, 7
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA = 1, 2, 4, 7
NFTA_LIST_ELEM = 1
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_SET_TABLE, NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_KEY_TYPE, NFTA_SET_KEY_LEN = 1, 2, 3, 4, 5
NFTA_SET_DATA_TYPE, NFTA_SET_DATA_LEN, NFTA_SET_ID = 6, 7, 10
NFT_SET_MAP = 0x8
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA = 1, 2
NFTA_DATA_VALUE, NFTA_DATA_VERDICT = 1, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2
NFT_META_IIFNAME, NFT_META_OIFNAME, NFT_META_NFPROTO, NFT_META_L4PROTO = 6, 7, 15, 16
NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER = 1, 2
NFT_CMP_EQ, NFT_CMP_NEQ = 0, 1
NFT_CT_STATE, NFT_CT_STATUS = 0, 2
CT_STATE_ESTABLISHED, CT_STATE_RELATED = 2, 4
IPS_DST_NAT = 1 << 5
NFT_NAT_DNAT = 1
NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR = 3, 2
RTN_LOCAL = 2

_ELEMENTS_A_MESSAGE = 400
"""An attribute's length is 16 bits; the largest element takes about 90 bytes."""
_RECEIVE_TIMEOUT_S = 5.0


class SetType(NamedTuple):
    """A data type of keys and values: what ``nft list`` calls it, and its size in registers."""

    code: int
    size: int


IPV4_ADDR = SetType(7, 4)
IPV6_ADDR = SetType(8, 16)
INET_PROTO = SetType(12, 4)
INET_SERVICE = SetType(13, 4)


def concatenation(*types: SetType) -> SetType:
    """Join types: codes shift by six bits, sizes add up (each is whole registers)."""
    code = 0
    for part in types:
        code = code << 6 | part.code
    return SetType(code, sum(part.size for part in types))


class Nftables:
    """One nfnetlink socket. Not thread-safe: one user at a time."""

    def __init__(self) -> None:
        self._netlink = netlink.Netlink(netlink.NETLINK_NETFILTER)
        self._netlink.socket.settimeout(_RECEIVE_TIMEOUT_S)

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def commit(self, messages: Sequence[Message]) -> None:
        """Apply ``messages`` as one transaction: all or none.

        Raises:
            SyscallError: of the first message that was refused; EOPNOTSUPP or EPROTONOSUPPORT
                where the kernel has no nf_tables.
        """
        if not messages:
            return
        encode = self._netlink.encode
        edge = struct.pack("=BBH", 0, 0, _big16(NFNL_SUBSYS_NFTABLES))
        request = netlink.NLM_F_REQUEST
        parts = [encode(Message("begin", NFNL_MSG_BATCH_BEGIN, 0, edge), request)]
        begin = self._netlink.sequence
        last = len(messages) - 1
        # Only the last one is acknowledged when all goes well; refusals always are.
        parts += [
            encode(message, message.flags | request | (netlink.NLM_F_ACK if at == last else 0))
            for at, message in enumerate(messages)]
        parts.append(encode(Message("end", NFNL_MSG_BATCH_END, 0, edge), request))
        batch = b"".join(parts)
        self._make_room(len(batch))
        self._netlink.socket.send(batch)
        self._check(messages, begin)

    def _check(self, messages: Sequence[Message], begin: int) -> None:
        final = begin + len(messages)
        failed: SyscallError | None = None
        while True:
            for kind, sequence, body in self._netlink.receive():
                if kind != netlink.NLMSG_ERROR or not begin <= sequence <= final:
                    continue
                code = -struct.unpack_from("=i", body)[0]
                if sequence == begin:  # the batch as a whole
                    if code:
                        call = messages[0].call
                        raise failed or SyscallError(call, code, messages[0].about or None)
                    continue
                if code and failed is None:
                    message = messages[sequence - begin - 1]
                    failed = SyscallError(message.call, code, message.about or None)
                if sequence == final:
                    if failed is not None:
                        raise failed
                    return

    def _make_room(self, size: int) -> None:
        so_sndbufforce = 32
        if size > 100_000:
            self._netlink.socket.setsockopt(1, so_sndbufforce, size * 2)

    def tables(self, family: int) -> list[str]:
        """Names of the tables of one family."""
        message = Message("get tables", _type(NFT_MSG_GETTABLE), netlink.NLM_F_DUMP, _head(family))
        return [string(attributes(body[4:])[NFTA_TABLE_NAME])
                for body in self._netlink.query(message)]

    def base_chains(self, family: int) -> list[tuple[str, str, int, int]]:
        """Base chains of one family: ``(table, chain, hook number, policy)``."""
        message = Message("get chains", _type(NFT_MSG_GETCHAIN), netlink.NLM_F_DUMP, _head(family))
        found = []
        for body in self._netlink.query(message):
            attrs = attributes(body[4:])
            if NFTA_CHAIN_HOOK not in attrs or NFTA_CHAIN_POLICY not in attrs:
                continue
            hook = attributes(attrs[NFTA_CHAIN_HOOK])
            found.append((
                string(attrs[NFTA_CHAIN_TABLE]), string(attrs[NFTA_CHAIN_NAME]),
                int.from_bytes(hook[NFTA_HOOK_HOOKNUM], "big"),
                int.from_bytes(attrs[NFTA_CHAIN_POLICY], "big")))
        return found

    def elements(self, family: int, table: str, name: str) -> dict[bytes, bytes]:
        """Keys and values (``b""`` in a plain set) of one set."""
        message = Message("get elements", _type(NFT_MSG_GETSETELEM), netlink.NLM_F_DUMP,
                          _set_head(family, table, name), name)
        found: dict[bytes, bytes] = {}
        for answer in self._netlink.query(message):
            listed = attributes(answer[4:]).get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")
            for element in _list_entries(listed):
                attrs = attributes(element)
                key = attributes(attrs[NFTA_SET_ELEM_KEY])[NFTA_DATA_VALUE]
                data = attributes(attrs.get(NFTA_SET_ELEM_DATA, b""))
                found[key] = data.get(NFTA_DATA_VALUE, b"")
        return found


# --- objects -------------------------------------------------------------------------------------


def _big16(value: int) -> int:
    return int(struct.unpack("=H", struct.pack(">H", value))[0])


def _type(message: int) -> int:
    return NFNL_SUBSYS_NFTABLES << 8 | message


def _head(family: int) -> bytes:
    return struct.pack("=BBH", family, 0, 0)


def _big32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">i" if value < 0 else ">I", value))


def _list_entries(data: bytes) -> Iterator[bytes]:
    offset = 0
    while offset + 4 <= len(data):
        size = struct.unpack_from("=H", data, offset)[0]
        if size < 4:
            return
        yield data[offset + 4:offset + size]
        offset += (size + 3) & ~3


def table_add(family: int, table: str) -> Message:
    """Create a table; no error if it exists."""
    return Message("add table", _type(NFT_MSG_NEWTABLE), netlink.NLM_F_CREATE,
                   _head(family) + text(NFTA_TABLE_NAME, table), table)


def table_delete(family: int, table: str) -> Message:
    """Delete a table with everything in it; ENOENT if there is none."""
    return Message("delete table", _type(NFT_MSG_DELTABLE), 0,
                   _head(family) + text(NFTA_TABLE_NAME, table), table)


def chain_add(
    family: int, table: str, chain: str, *, type_: str | None = None, hook: int = 0,
    priority: int = 0,
) -> Message:
    """Create a chain. With ``type_`` (``nat``, ``filter``) it is a base chain, policy accept."""
    body = _head(family) + text(NFTA_CHAIN_TABLE, table) + text(NFTA_CHAIN_NAME, chain)
    if type_ is not None:
        body += nested(NFTA_CHAIN_HOOK, _big32(NFTA_HOOK_HOOKNUM, hook),
                       _big32(NFTA_HOOK_PRIORITY, priority))
        body += _big32(NFTA_CHAIN_POLICY, NF_ACCEPT) + text(NFTA_CHAIN_TYPE, type_)
    return Message("add chain", _type(NFT_MSG_NEWCHAIN), netlink.NLM_F_CREATE, body, chain)


def map_add(
    family: int, table: str, name: str, *, set_id: int, key: SetType, data: SetType,
) -> Message:
    """Create a map. ``set_id`` tells the maps of one transaction apart."""
    body = (_head(family) + text(NFTA_SET_TABLE, table) + text(NFTA_SET_NAME, name)
            + _big32(NFTA_SET_ID, set_id) + _big32(NFTA_SET_FLAGS, NFT_SET_MAP)
            + _big32(NFTA_SET_KEY_TYPE, key.code) + _big32(NFTA_SET_KEY_LEN, key.size)
            + _big32(NFTA_SET_DATA_TYPE, data.code) + _big32(NFTA_SET_DATA_LEN, data.size))
    return Message("add map", _type(NFT_MSG_NEWSET), netlink.NLM_F_CREATE, body, name)


def elements_add(
    family: int, table: str, name: str, elements: Mapping[bytes, bytes],
) -> list[Message]:
    """Add elements to a map; EEXIST where a key is there with another value."""
    head = _set_head(family, table, name)
    return _elements(NFT_MSG_NEWSETELEM, "add element", head, name, list(elements.items()))


def elements_delete(family: int, table: str, name: str, keys: Sequence[bytes]) -> list[Message]:
    """Delete elements; ENOENT where a key is not there."""
    pairs = [(key, b"") for key in keys]
    head = _set_head(family, table, name)
    return _elements(NFT_MSG_DELSETELEM, "delete element", head, name, pairs)


def _set_head(family: int, table: str, name: str) -> bytes:
    return (_head(family) + text(NFTA_SET_ELEM_LIST_TABLE, table)
            + text(NFTA_SET_ELEM_LIST_SET, name))


def _elements(
    message: int, call: str, head: bytes, name: str, pairs: Sequence[tuple[bytes, bytes]],
) -> list[Message]:
    flags = netlink.NLM_F_CREATE if message == NFT_MSG_NEWSETELEM else 0
    messages = []
    for start in range(0, len(pairs), _ELEMENTS_A_MESSAGE):
        encoded = [
            nested(NFTA_LIST_ELEM, nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, key)),
                   nested(NFTA_SET_ELEM_DATA, attribute(NFTA_DATA_VALUE, value)) if value else b"")
            for key, value in pairs[start:start + _ELEMENTS_A_MESSAGE]]
        body = head + nested(NFTA_SET_ELEM_LIST_ELEMENTS, *encoded)
        messages.append(Message(call, _type(message), flags, body, name))
    return messages


def rule_add(
    family: int, table: str, chain: str, expressions: Sequence[bytes], *, comment: str = "",
) -> Message:
    """Append a rule. ``comment`` is shown by ``nft list``."""
    body = (_head(family) + text(NFTA_RULE_TABLE, table) + text(NFTA_RULE_CHAIN, chain)
            + nested(NFTA_RULE_EXPRESSIONS, *[nested(NFTA_LIST_ELEM, e) for e in expressions]))
    if comment:
        raw = comment.encode() + b"\0"
        body += attribute(NFTA_RULE_USERDATA, bytes([0, len(raw)]) + raw)
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_APPEND
    return Message("add rule", _type(NFT_MSG_NEWRULE), flags, body, comment or chain)


# --- expressions ---------------------------------------------------------------------------------


def _expression(name: str, *attrs: bytes) -> bytes:
    return text(NFTA_EXPR_NAME, name) + nested(NFTA_EXPR_DATA, *attrs)


def meta(key: int, register: int = NFT_REG_1) -> bytes:
    """Load packet meta data."""
    return _expression("meta", _big32(2, key), _big32(1, register))


def connection(key: int, register: int = NFT_REG_1) -> bytes:
    """Load connection-tracking data (``ct state``, ``ct status``)."""
    return _expression("ct", _big32(2, key), _big32(1, register))


def payload(base: int, offset: int, size: int, register: int = NFT_REG_1) -> bytes:
    """Load bytes of a header."""
    return _expression("payload", _big32(1, register), _big32(2, base), _big32(3, offset),
                       _big32(4, size))


def compare(value: bytes, operator: int = NFT_CMP_EQ, register: int = NFT_REG_1) -> bytes:
    """End the rule unless the register equals (or differs from) ``value``."""
    data = nested(3, attribute(NFTA_DATA_VALUE, value))
    return _expression("cmp", _big32(1, register), _big32(2, operator), data)


def masked(mask: bytes, register: int = NFT_REG_1) -> bytes:
    """And the register with ``mask``."""
    return _expression(
        "bitwise", _big32(1, register), _big32(2, register), _big32(3, len(mask)),
        nested(4, attribute(NFTA_DATA_VALUE, mask)),
        nested(5, attribute(NFTA_DATA_VALUE, bytes(len(mask)))))


def lookup(name: str, *, key: int = NFT_REG_1, result: int) -> bytes:
    """Look ``key`` up in a map; the value goes to ``result``, a miss ends the rule."""
    return _expression("lookup", text(1, name), _big32(2, key), _big32(3, result))


def destination_nat(family: int, *, address: int, port: int) -> bytes:
    """DNAT to the address and port in two registers."""
    return _expression("nat", _big32(1, NFT_NAT_DNAT), _big32(2, family), _big32(3, address),
                       _big32(5, port))


def masquerade() -> bytes:
    """Give the packet the address of the interface it leaves by."""
    return _expression("masq")


def destination_type(register: int = NFT_REG_1) -> bytes:
    """Load the route type of the destination address (``fib daddr type``)."""
    return _expression("fib", _big32(1, register), _big32(2, NFT_FIB_RESULT_ADDRTYPE),
                       _big32(3, NFTA_FIB_F_DADDR))


def verdict(code: int, chain: str = "") -> bytes:
    """Accept, drop, or jump and go to a chain."""
    parts = [_big32(NFTA_VERDICT_CODE, code)]
    if chain:
        parts.append(text(NFTA_VERDICT_CHAIN, chain))
    data = nested(2, nested(NFTA_DATA_VERDICT, *parts))
    return _expression("immediate", _big32(1, NFT_REG_VERDICT), data)


def counter() -> bytes:
    """Count packets and bytes."""
    return _expression("counter")
