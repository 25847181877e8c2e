"""Indexes of layers and their stack."""

from __future__ import annotations

import tempfile

import pytest

from pallet.layer.explore import Stack
from pallet.layer.index import IndexEntry, index
from pallet.layer.model import ArchiveError
from pallet.spec.own.explore import Exploration, LayerFacts
from tests.support import layers


def read(archive: bytes) -> list[IndexEntry]:
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.flush()
        return index(file.fileno())


def explore(*archives: bytes) -> Exploration:
    stack = Stack()
    for archive in archives:
        stack.push(read(archive))
    facts = [LayerFacts(diff_id="", blob="", created_by="", size=0, blob_size=0) for _ in archives]
    return stack.report(Exploration(id="", repo_tags=[], size=0, layers=facts), entries=True)


def file(name: str, size: int = 0, **rest: int) -> layers.Member:
    return layers.Member(name, data=b"x" * size, **rest)


def history(found: Exploration, path: str) -> list[tuple[int, str, int]]:
    entry = next(entry for entry in found.entries if entry.path == path)
    return [(change.layer, change.kind, change.size) for change in entry.history]


BASE = layers.build(layers.directory("dir/"), file("./dir/a", 10), file("/dir/b", 20), file("top", 5))


def test_index_cleans_names_and_reads_whiteouts() -> None:
    found = read(layers.build(file("./a//b", 3), file("d/.wh.gone"), file("o/.wh..wh..opq"), file(".wh..wh.plnk/1"),
                              layers.symlink("s", "a"), layers.hardlink("h", "a/b")))
    assert [(entry.path, entry.kind, entry.size) for entry in found] == [
        (b"a/b", "file", 3), (b"d/gone", "deleted", 0), (b"o", "opaque", 0), (b"s", "symlink", 1),
        (b"h", "hardlink", 0)]


def test_of_two_entries_the_later_counts() -> None:
    assert [entry.size for entry in read(layers.build(file("a", 3), file("a", 4)))] == [4]


def test_truncated_layer() -> None:
    with pytest.raises(ArchiveError):
        read(BASE[:BASE.index(b"top\0") + 512 + 3])


def test_change_and_deletion() -> None:
    found = explore(BASE, layers.build(file("dir/a", 7), file("dir/.wh.b"), file("c", 1)))
    assert history(found, "/dir/a") == [(0, "added", 10), (1, "changed", 7)]
    assert history(found, "/dir/b") == [(0, "added", 20), (1, "deleted", 0)]
    assert (found.hidden_bytes, found.visible_bytes) == (30, 13)
    assert found.efficiency == round(13 / 43, 4)
    assert [(facts.hidden_bytes, facts.added, facts.changed, facts.deleted) for facts in found.layers] == [
        (30, 4, 0, 0), (0, 1, 1, 1)]
    assert [(row.path, row.bytes, row.times) for row in found.hidden] == [("/dir/b", 20, 1), ("/dir/a", 10, 1)]
    assert [(row.path, row.layer) for row in found.largest] == [("/dir/a", 1), ("/top", 0), ("/c", 1)]


def test_whole_directories_go() -> None:
    """By a whiteout, by an opaque mark (which spares the layer's own), by a file in its place."""
    deleted = explore(BASE, layers.build(file(".wh.dir")))
    opaque = explore(BASE, layers.build(file("dir/.wh..wh..opq"), file("dir/new", 1)))
    replaced = explore(BASE, layers.build(file("dir", 2)))
    for found in (deleted, opaque, replaced):
        assert found.hidden_bytes == 30
        assert history(found, "/dir/a")[-1] == (1, "deleted", 0)
    assert history(opaque, "/dir/new") == [(1, "added", 1)]
    assert history(replaced, "/dir") == [(0, "added", 0), (1, "changed", 2)]
    assert deleted.visible_bytes == 5


def test_opaque_mark_behind_its_layers_own_files() -> None:
    found = explore(BASE, layers.build(file("dir/new", 1), file("dir/.wh..wh..opq")))
    assert (found.visible_bytes, found.hidden_bytes) == (6, 30)


def test_directories_that_only_hold_changes_do_not_count() -> None:
    found = explore(BASE, layers.build(layers.directory("dir/"), file("dir/c", 1)),
                    layers.build(layers.directory("dir/", mode=0o700)))
    assert history(found, "/dir") == [(0, "added", 0), (2, "changed", 0)]


def test_a_file_that_comes_back() -> None:
    found = explore(BASE, layers.build(file(".wh.top")), layers.build(file("top", 6)), layers.build(file("top", 7)))
    assert history(found, "/top") == [(0, "added", 5), (1, "deleted", 0), (2, "added", 6), (3, "changed", 7)]
    assert found.hidden_bytes == 11
    assert next(row for row in found.hidden if row.path == "/top").times == 2


def test_empty_image() -> None:
    found = explore()
    assert (found.efficiency, found.hidden_bytes, found.entries) == (1.0, 0, [])
