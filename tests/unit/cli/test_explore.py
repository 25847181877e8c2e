"""``pallet image explore``: its report, its tree and its full-screen view (driven without a terminal)."""

from __future__ import annotations

from typing import Any

import pytest

from pallet.cli.commands.explore import report
from pallet.cli.tui.model import ALL, history_text, tree


def entry(path: str, kind: str, *history: tuple[int, str, int]) -> dict[str, Any]:
    return {"Path": path, "Kind": kind, "Size": history[-1][2], "Mode": 0o644,
            "History": [{"Layer": layer, "Kind": what, "Size": size} for layer, what, size in history]}


def facts(command: str, **more: int) -> dict[str, Any]:
    return {"DiffId": "", "Blob": "", "CreatedBy": command, "Size": 30, "BlobSize": 10, "HiddenBytes": 0, "Added": 0,
            "Changed": 0, "Deleted": 0, **more}


EXPLORATION: dict[str, Any] = {
    "Id": "sha256:" + "1" * 64, "RepoTags": ["some:1"], "Size": 1037, "VisibleBytes": 1007, "HiddenBytes": 30,
    "Efficiency": 0.9711,
    "Layers": [facts("ADD base", HiddenBytes=30, Added=4), facts("RUN  make\n all", Changed=1, Deleted=1)],
    "Hidden": [{"Path": "/dir/b", "Bytes": 20, "Times": 1}, {"Path": "/dir/a", "Bytes": 10, "Times": 1}],
    "Largest": [{"Path": "/top", "Size": 1000, "Layer": 0}],
    "Entries": [
        entry("/dir", "directory", (0, "added", 0)), entry("/dir/a", "file", (0, "added", 10), (1, "changed", 7)),
        entry("/dir/b", "deleted", (0, "added", 20), (1, "deleted", 0)), entry("/top", "file", (0, "added", 1000)),
    ],
}


def test_report() -> None:
    lines = report(EXPLORATION, 1).splitlines()
    assert lines[2:4] == ["Size         1.037kB, of which visible 1.007kB, hidden 30B", "Efficiency   97.1%"]
    assert lines[7].split() == ["1", "30B", "0B", "0", "1", "1", "RUN", "make", "all"]
    assert lines[9:12] == ["Hidden by later layers", "SIZE      TIMES   PATH", "20B       1       /dir/b"]
    assert "/dir/a" not in "\n".join(lines)
    assert lines[-1] == "1kB       0       /top"


def test_tree_of_the_finished_image() -> None:
    root = tree(EXPLORATION, ALL)
    assert list(root.children) == ["dir", "top"]
    assert list(root.children["dir"].children) == ["a"]
    assert (root.size, root.children["dir"].size, root.children["dir"].change) == (1007, 7, "")


def test_tree_of_layers() -> None:
    base, top = tree(EXPLORATION, 0), tree(EXPLORATION, 1)
    assert base.size == 1030
    assert {name: node.change for name, node in base.children["dir"].children.items()} == {"a": "added", "b": "added"}
    assert {name: node.change for name, node in top.children["dir"].children.items()} == {"a": "changed", "b": "deleted"}
    assert (top.children["dir"].change, top.children["top"].change) == ("changed", "")
    only = tree(EXPLORATION, 1, changes_only=True)
    assert list(only.children) == ["dir"]


def test_order_and_history() -> None:
    root = tree(EXPLORATION, 0)
    assert [node.name for node in root.sorted_children(by_size=False)] == ["dir", "top"]
    assert [node.name for node in root.sorted_children(by_size=True)] == ["top", "dir"]
    assert history_text(EXPLORATION, root.children["dir"].children["a"]) == [
        "layer 0: added (10 bytes)  ADD base", "layer 1: changed (7 bytes)  RUN make all"]


@pytest.mark.needs("textual")
async def test_full_screen_view() -> None:
    from textual.widgets import Static, Tree

    from pallet.cli.tui.explorer import ExplorerApp

    app = ExplorerApp(EXPLORATION)
    async with app.run_test(size=(120, 30)) as pilot:
        files = app.query_one("#files", Tree)

        def names() -> list[str]:
            return [str(node.label).split()[-1] for node in files.root.children]

        await pilot.pause()
        assert names() == ["dir", "top"]
        await pilot.press("s")
        assert names() == ["top", "dir"]
        await pilot.press("down", "down")
        await pilot.pause()
        assert app.layer == 1
        await pilot.press("c")
        await pilot.pause()
        assert names() == ["dir"]
        await pilot.press("tab", "down", "enter", "down", "down")
        await pilot.pause()
        opened = next(node for node in files.root.children if node.is_expanded)
        assert [str(node.label).split()[0] for node in opened.children] == ["~", "-"]
        assert "layer 1: deleted" in str(app.query_one("#detail", Static).render())
        await pilot.press("q")
    assert app.return_code == 0
