"""Platforms: parsing, and which image of an index is taken."""

from __future__ import annotations

import pytest

from pallet.errors import InvalidParameterError
from pallet.spec import platform as platforms
from pallet.spec.platform import Platform


def p(text: str) -> Platform:
    os, architecture, *variant = text.split("/")
    return Platform(os=os, architecture=architecture, variant=variant[0] if variant else "")


@pytest.mark.parametrize(("text", "expected"), [
    ("linux/amd64", "linux/amd64"),
    ("linux/x86_64", "linux/amd64"),
    ("Linux/AMD64", "linux/amd64"),
    ("linux/arm64/v8", "linux/arm64"),
    ("linux/aarch64", "linux/arm64"),
    ("linux/arm", "linux/arm/v7"),
    ("linux/arm/6", "linux/arm/v6"),
    ("linux/amd64/v1", "linux/amd64"),
    ("linux/amd64/v3", "linux/amd64/v3"),
    ("arm64", "linux/arm64"),
    ("windows/amd64", "windows/amd64"),
])
def test_parse(text: str, expected: str) -> None:
    """Aliases become Go's names; implied variants are left out."""
    assert str(platforms.parse(text)) == expected


@pytest.mark.parametrize(("text", "words"), [
    ("a/b/c/d", "cannot parse platform specifier: invalid argument"),
    ("linux/", "is an invalid component of"),
    ("linux/am d", "is an invalid component of"),
    ("nonsense", "unknown operating system or architecture: invalid argument"),
    ("", "is an invalid component of"),
])
def test_parse_refuses(text: str, words: str) -> None:
    """Malformed specifiers are 400 in Docker's words."""
    with pytest.raises(InvalidParameterError, match=words):
        platforms.parse(text)


@pytest.mark.parametrize(("wanted", "offered", "order"), [
    ("linux/amd64", ["linux/arm64", "linux/amd64"], [1]),
    ("linux/amd64", ["linux/386", "linux/amd64"], [1, 0]),
    ("linux/amd64", ["windows/amd64", "linux/arm64/v8"], []),
    ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], [2, 1, 0]),
    ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5"], [1]),
    ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], [1, 0]),
    ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], [1, 0]),
    ("linux/amd64", ["linux/amd64/v2", "linux/amd64"], [1]),
    ("linux/amd64", ["unknown/unknown"], []),
])
def test_choose(wanted: str, offered: list[str], order: list[int]) -> None:
    """A CPU runs what is older than itself, and the nearest comes first."""
    assert platforms.choose(p(wanted), [p(entry) for entry in offered]) == order


def test_choose_skips_entries_without_platform() -> None:
    """An index entry that says nothing is not an image for anybody."""
    assert platforms.choose(p("linux/amd64"), [None, p("linux/amd64")]) == [1]
