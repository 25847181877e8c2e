"""Limits that bite: memory and its out-of-memory killer, processes, huge pages, leftovers."""

from __future__ import annotations

import errno
import os
import select
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pallet.errors import SystemFailureError
from pallet.runtime.cgroup import open_cgroup, remove_parent
from pallet.spec.runtime import HugepageLimit, LinuxResources, MemoryResources, PidsResources
from tests.support import cgroups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pallet.runtime.cgroup import Cgroup

pytestmark = pytest.mark.needs("root", "cgroup1")
MIB = 1 << 20


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Cgroup]:
    """A cgroup on the host's layout."""
    made = cgroups.make("host", tmp_path)
    made.create()
    yield made
    cgroups.clean_up(made)


def eat(cgroup: Cgroup, size_bytes: int) -> str:
    """Touch that much memory inside; what became of the process."""
    def body() -> str:
        cgroup.join()
        held = bytearray(size_bytes)
        return f"held {len(held) // MIB}"

    return cgroups.result_of(body)


def test_memory_beyond_the_limit_is_an_oom_kill(cgroup: Cgroup) -> None:
    cgroup.apply(LinuxResources(memory=MemoryResources(limit=20 * MIB, swap=20 * MIB)))
    assert cgroup.oom_kills() == 0
    event_fd = cgroup.oom_event_fd()
    try:
        assert eat(cgroup, 4 * MIB) == "held 4"
        assert select.select([event_fd], [], [], 0)[0] == []
        assert eat(cgroup, 64 * MIB) == f"killed {signal.SIGKILL}"
        assert select.select([event_fd], [], [], 1)[0] == [event_fd]
    finally:
        os.close(event_fd)
    assert cgroup.oom_kills() == 1
    assert cgroup.stats().oom_kills == 1


def test_removing_the_cgroup_wakes_the_watcher(cgroup: Cgroup) -> None:
    """Whoever watches for out-of-memory events must not hang on a cgroup that is gone."""
    event_fd = cgroup.oom_event_fd()
    try:
        cgroup.delete()
        assert select.select([event_fd], [], [], 2)[0] == [event_fd]
        assert cgroup.oom_kills() == 0
    finally:
        os.close(event_fd)


def test_memory_in_use_beyond_a_new_limit(cgroup: Cgroup) -> None:
    def fill() -> None:
        cgroup.join()
        fill.held = bytearray(30 * MIB)  # type: ignore[attr-defined]

    pid = cgroups.in_child(fill)
    cgroup.apply(LinuxResources(memory=MemoryResources(swappiness=0)))
    try:
        with pytest.raises(SystemFailureError, match=(
                r"unable to set memory limit to 4194304 \(current usage: \d+, peak usage: \d+\)")):
            cgroup.apply(LinuxResources(memory=MemoryResources(limit=4 * MIB)))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_no_more_processes_than_the_limit(cgroup: Cgroup) -> None:
    cgroup.apply(LinuxResources(pids=PidsResources(limit=3)))

    def body() -> str:
        cgroup.join()
        made: list[int] = []
        try:
            while len(made) < 10:
                if (pid := os.fork()) == 0:
                    signal.pause()
                made.append(pid)
        except OSError as error:
            answer = f"{len(made)} {errno.errorcode[error.errno or 0]} of {cgroup.stats().pids_current}"
        else:
            answer = "no limit"
        for pid in made:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return answer

    assert cgroups.result_of(body) == "2 EAGAIN of 3"
    assert cgroup.stats().pids_limit == 3


def test_a_lost_cpuset_is_filled_from_its_parents(cgroup: Cgroup) -> None:
    """A cgroup v1 cpuset starts empty and takes no process then (ENOSPC)."""
    own = Path(cgroup.directories()["cpuset"])
    top = own.parent.parent
    assert (own / "cpuset.cpus").read_text() == (top / "cpuset.cpus").read_text()
    assert (own.parent / "cgroup.clone_children").read_text().strip() == "1"
    cgroup.delete()
    (own.parent / "cgroup.clone_children").write_text("0")
    cgroup.create()
    assert (own / "cpuset.mems").read_text() == (top / "cpuset.mems").read_text()
    assert eat(cgroup, MIB) == "held 1"


@pytest.mark.needs("cgroup2")
def test_a_controller_on_the_unified_mount_is_used_from_there(cgroup: Cgroup) -> None:
    if "hugetlb" in cgroup.directories():
        pytest.skip("hugetlb is on version 1 here")
    cgroup.apply(LinuxResources(hugepage_limits=[HugepageLimit(page_size="2MB", limit=4 * MIB)]))
    mount = cgroups.mounts_of("unified").v2
    directory = Path(f"{mount}{cgroup.path}")
    assert (directory / "hugetlb.2MB.max").read_text().strip() == str(4 * MIB)
    pid = cgroups.in_child(cgroup.join)
    membership = Path(f"/proc/{pid}/cgroup").read_text()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert f"0::{cgroup.path}" in membership.splitlines()
    cgroup.delete()
    assert not directory.exists()


def test_systemd_layout() -> None:
    parent = f"t-{os.getpid()}.slice"
    cgroup = open_cgroup(f"{parent}:pallet:t-scope", driver="systemd")
    cgroup.create()
    try:
        assert cgroup.path == f"/t.slice/{parent}/pallet-t-scope.scope"
        assert eat(cgroup, MIB) == "held 1"
    finally:
        cgroup.delete()
        remove_parent(parent, driver="systemd")
        remove_parent("t.slice", driver="systemd")
    assert not list(Path("/sys/fs/cgroup").glob("*/t.slice"))


def test_the_parent_goes_when_the_last_is_gone(cgroup: Cgroup) -> None:
    other = open_cgroup(f"{cgroups.PARENT}/t-other")
    other.create()
    parents = {Path(directory).parent for directory in cgroup.directories().values()}
    cgroup.delete()
    remove_parent(cgroups.PARENT)
    assert all(parent.is_dir() for parent in parents)
    other.delete()
    remove_parent(cgroups.PARENT)
    assert not any(parent.exists() for parent in parents)
