"""Where the hierarchies are, and reading their files."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pallet.errors import SyscallError
from pallet.linux import cgroupfs
from pallet.linux.cgroup1 import parse_io
from pallet.linux.cgroupfs import IoCounter, Mounts, parse_mountinfo

if TYPE_CHECKING:
    from pathlib import Path

V1 = [
    "24 30 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n",
    "31 23 0:28 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n",
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n",
    "33 31 0:30 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory\n",
    "34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n",
]
V2 = "35 23 0:32 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
UNIFIED = "36 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(("lines", "mode", "v2"), [
    (V1, "v1", None),
    ([V2], "v2", "/sys/fs/cgroup"),
    ([*V1, UNIFIED], "hybrid", "/sys/fs/cgroup/unified"),
    (V1[:2], "none", None),
    ([V1[4], V2], "v2", "/sys/fs/cgroup"),
])
def test_layout_is_told_by_what_is_mounted(lines: list[str], mode: str, v2: str | None) -> None:
    mounts = parse_mountinfo(lines)
    assert (mounts.mode, mounts.v2) == (mode, v2)


def test_controllers_that_share_a_mount_have_the_same_place() -> None:
    mounts = parse_mountinfo(V1).v1
    assert mounts["cpu"] == mounts["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"
    assert mounts["name=systemd"] == "/sys/fs/cgroup/systemd"
    assert "xattr" not in mounts


def test_first_mount_of_a_hierarchy_wins() -> None:
    again = "40 23 0:30 /x /run/c\\040d/memory ro - cgroup cgroup rw,memory\n"
    assert parse_mountinfo([V1[3], again]).v1["memory"] == "/sys/fs/cgroup/memory"
    assert parse_mountinfo([again]).v1["memory"] == "/run/c d/memory"


def test_hybrid_needs_a_controller_on_version_one() -> None:
    assert Mounts(v1={"name=systemd": "/s"}, v2="/u").mode == "v2"


def test_keyed_takes_numbers_only() -> None:
    assert cgroupfs.keyed("oom_kill_disable 0\nunder_oom 1\nsome text\nlimit -1\n") == {
        "oom_kill_disable": 0, "under_oom": 1, "limit": -1}


@pytest.mark.parametrize(("text", "value"), [("", 0), ("max\n", 0), ("42\n", 42)])
def test_number(text: str, value: int) -> None:
    assert cgroupfs.number(text) == value


def test_io_lines() -> None:
    text = "8:0 Read 4096\n8:0 Write 0\n8:0 Total 4096\nTotal 4096\n"
    assert parse_io(text) == (
        IoCounter(major=8, minor=0, op="Read", value=4096),
        IoCounter(major=8, minor=0, op="Write", value=0),
        IoCounter(major=8, minor=0, op="Total", value=4096))


def test_a_missing_control_is_an_error_to_write_and_empty_to_read(tmp_path: Path) -> None:
    path = f"{tmp_path}/memory.max"
    with pytest.raises(SyscallError) as caught:
        cgroupfs.write(path, "1")
    assert (caught.value.errno, caught.value.path) == (errno.ENOENT, path)
    assert cgroupfs.read_or_empty(path) == ""


def test_remove_tree_removes_children_first_and_forgives_what_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    cgroupfs.remove_tree([str(tmp_path / "a"), str(tmp_path / "gone")])
    assert list(tmp_path.iterdir()) == []


def test_remove_tree_says_what_stayed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    def busy(path: str) -> None:
        raise OSError(errno.EBUSY, "busy", path)

    with pytest.raises(SyscallError) as caught:
        cgroupfs.remove_tree([str(tmp_path / "a")], rmdir=busy, deadline_s=0.005)
    assert caught.value.errno == errno.EBUSY
