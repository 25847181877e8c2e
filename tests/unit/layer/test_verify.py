"""Two trees compared: every kind of damage is seen, and nothing else."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from pallet.layer.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    left = tmp_path / "left"
    (left / "dir").mkdir(parents=True)
    (left / "file").write_bytes(b"x" * 300_000)
    os.link(left / "file", left / "dir" / "same")
    (left / "dir" / "link").symlink_to("file")
    os.mkfifo(left / "fifo")
    (left / "fifo").chmod(0o644)
    right = tmp_path / "right"
    shutil.copytree(left, right, symlinks=True, ignore=lambda *_: ["fifo"])
    os.mkfifo(right / "fifo")
    (right / "fifo").chmod(0o644)
    (right / "dir" / "same").unlink()
    os.link(right / "file", right / "dir" / "same")
    for path in [*left.rglob("*"), left]:
        status = path.lstat()
        os.utime(right / path.relative_to(left), ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)
    return left, right


def flip(path: Path) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(299_999)
        file.write(b"y")
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))


def keep_time(change: Callable[[Path], None], parent: str) -> Callable[[Path], None]:
    def run(root: Path) -> None:
        status = (root / parent).stat()
        change(root)
        os.utime(root / parent, ns=(status.st_mtime_ns, status.st_mtime_ns))

    return run


def separate(root: Path) -> None:
    status = (root / "file").stat()
    (root / "dir" / "same").unlink()
    shutil.copy(root / "file", root / "dir" / "same")
    os.utime(root / "dir" / "same", ns=(status.st_mtime_ns, status.st_mtime_ns))


def relink(root: Path) -> None:
    status = (root / "dir" / "link").lstat()
    (root / "dir" / "link").unlink()
    (root / "dir" / "link").symlink_to("else")
    os.utime(root / "dir" / "link", ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)


def test_equal(trees: tuple[Path, Path]) -> None:
    found = verify(str(trees[0]), str(trees[1]))
    assert (found.count, found.entries, found.differences) == (0, 5, [])


@pytest.mark.parametrize(("change", "words"), [
    (lambda root: flip(root / "file"), ["/file has other content", "/dir/same has other content"]),
    (keep_time(lambda root: (root / "dir" / "link").unlink(), "dir"), ["/dir/link is missing"]),
    (keep_time(lambda root: (root / "dir" / "more").touch(), "dir"), ["/dir/more is not in the blob"]),
    (lambda root: (root / "fifo").chmod(0o600), ["/fifo has mode 0600 instead of 0644"]),
    (keep_time(separate, "dir"), ["/file is a file of its own"]),
    (keep_time(relink, "dir"), ["/dir/link links elsewhere"]),
    (lambda root: os.utime(root / "file", (1, 1)), ["/file has another modification time",
                                                    "/dir/same has another modification time"]),
])
def test_damage(trees: tuple[Path, Path], change: Callable[[Path], None], words: list[str]) -> None:
    change(trees[1])
    found = verify(str(trees[0]), str(trees[1]))
    assert found.count == len(found.differences)
    assert set(found.differences) <= {*words, "/dir/same is a file of its own"}
    assert found.count


def test_implied_directories_have_other_attributes(trees: tuple[Path, Path]) -> None:
    (trees[1] / "dir").chmod(0o700)
    assert verify(str(trees[0]), str(trees[1])).differences == ["/dir has mode 0700 instead of 0755"]
    assert verify(str(trees[0]), str(trees[1]), [b"dir"]).count == 0


def test_unreadable_root(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verify(str(tmp_path), str(tmp_path / "absent"))
