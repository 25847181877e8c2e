"""The walk over a context and the options of ``pallet build``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pallet.build import contextindex
from pallet.cli.build import request, walk
from pallet.cli.build.ignoring import excluder
from pallet.cli.errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a", "src/one.c", "src/two.h", "src/deep/three.c", "data/big", "real/file"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "src/up").symlink_to("../data/big")
    (tmp_path / "outside").symlink_to("/etc")
    return tmp_path


def seen(root: Path, *follow: str, exclude: tuple[str, ...] = ()) -> list[str]:
    """Every path that is listed, as the daemon reads the listings."""
    found = []
    for directory, block in walk.listings(str(root), follow=follow, excluded=excluder(exclude) if exclude else None):
        at = os.fsdecode(directory)[1:]
        found += [f"{at}/{name}".lstrip("/") for name, entry in contextindex.entries(block) if not entry.is_directory]
    return sorted(found)


def test_everything_is_listed_without_a_wish(tree: Path) -> None:
    assert seen(tree) == ["a", "data/big", "link", "outside", "real/file", "src/deep/three.c", "src/one.c",
                          "src/two.h", "src/up"]


@pytest.mark.parametrize(("follow", "expected"), [
    (("a",), ["a"]),
    (("src/*.c",), ["src/one.c"]),
    (("*/*.c", "a"), ["a", "link", "outside", "src/one.c"]),  # links on the way come along
    (("src/deep",), ["src/deep/three.c"]),
    (("link/file",), ["link", "real/file"]),
    (("src/up",), ["data/big", "src/up"]),
    (("src/[ot]*",), ["src/one.c", "src/two.h"]),
    (("nothing",), []),
    (("../../a",), ["a"]),
    ((".",), None),
])
def test_follow_takes_what_is_needed(tree: Path, follow: tuple[str, ...], expected: list[str] | None) -> None:
    assert seen(tree, *follow) == (seen(tree) if expected is None else expected)


def test_excluded_trees_are_left_out(tree: Path) -> None:
    assert seen(tree, exclude=("src", "!src/deep")) == [
        "a", "data/big", "link", "outside", "real/file", "src/deep/three.c"]
    assert seen(tree, exclude=("**/*.c", "data")) == ["a", "link", "outside", "real/file", "src/two.h", "src/up"]


def test_listings_are_what_the_store_takes(tree: Path) -> None:
    blocks = {os.fsdecode(directory)[1:]: block for directory, block in walk.listings(str(tree))}
    found = contextindex.compare({}, blocks)
    assert sorted(found.wanted) == ["a", "data/big", "real/file", "src/deep/three.c", "src/one.c", "src/two.h"]
    assert not contextindex.compare(blocks, blocks)


@pytest.mark.parametrize(("text", "expected"), [
    ("type=local,dest=out", ("local", {"dest": "out"})), ("out", ("local", {"dest": "out"})),
    ("-", ("tar", {"dest": "-"})), ("type=registry", ("image", {"push": "true"})),
    ('type=image,"name=a,b"', ("image", {"name": "a,b"})),
])
def test_outputs(text: str, expected: tuple[str, dict[str, str]]) -> None:
    assert request._output(text) == expected


@pytest.mark.parametrize("text", ["dest=x", "type=nothing"])
def test_outputs_that_are_none(text: str) -> None:
    with pytest.raises(CommandError):
        request._output(text)


@pytest.mark.parametrize(("text", "expected"), [
    ("user/app:cache", {"kind": "registry", "attributes": {"ref": "user/app:cache"}}),
    ("type=inline", {"kind": "inline", "attributes": {}}),
    ("type=local,src=/c", {"kind": "local", "attributes": {"src": "/c"}}),
])
def test_caches(text: str, expected: dict[str, object]) -> None:
    assert request._cache(text, "from") == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("h:1.2.3.4", ("h", "1.2.3.4")), ("h=1.2.3.4", ("h", "1.2.3.4")), ("h=[::1]", ("h", "::1")), ("h:::1", ("h", "::1")),
    ("h:host-gateway", ("h", "host-gateway"))])
def test_extra_hosts(text: str, expected: tuple[str, str]) -> None:
    assert request._extra_host(text) == expected
