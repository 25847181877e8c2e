"""What every ``Cgroup`` promises, on each layout: v1, hybrid, v2 (real), and a fake v2 tree."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pallet.errors import SyscallError, SystemFailureError
from pallet.linux.cgroupfs import Counters
from pallet.runtime.cgroup import open_cgroup
from pallet.spec.runtime import (
    BlockIOResources,
    CpuResources,
    DeviceRule,
    HugepageLimit,
    LinuxResources,
    MemoryResources,
    PidsResources,
    ThrottleDevice,
)
from tests.support import cgroups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pallet.linux.cgroupfs import Mounts
    from pallet.runtime.cgroup import Cgroup

CONTAINED = [DeviceRule(allow=False), DeviceRule(allow=True, type="c", major=10, minor=200)]
REAL = [pytest.param("v1", marks=pytest.mark.needs("root", "cgroup1")),
        pytest.param("hybrid", marks=pytest.mark.needs("root", "cgroup1", "cgroup2")),
        pytest.param("unified", marks=pytest.mark.needs("root", "cgroup2"))]
EVERY = [*REAL, "fake"]


@pytest.fixture
def cgroup(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cgroup]:
    """One cgroup that is not there yet, on the layout the test is run for."""
    made = cgroups.make(request.param, tmp_path)
    yield made
    if request.param == "fake":
        made.delete()
    else:
        cgroups.clean_up(made)


every = pytest.mark.parametrize("cgroup", EVERY, indirect=True)
real = pytest.mark.parametrize("cgroup", REAL, indirect=True)
v1_only = pytest.mark.parametrize("cgroup", REAL[:2], indirect=True)
v2_only = pytest.mark.parametrize("cgroup", REAL[2:], indirect=True)
fake_only = pytest.mark.parametrize("cgroup", ["fake"], indirect=True)


def text(cgroup: Cgroup, controller: str, file: str) -> str:
    directories = cgroup.directories()
    directory = directories.get(controller) or directories[""]
    return Path(directory, file).read_text().strip()


@every
def test_create_and_delete_are_idempotent(cgroup: Cgroup) -> None:
    assert not cgroup.exists()
    cgroup.create()
    cgroup.create()
    assert cgroup.exists()
    assert all(Path(directory).is_dir() for directory in cgroup.directories().values())
    cgroup.delete()
    cgroup.delete()
    assert not cgroup.exists()


@every
def test_a_cgroup_that_is_gone_has_nothing(cgroup: Cgroup) -> None:
    assert cgroup.pids() == []
    assert cgroup.oom_kills() == 0
    assert cgroup.stats() == Counters()
    assert not cgroup.is_frozen()


@every
def test_delete_takes_what_the_container_made_below(cgroup: Cgroup) -> None:
    cgroup.create()
    for directory in set(cgroup.directories().values()):
        os.makedirs(f"{directory}/inner/most")
    cgroup.delete()
    assert not any(Path(directory).exists() for directory in cgroup.directories().values())


@real
def test_join_moves_the_caller_everywhere(cgroup: Cgroup) -> None:
    cgroup.create()
    pid = cgroups.in_child(cgroup.join)
    try:
        assert cgroup.pids() == [pid]
        membership = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        for controller in cgroup.directories():
            (line,) = [entry for entry in membership
                       if controller in entry.split(":")[1].split(",")]
            assert line.endswith(f":{cgroup.path}"), line
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@real
def test_fork_and_join_make_a_full_python_inside(cgroup: Cgroup) -> None:
    """The child can do all a forked one can: fork again, use locks and threads, exec."""
    cgroup.create()
    hooks: list[str] = []
    os.register_at_fork(after_in_child=lambda: hooks.append("child"))
    ready_fd, done_fd = os.pipe()
    pid = cgroup.fork()
    if pid == 0:
        try:
            cgroup.join()
            assert os.getpid() != os.getppid()
            assert hooks == ["child"]
            assert threading.get_native_id() == os.getpid()
            thread = threading.Thread(target=hooks.append, args=("thread",))
            thread.start()
            thread.join()
            assert hooks == ["child", "thread"]
            assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0
            os.dup2(done_fd, 1)
            os.execv("/bin/sh", ["sh", "-c", "echo in $$; exec sleep 60"])
        except BaseException as error:  # noqa: BLE001 - a forked child
            os.write(done_fd, repr(error).encode())
        os._exit(1)
    os.close(done_fd)
    assert os.read(ready_fd, 4096).decode() == f"in {pid}\n"
    os.close(ready_fd)
    assert cgroup.pids() == [pid]
    cgroup.kill_all()
    os.waitpid(pid, 0)


@v2_only
def test_fork_into_what_is_gone_fails_in_the_parent(cgroup: Cgroup) -> None:
    assert cgroup.bears_children
    with pytest.raises(SyscallError) as caught:
        cgroup.fork()
    assert caught.value.errno == errno.ENOENT


@real
def test_add_pid_moves_another_process(cgroup: Cgroup) -> None:
    cgroup.create()
    pid = cgroups.in_child(lambda: None)
    try:
        cgroup.add_pid(pid)
        assert cgroup.pids() == [pid]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with pytest.raises(SyscallError) as caught:
        cgroup.add_pid(pid)
    assert caught.value.errno == errno.ESRCH


@real
def test_kill_all_reaches_below_and_the_frozen(cgroup: Cgroup) -> None:
    cgroup.create()
    outer = cgroups.in_child(cgroup.join)
    below = open_cgroup(f"{cgroup.path}/t-below", mounts=_mounts(cgroup))
    if "" in cgroup.directories():
        # As a program in a container would: with controllers, a cgroup that has processes takes no
        # other one below it (cgroup-v2.rst, "No Internal Process Constraint").
        os.mkdir(below.directories()[""])
    else:
        below.create()
    inner = cgroups.in_child(below.join)
    if "" not in cgroup.directories() or (Path(cgroup.directories()[""]) / "cgroup.freeze").exists():
        cgroup.freeze()
        assert cgroup.is_frozen()
    assert set(cgroup.pids()) == {outer, inner}
    cgroup.kill_all()
    for pid in (outer, inner):
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert cgroup.pids() == []
    cgroup.delete()


def _mounts(cgroup: Cgroup) -> Mounts:
    return cgroups.mounts_of("unified" if "" in cgroup.directories() else "v1")


@real
def test_kill_all_wins_against_a_fork_bomb(cgroup: Cgroup) -> None:
    cgroup.create()

    def bomb() -> None:
        cgroup.join()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if os.fork():
            return
        while len(os.listdir("/proc")) < 3000:
            if os.fork() == 0:
                os.sched_yield()

    first = cgroups.in_child(bomb)
    cgroups.until(lambda: len(cgroup.pids()) > 20, "the processes did not multiply")
    cgroup.kill_all()
    os.waitpid(first, 0)
    cgroups.until(lambda: not cgroup.pids(), "some process survived")
    cgroup.delete()


@real
def test_freeze_stops_and_thaw_goes_on(cgroup: Cgroup) -> None:
    cgroup.create()

    def spin() -> None:
        cgroup.join()
        if os.fork() == 0:
            while True:
                pass

    first = cgroups.in_child(spin)
    (spinner,) = set(cgroup.pids()) - {first}
    cgroup.freeze()
    before = _cpu_ticks(spinner)
    time.sleep(0.05)
    assert _cpu_ticks(spinner) == before
    assert cgroup.is_frozen()
    cgroup.thaw()
    cgroups.until(lambda: _cpu_ticks(spinner) > before, "the process did not go on")
    assert not cgroup.is_frozen()
    cgroup.kill_all()
    os.waitpid(first, 0)


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


@real
def test_delete_waits_for_the_dying(cgroup: Cgroup) -> None:
    cgroup.create()
    pid = cgroups.in_child(cgroup.join)
    os.kill(pid, signal.SIGKILL)
    cgroup.delete()
    os.waitpid(pid, 0)
    assert not cgroup.exists()


@real
def test_devices_are_contained(cgroup: Cgroup) -> None:
    """runtime-spec config-linux.md#allowed-device-list: a denied device cannot be opened."""
    cgroup.create()
    cgroup.apply(LinuxResources(devices=CONTAINED))
    assert _try_devices(cgroup) == "null=ok kmsg=EPERM"


@real
def test_an_update_keeps_the_devices_unless_it_lists_some(cgroup: Cgroup) -> None:
    cgroup.create()
    cgroup.apply(LinuxResources(devices=CONTAINED))
    again = open_cgroup(cgroup.path, mounts=_mounts(cgroup))
    again.apply(LinuxResources())
    assert _try_devices(cgroup) == "null=ok kmsg=EPERM"
    again.apply(LinuxResources(devices=[DeviceRule(allow=True)]))
    assert _try_devices(cgroup) == "null=ok kmsg=ok"
    again.apply(LinuxResources(devices=CONTAINED))
    assert _try_devices(cgroup) == "null=ok kmsg=EPERM"


def _try_devices(cgroup: Cgroup) -> str:
    def body() -> str:
        cgroup.join()
        answers = []
        for name in ("null", "kmsg"):
            try:
                os.close(os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK))
            except OSError as error:
                answers.append(f"{name}={errno.errorcode[error.errno or 0]}")
            else:
                answers.append(f"{name}=ok")
        return " ".join(answers)

    return cgroups.result_of(body)


LIMITS = LinuxResources(
    devices=[DeviceRule(allow=True)],
    memory=MemoryResources(limit=64 << 20, swap=96 << 20, reservation=16 << 20),
    cpu=CpuResources(shares=512, quota=25000, period=50000, cpus="0"),
    pids=PidsResources(limit=99),
    block_io=BlockIOResources(
        throttle_read_bps_device=[ThrottleDevice(major=7, minor=0, rate=1 << 20)]))


@v1_only
def test_limits_on_version_one(cgroup: Cgroup) -> None:
    cgroup.create()
    cgroup.apply(LinuxResources(devices=LIMITS.devices, memory=LIMITS.memory, cpu=LIMITS.cpu,
                                pids=LIMITS.pids))
    assert text(cgroup, "memory", "memory.limit_in_bytes") == str(64 << 20)
    assert text(cgroup, "memory", "memory.memsw.limit_in_bytes") == str(96 << 20)
    assert text(cgroup, "memory", "memory.soft_limit_in_bytes") == str(16 << 20)
    assert text(cgroup, "cpu", "cpu.shares") == "512"
    assert text(cgroup, "cpu", "cpu.cfs_quota_us") == "25000"
    assert text(cgroup, "cpu", "cpu.cfs_period_us") == "50000"
    assert text(cgroup, "cpuset", "cpuset.cpus") == "0"
    assert text(cgroup, "cpuset", "cpuset.mems") == "0"
    assert text(cgroup, "pids", "pids.max") == "99"
    stats = cgroup.stats()
    assert (stats.memory_limit_bytes, stats.pids_limit) == (64 << 20, 99)


@v1_only
def test_limits_can_be_raised_and_lowered_in_any_order(cgroup: Cgroup) -> None:
    """memory must not exceed memory plus swap at any moment, nor quota its period's bounds."""
    cgroup.create()
    for limit, swap in ((64, 64), (128, 256), (32, 48), (-1, -1), (16, 16)):
        cgroup.apply(LinuxResources(memory=MemoryResources(
            limit=limit << 20 if limit > 0 else -1, swap=swap << 20 if swap > 0 else -1)))
        if limit > 0:
            assert text(cgroup, "memory", "memory.limit_in_bytes") == str(limit << 20)
            assert text(cgroup, "memory", "memory.memsw.limit_in_bytes") == str(swap << 20)
    for quota, period in ((1000, 1000), (900000, 1000000), (1000, 1000), (-1, 100000)):
        cgroup.apply(LinuxResources(cpu=CpuResources(quota=quota, period=period)))
        assert text(cgroup, "cpu", "cpu.cfs_quota_us") == str(quota)


@fake_only
def test_limits_on_version_two(cgroup: Cgroup, tmp_path: Path) -> None:
    cgroup.create()
    parent = tmp_path / cgroups.PARENT.lstrip("/")
    for directory in (tmp_path, parent):
        handed = (directory / "cgroup.subtree_control").read_text()
        assert handed == "+cpu +cpuset +io +memory +pids +hugetlb"
    cgroup.apply(LIMITS)
    expected = {"memory.max": str(64 << 20), "memory.swap.max": str(32 << 20),
                "memory.low": str(16 << 20), "cpu.weight": "59", "cpuset.cpus": "0",
                "pids.max": "99", "io.max": "7:0 rbps=1048576"}
    found = {name: text(cgroup, "", name)[:len(value)] for name, value in expected.items()}
    assert found == expected
    assert text(cgroup, "", "cpu.max").startswith("25000 50000")


@fake_only
def test_counters_of_version_two(cgroup: Cgroup) -> None:
    cgroup.create()
    stats = cgroup.stats()
    assert (stats.cpu_usage_ns, stats.cpu_user_ns, stats.cpu_system_ns) == (
        1_000_000, 600_000, 400_000)
    assert (stats.cpu_periods, stats.cpu_throttled_periods, stats.cpu_throttled_ns) == (4, 1, 50_000)
    assert (stats.memory_usage_bytes, stats.memory_max_usage_bytes, stats.memory_failures) == (
        65536, 131072, 3)
    assert stats.memory_stat == {"anon": 4096, "file": 8192}
    assert (stats.oom_kills, stats.pids_current, stats.pids_limit) == (2, 1, 0)
    assert [(entry.op, entry.value) for entry in stats.io_bytes] == [
        ("Read", 4096), ("Write", 8192), ("Discard", 0)]
    assert [entry.value for entry in stats.io_operations] == [1, 2, 0]


@real
def test_a_controller_that_is_nowhere_is_named(cgroup: Cgroup) -> None:
    cgroup.create()
    wanted = LinuxResources(hugepage_limits=[HugepageLimit(page_size="3KB", limit=4096)])
    with pytest.raises(SystemFailureError, match=r"hugetlb"):
        cgroup.apply(wanted)
