"""JSON on the C accelerator: the same values as ``json``, without importing it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallet.client import wire

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2**63, 2**63) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12)


@given(VALUES)
def test_what_is_encoded_decodes_everywhere(value: object) -> None:
    assert json.loads(wire.encode(value)) == value
    assert wire.decode(wire.encode(value)) == value


@given(VALUES)
def test_indentation_changes_blanks_only(value: object) -> None:
    text = json.dumps(value)
    assert wire.indent(text) == json.dumps(json.loads(text), indent=4)


def test_indentation_keeps_numbers_and_escapes() -> None:
    assert wire.indent('{"a":1e+2,"b":"\\u003c\\""}') == (
        '{\n    "a": 1e+2,\n    "b": "\\u003c\\""\n}')


@pytest.mark.parametrize("text", ["", "{", "[1,", "nul", '{"a":}', '"x', "{} x", "{}{}"])
def test_broken_text_is_refused(text: str) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(text)


def test_values_behind_one_another() -> None:
    text = '{"a":1}[2]'
    first, end = wire.decode_first(text, 0)
    assert (first, wire.decode_first(text, end)) == ({"a": 1}, ([2], len(text)))


def test_unknown_types_are_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        wire.encode({"a": set()})


def test_bytes_that_were_no_text_are_replaced() -> None:
    assert wire.encode({"a": b"x\xff".decode("utf-8", "surrogateescape")}) == (
        '{"a":"x\ufffd"}'.encode())


def test_html_characters_are_escaped_as_go_does() -> None:
    assert wire.escape_html('"<a&b>"') == '"\\u003ca\\u0026b\\u003e"'
