"""COPY out of a client's tree: links where they can be, and the same layer as copies make."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from pallet.build.ops import fileworker
from pallet.build.ops.fileworker import FileAction, FilesReply, FilesRequest, Input
from pallet.spec.mounts import RootMount
from tests.support.isolation import CLONE_NEWNS, run_isolated

if TYPE_CHECKING:
    from pallet.layer.seal import Sealed

pytestmark = pytest.mark.needs("root", "overlay")

MTIME_NS = 1_600_000_000_000_000_001


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A tree as the context store keeps it: root's, without extended attributes."""
    root = tmp_path / "context"
    for number in range(60):
        path = root / f"src/d{number // 10}/f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}")
    (root / "src/d1/link").symlink_to("f1")
    (root / "src/d2/first").write_text("one file, two names")
    (root / "src/d4/second").hardlink_to(root / "src/d2/first")
    (root / "src/d3/empty").mkdir()
    (root / "src/d3/run").write_text("#!/bin/sh")
    (root / "src/d3/run").chmod(0o4755)
    os.mkfifo(root / "src/d5/pipe")
    for where, directories, names in os.walk(root, topdown=False):
        for name in (*directories, *names):
            os.utime(f"{where}/{name}", ns=(MTIME_NS, MTIME_NS), follow_symlinks=False)
    return root


def carry_out(base: Path, source: Input, action: FileAction, number: int) -> tuple[Sealed, Path]:
    """Do one action on a base; the layer's facts and its directory."""
    where = base.parent / f"snapshot{number}"
    for name in ("upper", "work"):
        (where / name).mkdir(parents=True)
    (where / "lower").symlink_to(base)
    root = RootMount(base_dir=str(where), lower=["lower"], upper="upper", work="work")
    request = msgspec.json.encode(FilesRequest(root=root, inputs=[source], actions=[action]))
    answer = run_isolated(partial(fileworker.run_files, request, ()), CLONE_NEWNS)
    reply = msgspec.json.decode(answer, type=FilesReply).check()
    assert reply.sealed is not None
    return reply.sealed, where / "upper"


ACTIONS = {
    "to a new directory": FileAction(kind="copy", path="/new/", paths=["/"]),
    "to an empty one": FileAction(kind="copy", path="/empty", paths=["/src"]),
    "beside others": FileAction(kind="copy", path="/full/", paths=["/"]),
    "to the root": FileAction(kind="copy", path="/", paths=["/"]),
    "through a link": FileAction(kind="copy", path="/link/", paths=["/src"]),
    "without some": FileAction(kind="copy", path="/new/", paths=["/"], exclude=["**/f3*", "src/d4"]),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_links_make_the_layer_that_copies_make(tmp_path: Path, context: Path, name: str,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base"
    for path in ("empty", "full/src", "place"):
        (base / path).mkdir(parents=True)
    (base / "full/src/d0").mkdir()
    (base / "full/src/d0/f0").write_text("below")
    (base / "link").symlink_to("place")
    monkeypatch.setattr(fileworker, "_MANY_FILES", 10)
    action = ACTIONS[name]
    where = str(context)
    copied, _ = carry_out(base, Input(path=where), action, 1)
    linked, upper = carry_out(base, Input(path=where, share=True), action, 2)
    helped, again = carry_out(base, Input(path=where, share=True, files=60), action, 3)
    assert linked == copied == helped
    places = {path.name: path for path in upper.rglob("f*")}
    assert set(places) == {path.name for path in again.rglob("f*")}
    one = places["f20"].stat()
    assert one.st_ino == (context / "src/d2/f20").stat().st_ino, "it is no copy"


def test_other_looks_are_copies(tmp_path: Path, context: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for number, action in enumerate((
            FileAction(kind="copy", path="/new/", paths=["/src"], mode="600"),
            FileAction(kind="copy", path="/new/", paths=["/src"], owner="7:8"),
            FileAction(kind="copy", path="/new/", paths=["/src/d1", "/src/d2"]))):
        _, upper = carry_out(base, Input(path=str(context), share=True, files=1 << 20), action, number)
        files = [path for path in upper.rglob("*") if path.is_file() and not path.is_symlink()]
        assert files
        inodes = {path.lstat().st_ino for path in context.rglob("*")}
        assert inodes.isdisjoint(path.stat().st_ino for path in files)
    mode = (context / "src/d0/f0").stat().st_mode
    assert (stat.S_IMODE(mode), (context / "src/d0/f0").stat().st_uid) == (0o644, 0)
