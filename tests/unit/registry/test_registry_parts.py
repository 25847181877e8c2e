"""The registry's addresses and error bodies."""

from __future__ import annotations

import pytest

from pallet.errors import InvalidParameterError
from pallet.registry.codes import CODES, RegistryHttpError
from pallet.registry.server import parse_address


@pytest.mark.parametrize(("text", "expected"), [
    ("127.0.0.1:5000", ("127.0.0.1", 5000)), (":5000", ("0.0.0.0", 5000)),
    ("[::1]:80", ("::1", 80)), ("localhost:0", ("localhost", 0))])
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "localhost", "a:b", ":99999"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(InvalidParameterError):
        parse_address(text)


def test_error_bodies() -> None:
    """``errors[].code/message/detail`` for every code there is."""
    for code in CODES:
        assert code.encode() in RegistryHttpError(code, {"x": 1}).body()
