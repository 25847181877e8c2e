"""Local files as tars and back: what a container sends cannot leave the directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pallet.cli.errors import CommandError
from pallet.cli.files.pack import pack
from pallet.cli.files.unpack import unpack
from tests.support.layers import Member, build, directory, hardlink, symlink

if TYPE_CHECKING:
    from pathlib import Path


def test_round_trip(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/f").write_bytes(b"x" * 1000)
    (source / "sub/h").hardlink_to(source / "sub/f")
    (source / "l").symlink_to("sub/f")
    (source / "sub").chmod(0o555)
    os.utime(source / "sub/f", (5, 5))
    target = tmp_path / "target"
    target.mkdir()
    unpack(pack(str(source), "source", follow=False), str(target), {"source": "renamed"})
    made = target / "renamed"
    assert sorted(os.listdir(made)) == ["l", "sub"]
    assert (made / "sub/f").read_bytes() == b"x" * 1000
    assert (made / "sub/h").samefile(made / "sub/f")
    assert os.readlink(made / "l") == "sub/f"
    assert ((made / "sub").stat().st_mode & 0o777, (made / "sub/f").stat().st_mtime) == (0o555, 5)


@pytest.mark.parametrize("members", [
    [Member("../evil", b"x")],
    [symlink("out", ".."), Member("out/evil", b"x")],
    [symlink("out", "/"), directory("out/tmp"), hardlink("h", "out/etc/hostname")],
    [hardlink("h", "../evil")],
])
def test_nothing_leaves_the_directory(tmp_path: Path, members: list[Member]) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(CommandError):
        unpack([build(*members)], str(target), {})
    assert os.listdir(tmp_path) == ["target"]


def test_a_link_in_the_way_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    target = tmp_path / "target"
    target.mkdir()
    (target / "f").symlink_to("../victim")
    unpack([build(Member("f", b"theirs"))], str(target), {})
    assert ((tmp_path / "victim").read_text(), (target / "f").read_text()) == ("mine", "theirs")


@pytest.mark.parametrize("member", [Member("d", b"x"), directory("f")])
def test_kinds_are_kept(tmp_path: Path, member: Member) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(CommandError, match="cannot overwrite"):
        unpack([build(member)], str(tmp_path), {})


def test_a_damaged_archive(tmp_path: Path) -> None:
    with pytest.raises(CommandError):
        unpack([build(Member("f", bytes(5000)))[:3000]], str(tmp_path), {})
