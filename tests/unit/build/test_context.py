"""The store of clients' trees: what travels, what a build sees meanwhile, what is left after a kill."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pallet.build.context import ContextStore, tree_key
from pallet.build.contextindex import FileStat, compare, encode_entry
from pallet.build.ops import selection
from pallet.errors import DataLossError, InvalidParameterError

if TYPE_CHECKING:
    from pallet.build.ports import ContextTree

KEY = tree_key("/home/me/project", "context", (), (), ())
FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755
LINK = stat.S_IFLNK | 0o777


class Client:
    """A tree in memory, and what of it was asked for."""

    def __init__(self, **files: str) -> None:
        self.files = {name.replace("__", "/"): text for name, text in files.items()}
        self.more: dict[str, FileStat] = {}
        self.sent: list[str] = []
        self.clock = 1_000_000_000

    def entries(self) -> dict[str, FileStat]:
        found = dict(self.more)
        for path, text in self.files.items():
            found[path] = FileStat(FILE, len(text), self.clock)
            for parent in Path(path).parents:
                if str(parent) != ".":
                    found[str(parent)] = FileStat(DIRECTORY, 0, self.clock)
        return found

    async def send(self, store: ContextStore, key: str = KEY) -> ContextTree:
        self.sent = []
        async with store.transfer(key) as transfer:
            for path, entry in self.entries().items():
                transfer.entry(path, entry)
            for path in await transfer.settle():
                writer = transfer.write(path)
                writer.write(self.files[path].encode())
                writer.close()
                self.sent.append(path)
            return await transfer.finish()


def seen(tree: ContextTree) -> dict[str, str]:
    root = Path(tree.root)
    return {str(path.relative_to(root)): path.read_text()
            for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()}


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    made = ContextStore(tmp_path / "contexts")
    made.sweep()
    return made


async def test_only_what_changed_travels(store: ContextStore) -> None:
    client = Client(a="one", sub__b="two", sub__c="three")
    tree = await client.send(store)
    assert seen(tree) == client.files
    assert sorted(client.sent) == ["a", "sub/b", "sub/c"]
    await store.release(tree)
    client.clock += 1
    client.files = {"a": "one", "sub/b": "changed"}
    client.more["a"] = FileStat(FILE, 3, 1)
    tree = await client.send(store)
    assert seen(tree) == client.files
    assert tree.digest_of.keys() == client.files.keys()
    assert os.stat(f"{tree.root}/sub").st_mtime_ns == client.clock
    await store.release(tree)
    again = await client.send(store)
    assert client.sent == []
    await store.release(again)


async def test_directories_are_digested_without_a_look(store: ContextStore) -> None:
    client = Client(a="one", sub__b="two", sub__deep__c="three", other__d="four")
    client.more |= {"sub/link": FileStat(LINK, 3, 5, "", "b\udcff"), "sub/\ud7ff": FileStat(FILE, 0, 1)}
    client.files["sub/\ud7ff"] = client.files["sub/\udcfe"] = ""
    for number in range(3):
        client.files["sub/deep/c"] = f"three{number}"
        client.clock = 1_000_000_000 + number % 2  # the third is another content with the first one's listing
        tree = await client.send(store)
        assert tree.listed is not None
        for path in () if number == 1 else ("", "sub", "sub/deep", "other"):
            assert tree.listed(path) is not None
            assert summary(tree, path) == summary(dataclasses.replace(tree, listed=None), path)
        await store.release(tree)
    client.more["hard"] = FileStat(FILE, 0, 1, "", "a")
    tree = await client.send(store)
    assert tree.listed is not None
    assert (tree.listed(""), tree.listed("nowhere")) == (None, None)
    assert tree.listed("sub")
    await store.release(tree)


def summary(tree: ContextTree, path: str) -> str:
    """Content digest of a directory of a tree."""
    fd = os.open(tree.root, os.O_RDONLY)
    try:
        return selection.digest(fd, selection.Selection(paths=("/" + path,)), known=tree.digest_of, listed=tree.listed,
                                xattrs=False)
    finally:
        os.close(fd)


async def test_a_held_tree_stays_as_it_is(store: ContextStore) -> None:
    client = Client(a="one", sub__b="two")
    first = await client.send(store)
    client.files, client.clock = {"a": "uno", "new": "x"}, 2_000_000_000
    second = await client.send(store)
    assert seen(first) == {"a": "one", "sub/b": "two"}
    assert seen(second) == client.files
    for tree in (second, first):
        assert summary(tree, "") == summary(dataclasses.replace(tree, listed=None), "")
    await store.release(first)
    assert not os.path.exists(first.root)
    await store.release(second)
    assert os.path.exists(second.root)


async def test_kinds_change(store: ContextStore) -> None:
    client = Client(x__y="deep", z="file")
    await store.release(await client.send(store))
    client.files, client.clock = {"x": "a file now"}, 3
    client.more["z"] = FileStat(LINK, 0, 3, "", "/etc")
    tree = await client.send(store)
    assert seen(tree) == {"x": "a file now"}
    assert os.readlink(f"{tree.root}/z") == "/etc"
    await store.release(tree)
    client.more.clear()
    client.files, client.clock = {"z/passwd": "mine", "x/w": "w"}, 4
    tree = await client.send(store)
    assert seen(tree) == client.files
    await store.release(tree)


async def test_a_broken_transfer_is_dropped(store: ContextStore) -> None:
    client = Client(a="one")
    await store.release(await client.send(store))
    with pytest.raises(DataLossError, match="did not send b"):
        async with store.transfer(KEY) as transfer:
            transfer.entry("b", FileStat(FILE, 1, 1))
            await transfer.settle()
            await transfer.finish()
    tree = await client.send(store)
    assert client.sent == ["a"]
    assert seen(tree) == client.files
    await store.release(tree)


async def test_another_daemon_takes_over_whole_trees_only(store: ContextStore, tmp_path: Path) -> None:
    client = Client(a="one")
    tree = await client.send(store)
    once = await client.send(store, key="")
    killed = tree_key("/other", "context", (), (), ())
    async with store.transfer(killed) as transfer:
        transfer.entry("b", FileStat(FILE, 1, 1))
        await transfer.settle()
        after = ContextStore(tmp_path / "contexts")
        after.sweep()
        assert not os.path.exists(once.root)
        await transfer.stop()
    later = await client.send(after)
    assert client.sent == []
    assert later.root == tree.root
    assert [usage.size_bytes for usage in after.usage()] == [3]
    assert await after.remove([after.usage()[0].id]) == 0, "it is in use"
    await after.release(later)
    assert await after.remove([after.usage()[0].id]) == 3
    assert os.listdir(tmp_path / "contexts") == []


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", ""])
async def test_paths_stay_inside(store: ContextStore, path: str) -> None:
    with pytest.raises(InvalidParameterError):
        async with store.transfer(KEY) as transfer:
            transfer.entry(path, FileStat(FILE, 1, 1))


@pytest.mark.parametrize("blocks", [
    {"": encode_entry(b"a", FileStat(LINK, 0, 0, "", "/etc")), "a": encode_entry(b"passwd", FileStat(FILE))},
    {"": encode_entry(b"a", FileStat(LINK, 0, 0, "", "/etc")) + encode_entry(b"x", FileStat(LINK, 0, 0, "", "a"))
     + encode_entry(b"4", FileStat(FILE)), "a": encode_entry(b"passwd", FileStat(FILE))},
    {"": encode_entry(b"..", FileStat(DIRECTORY))},
    {"": b"a\0" + b"100644 1 1 \0"},
    {"": encode_entry(b"a", FileStat(stat.S_IFCHR))},
    {"": encode_entry(b"a", FileStat(DIRECTORY)) + encode_entry(b"a", FileStat(LINK, 0, 0, "", "/")), "a": b""},
    {"": b"", "../x": encode_entry(b"a", FileStat(FILE))},
])
def test_hostile_listings_are_refused(blocks: dict[str, bytes]) -> None:
    with pytest.raises(InvalidParameterError):
        compare({}, blocks)


async def test_the_limit_drops_the_longest_unused(tmp_path: Path) -> None:
    store = ContextStore(tmp_path / "contexts", limit_bytes=10)
    store.sweep()
    for number in range(3):
        client = Client(a="12345")
        await store.release(await client.send(store, key=f"key {number}"))
    assert len(store.usage()) == 2
