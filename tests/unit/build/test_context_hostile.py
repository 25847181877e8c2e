"""Clients that lie: a listing never leads out of its tree, and what comes is bounded."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from pallet.build import context
from pallet.build.context import ContextStore
from pallet.build.contextindex import FileStat, compare, encode_entry
from pallet.build.treeclient import read_file
from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from pathlib import Path

FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755
LINK = stat.S_IFLNK | 0o777


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    made = ContextStore(tmp_path / "contexts")
    made.sweep()
    return made


def raw(name: str, mode: str, target: str = "", *, size: str = "0", mtime: str = "0") -> bytes:
    return f"{name}\0{mode} {size} {mtime} \0{target}\0".encode()


async def send(store: ContextStore, blocks: dict[str, bytes], data: bytes = b"owned") -> None:
    """What a client sends that lists ``blocks``, with the same content in every file."""
    async with store.transfer("key") as transfer:
        for directory, block in blocks.items():
            transfer.listing(directory, block)
        for path in await transfer.settle():
            writer = transfer.write(path)
            writer.write(data)
            writer.close()
        await store.release(await transfer.finish())


@pytest.mark.parametrize("mode", ["4120777", "040120777", "0120777", "-40755", "400000"])
async def test_a_link_does_not_pass_for_a_directory(store: ContextStore, tmp_path: Path, mode: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(InvalidParameterError):
        await send(store, {"": raw("x", mode, str(outside)), "x": raw("f", "100644", size="5")})
    assert os.listdir(outside) == []


@pytest.mark.parametrize("alias", ["/x", "x/", "x/.", "./x", "x/../x", "//x", "..", "x/y/.."])
async def test_a_directory_has_one_name(store: ContextStore, alias: str) -> None:
    """Two listings of one place could take turns to make a link of what the other takes for a directory."""
    with pytest.raises(InvalidParameterError, match="invalid path"):
        await send(store, {"": raw("x", "40755"), "x": b"", alias: raw("y", "100644")})


@pytest.mark.parametrize("block", [
    raw("a/b", "100644"), raw("..", "40755"), raw(".", "40755"), raw("", "100644"),
    raw("a", "100644", size="-1"), raw("a", "100644", mtime=str(1 << 70)), raw("a", "60644"), raw("a", "20644"),
    raw("a", "140755"), raw("a", "100644") * 2, b"a\x00100644 0 0", b"\0", raw("a", "9")])
async def test_broken_entries_are_refused(store: ContextStore, block: bytes) -> None:
    with pytest.raises(InvalidParameterError):
        await send(store, {"": block})


@pytest.mark.parametrize(("path", "target"), [
    ("a\0b", ""), ("../a", ""), ("/a", ""), ("a//b", ""), ("a", f"t\0b\0{FILE:o} 1 0 \0")])
async def test_paths_and_links_hold_no_separators(store: ContextStore, path: str, target: str) -> None:
    async with store.transfer("key") as transfer:
        with pytest.raises(InvalidParameterError):
            transfer.entry(path, FileStat(LINK, target=target))


@pytest.mark.parametrize("target", ["../../outside", "/../outside", "link/secret", "x/../../outside", "missing"])
async def test_hard_links_stay_inside(store: ContextStore, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(InvalidParameterError, match="hard link"):
        await send(store, {"": raw("h", "100644", target) + raw("link", "120777", str(tmp_path)) + raw("x", "40755"),
                           "x": b""})


async def test_entries_are_bounded_while_they_come(store: ContextStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_MAX_ENTRIES", 10)
    monkeypatch.setattr(context, "_MAX_LISTING_BYTES", 1000)
    async with store.transfer("key") as transfer:
        with pytest.raises(InvalidParameterError, match="too many"):
            for number in range(20):
                transfer.entry(f"f{number}", FileStat(FILE))
    async with store.transfer("key") as transfer:
        with pytest.raises(InvalidParameterError, match="too many"):
            for number in range(20):
                transfer.listing(f"d{number}", b"x" * 100)


def test_what_is_compared_is_what_is_made() -> None:
    """Every mode that fsutil's clients can have keeps its spelling."""
    for mode in (FILE, DIRECTORY, LINK, stat.S_IFREG | 0o7777, stat.S_IFDIR | 0o1777, stat.S_IFIFO | 0o600, stat.S_IFREG):
        compare({}, {"": encode_entry(b"a", FileStat(mode, 0, -5))})


def test_a_dockerfile_is_a_file(tmp_path: Path) -> None:
    """Opening a device may do something on the host: there is none that is opened."""
    os.mkfifo(tmp_path / "Dockerfile")
    with pytest.raises(InvalidParameterError, match="no regular file"):
        read_file(str(tmp_path), "Dockerfile", 100)
    (tmp_path / "out").symlink_to("/etc/passwd")
    assert read_file(str(tmp_path), "out", 100) is None
    with pytest.raises(InvalidParameterError, match="is a directory"):
        read_file(str(tmp_path), "/", 100)
