"""Values of options: what Go accepts, and its words for the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallet.cli import values
from pallet.cli.errors import InvalidValueError

MIB = 1 << 20


@pytest.mark.parametrize(("text", "size"), [
    ("0", 0), ("512", 512), ("1k", 1024), ("1K", 1024), ("64m", 64 * MIB), ("64MB", 64 * MIB),
    ("64MiB", 64 * MIB), ("1.5g", 1536 * MIB), ("2 gb", 2048 * MIB), ("10b", 10), (".5k", 512),
])
def test_sizes(text: str, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "abc", "x1", "-1", "1 2", "1xb", "1  k", "m"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InvalidValueError, match="invalid s"):
        values.parse_size(text)


@given(st.integers(0, 2**50))
def test_plain_numbers_are_bytes(size: int) -> None:
    assert values.parse_size(str(size)) == size


@pytest.mark.parametrize(("text", "nanoseconds"), [
    ("0", 0), ("5s", 5_000_000_000), ("1m30s", 90_000_000_000), ("1.5h", 5_400_000_000_000),
    ("10ms", 10_000_000), ("-1s", -1_000_000_000), ("1us", 1_000), ("1µs", 1_000), (".5s", 5 * 10**8),
])
def test_durations(text: str, nanoseconds: int) -> None:
    assert values.parse_duration(text) == nanoseconds


@pytest.mark.parametrize(("text", "words"), [
    ("1", 'time: missing unit in duration "1"'), ("", 'time: invalid duration ""'),
    ("x", 'time: invalid duration "x"'), ("1d", 'time: unknown unit "d" in duration "1d"'),
    ("1.2.3s", 'time: invalid duration "1.2.3s"'), ("-", 'time: invalid duration "-"'),
])
def test_no_durations(text: str, words: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        values.parse_duration(text)
    assert str(caught.value) == words


@pytest.mark.parametrize(("text", "number"), [
    ("5", 5), ("-5", -5), ("+5", 5), ("0x1f", 31), ("0b11", 3), ("010", 8), ("1_000", 1000),
])
def test_integers(text: str, number: int) -> None:
    assert values.parse_int(text) == number


@pytest.mark.parametrize(("text", "bits", "signed", "words"), [
    ("x", 64, True, "invalid syntax"), ("", 64, True, "invalid syntax"),
    (" 1", 64, True, "invalid syntax"), ("1.5", 64, True, "invalid syntax"),
    ("-1", 64, False, "invalid syntax"), ("70000", 16, False, "value out of range"),
    (str(2**63), 64, True, "value out of range"), ("--1", 64, True, "invalid syntax"),
])
def test_no_integers(text: str, bits: int, signed: bool, words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        values.parse_int(text, bits=bits, signed=signed)


@pytest.mark.parametrize(("text", "nano"), [("1.5", 1_500_000_000), ("2", 2 * 10**9), ("1/4", 25 * 10**7)])
def test_cpus(text: str, nano: int) -> None:
    assert values.parse_cpus(text) == nano


@pytest.mark.parametrize(("text", "words"), [
    ("x", "failed to parse x as a rational number"), ("0.0000000001", "value is too precise"),
    ("1/0", "failed to parse 1/0 as a rational number"),
])
def test_no_cpus(text: str, words: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        values.parse_cpus(text)
    assert str(caught.value) == words


@pytest.mark.parametrize(("kind", "text", "value"), [
    ("env", "A=b", "A=b"), ("env", "A", "A"), ("label", "a", "a"), ("attach", "STDIN", "stdin"),
    ("add-host", "a:1.2.3.4", "a:1.2.3.4"), ("add-host", "a=1.2.3.4", "a:1.2.3.4"),
    ("add-host", "a:::1", "a:::1"), ("add-host", "a=[::1]", "a:::1"),
    ("add-host", "a:host-gateway", "a:host-gateway"), ("dns", " 1.1.1.1", "1.1.1.1"),
    ("dns", "::1", "::1"), ("domain", "a.b-c.d", "a.b-c.d"), ("domain", ".", "."),
    ("link", "a:b", "a:b"), ("sysctl", "net.ipv4.ip_forward=1", "net.ipv4.ip_forward=1"),
])
def test_checked_lists(kind: str, text: str, value: str) -> None:
    assert values.convert(f"list:{kind}", text, ["before"]) == ["before", value]


@pytest.mark.parametrize(("kind", "text", "words"), [
    ("env", "=x", "invalid environment variable: =x"), ("label", "=x", "invalid label '=x': empty name"),
    ("attach", "foo", "valid streams are STDIN, STDOUT and STDERR"),
    ("add-host", "x", 'bad format for add-host: "x"'),
    ("add-host", "a:b", 'invalid IP address in add-host: "b"'),
    ("dns", "x", "IP address is not correctly formatted: x"),
    ("domain", "a b", "a b is not a valid domain"), ("link", "a:b:c", "bad format for links: a:b:c"),
    ("sysctl", "x", "sysctl 'x' is not allowed"), ("sysctl", "net.x", "sysctl 'net.x' is not allowed"),
])
def test_lists_refuse(kind: str, text: str, words: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        values.convert(f"list:{kind}", text, None)
    assert str(caught.value) == words
