"""Paths resolved inside a root."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from pallet.errors import SyscallError
from pallet.linux import safepath

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    (tmp_path / "root/real").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "root/abs").symlink_to("/real")
    (tmp_path / "root/up").symlink_to("../../../../real")
    (tmp_path / "root/out").symlink_to(tmp_path / "outside")
    (tmp_path / "root/magic").symlink_to("/proc/self/root")
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd, tmp_path
    os.close(fd)


def where(fd: int) -> str:
    path = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    return path


@pytest.mark.parametrize("path", ["/real", "abs", "/up", "../../real", "/abs/../real"])
def test_links_stay_inside(root: tuple[int, Path], path: str) -> None:
    assert where(safepath.open_in_root(root[0], path)) == str(root[1] / "root/real")


def test_links_can_be_refused(root: tuple[int, Path]) -> None:
    with pytest.raises(SyscallError) as caught:
        safepath.open_in_root(root[0], "abs", symlinks=False)
    assert caught.value.errno == errno.ELOOP


def test_directories_are_made_inside(root: tuple[int, Path]) -> None:
    fd, top = root
    assert where(safepath.make_directories(fd, "/abs/x/y")) == str(top / "root/real/x/y")
    assert where(safepath.make_directories(fd, "/up/../new")) == str(top / "root/new")
    assert (top / "root/new").stat().st_mode & 0o777 == 0o755
    assert not list((top / "outside").iterdir())


def test_dangling_link_out_of_the_root_is_an_error(root: tuple[int, Path]) -> None:
    with pytest.raises(SyscallError) as caught:
        safepath.make_directories(root[0], "/out/sub")
    assert caught.value.errno == errno.ENOENT
    assert not list((root[1] / "outside").iterdir())


def test_file_is_made_once(root: tuple[int, Path]) -> None:
    fd, top = root
    os.close(safepath.make_file(fd, "/abs/deep/file"))
    (top / "root/real/deep/file").write_text("kept")
    os.close(safepath.make_file(fd, "/abs/deep/file"))
    assert (top / "root/real/deep/file").read_text() == "kept"


def test_component_that_is_a_file(root: tuple[int, Path]) -> None:
    (root[1] / "root/file").touch()
    with pytest.raises(SyscallError) as caught:
        safepath.make_directories(root[0], "/file/x")
    assert caught.value.errno == errno.ENOTDIR
