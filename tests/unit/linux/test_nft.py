"""Wire form of nf_tables messages, against bytes taken apart by hand from the kernel's headers."""

from __future__ import annotations

import sys

import pytest

from pallet.linux import nft

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="golden bytes are little-endian")


def _hex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\n", " "))


def test_concatenated_types() -> None:
    assert nft.concatenation(nft.IPV4_ADDR, nft.INET_SERVICE) == (7 << 6 | 13, 8)
    assert nft.concatenation(nft.IPV6_ADDR, nft.INET_PROTO, nft.INET_SERVICE).size == 24


def test_element() -> None:
    (message,) = nft.elements_add(nft.NFPROTO_INET, "t", "m", {b"\x06\0\0\0\x1f\x90\0\0": b"\xac\x11\0\2\0\x50\0\0"})
    assert message.type == 10 << 8 | 12
    assert message.body == _hex("""
        01 00 0000
        0600 0100 7400 0000
        0600 0200 6d00 0000
        2800 0380
          2400 0180
            1000 0180  0c00 0100 06000000 1f900000
            1000 0280  0c00 0100 ac110002 00500000""")


def test_many_elements_are_split() -> None:
    """An attribute's length is 16 bits."""
    pairs = {number.to_bytes(24, "big"): bytes(20) for number in range(1000)}
    messages = nft.elements_add(nft.NFPROTO_INET, "t", "m", pairs)
    assert len(messages) == 3
    assert max(len(message.body) for message in messages) < 65_536


def test_deleting_names_keys_only() -> None:
    (message,) = nft.elements_delete(nft.NFPROTO_INET, "t", "m", [b"\x06\0\0\0"])
    assert message.type == 10 << 8 | 14
    assert message.body.endswith(_hex("1400 0380 1000 0180 0c00 0180 0800 0100 06000000"))


def test_base_chain() -> None:
    message = nft.chain_add(nft.NFPROTO_INET, "t", "c", type_="nat", hook=4, priority=-100)
    assert message.body == _hex("""
        01 00 0000
        0600 0100 7400 0000
        0600 0300 6300 0000
        1400 0480  0800 0100 00000004  0800 0200 ffffff9c
        0800 0500 00000001
        0800 0700 6e617400""")


def test_verdict_and_compare() -> None:
    assert nft.verdict(nft.NFT_GOTO, "x") == _hex("""
        0e00 0100 696d6d65646961746500 0000
        2400 0280
          0800 0100 00000000
          1800 0280
            1400 0280  0800 0100 fffffffc  0600 0200 7800 0000""")
    assert nft.compare(b"\x02", nft.NFT_CMP_NEQ) == _hex("""
        0800 0100 636d7000
        2000 0280
          0800 0100 00000001
          0800 0200 00000001
          0c00 0380  0500 0100 02 000000""")
