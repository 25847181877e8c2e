"""Wire form of rtnetlink messages, against bytes taken apart by hand from the kernel's headers."""

from __future__ import annotations

import ipaddress
import struct
import sys

import pytest

from pallet.errors import SyscallError
from pallet.linux import netlink

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="golden bytes are little-endian")


def _hex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\n", " "))


def test_attributes_are_padded_and_read_back() -> None:
    data = netlink.text(3, "eth0") + netlink.number(4, 1500) + netlink.nested(18, netlink.text(1, "veth"))
    assert data == _hex("""
        0900 0300 65746830 00 000000
        0800 0400 dc050000
        1000 1280 0900 0100 76657468 00 000000""")
    assert netlink.attributes(data) == {
        3: b"eth0\0", 4: b"\xdc\x05\0\0", 18: b"\x09\0\x01\0veth\0\0\0\0"}


def test_truncated_attributes_end_the_run() -> None:
    assert netlink.attributes(b"\x08\0\x01\0abcd\x02\0\x02\0") == {1: b"abcd"}


def test_veth_pair_is_made_in_the_target_namespace() -> None:
    message = netlink.veth_add("vethx", master=7, mtu=1500, peer_name="eth0", peer_netns_fd=9,
                               peer_mac="02:42:ac:11:00:02")
    assert message.type == netlink.RTM_NEWLINK
    assert message.body == _hex("""
        00 00 0000 00000000 01000000 01000000
        0a00 0300 7665746878 00 0000
        0800 0400 dc050000
        0800 0a00 07000000
        5000 1280
          0900 0100 76657468 00 000000
          4000 0280
            3c00 0180
              00 00 0000 00000000 00000000 00000000
              0900 0300 65746830 00 000000
              0800 0400 dc050000
              0a00 0100 0242ac110002 0000
              0800 1c00 09000000""")


def test_address_and_route() -> None:
    message = netlink.address_add(2, ipaddress.ip_interface("172.17.0.2/16"))
    assert message.body == _hex("""
        02 10 00 00 02000000
        0800 0200 ac110002  0800 0100 ac110002  0800 0400 ac11ffff""")
    message = netlink.default_route_add(2, ipaddress.ip_address("172.17.0.1"))
    assert message.body == _hex("""
        02 00 00 00 fe 03 00 01 00000000
        0800 0500 ac110001  0800 0400 02000000""")
    message = netlink.address_add(2, ipaddress.ip_interface("fd99::2/64"))
    assert message.body.endswith(_hex("0800 0800 02000000"))  # no duplicate detection


def test_links_are_decoded() -> None:
    body = struct.pack("=BxHiII", 0, 1, 5, 0x1043, 0) + netlink.text(3, "veth1") + netlink.number(
        4, 1450) + netlink.number(10, 3) + netlink.attribute(1, bytes(range(6))) + netlink.nested(
        18, netlink.text(1, "veth")) + netlink.text(20, "mine")
    assert netlink.decode_link(body) == netlink.Link(
        number=5, name="veth1", kind="veth", master=3, up=True, mtu=1450, mac="00:01:02:03:04:05", alias="mine")


def test_the_kernel_answers() -> None:
    """Reading needs no privilege; errors come back with the call and its object."""
    with netlink.Netlink() as link:
        lo = netlink.find_link(link, "lo")
        assert lo is not None
        assert lo.number == 1
        assert "lo" in [one.name for one in netlink.links(link)]
        assert netlink.find_link(link, "t-none-such") is None
        link.request()
        with pytest.raises(SyscallError) as caught:
            link.request(netlink.link_delete(1_000_000))
    assert caught.value.call == "delete link"
