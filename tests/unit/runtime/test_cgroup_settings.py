"""Which limit goes into which control file, on both versions."""

from __future__ import annotations

import pytest

from pallet.errors import InvalidParameterError
from pallet.runtime import cgroup_settings as settings
from pallet.spec.runtime import (
    BlockIOResources,
    CpuResources,
    DeviceRule,
    HugepageLimit,
    LinuxResources,
    MemoryResources,
    PidsResources,
    ThrottleDevice,
    WeightDevice,
)

MIB = 1 << 20
V1 = [
    (LinuxResources(), []),
    (LinuxResources(cpu=CpuResources(shares=0), memory=MemoryResources()), []),
    (LinuxResources(memory=MemoryResources(limit=64 * MIB, swap=128 * MIB)),
     [("memory.limit_in_bytes=67108864", "memory.memsw.limit_in_bytes=134217728")]),
    (LinuxResources(memory=MemoryResources(limit=-1)),
     [("memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1")]),
    (LinuxResources(memory=MemoryResources(reservation=8 * MIB, swappiness=0,
                                           disable_oom_killer=True)),
     ["memory.soft_limit_in_bytes=8388608", "memory.oom_control=1", "memory.swappiness=0"]),
    (LinuxResources(memory=MemoryResources(swappiness=-1, disable_oom_killer=False)), []),
    (LinuxResources(cpu=CpuResources(shares=512, quota=50000, period=100000, cpus="0-1",
                                     mems="0")),
     ["cpu.shares=512", ("cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000"),
      "cpuset.cpus=0-1", "cpuset.mems=0"]),
    (LinuxResources(cpu=CpuResources(quota=-1, idle=1)),
     ["cpu.cfs_quota_us=-1", "cpu.idle=1"]),
    (LinuxResources(pids=PidsResources(limit=100)), ["pids.max=100"]),
    (LinuxResources(pids=PidsResources(limit=-1)), ["pids.max=max"]),
    (LinuxResources(pids=PidsResources(limit=0)), []),
    (LinuxResources(hugepage_limits=[HugepageLimit(page_size="2MB", limit=0)]),
     ["hugetlb.2MB.limit_in_bytes=0"]),
    (LinuxResources(block_io=BlockIOResources(
        weight=300, weight_device=[WeightDevice(major=8, minor=0, weight=500)],
        throttle_read_bps_device=[ThrottleDevice(major=8, minor=0, rate=MIB)],
        throttle_write_iops_device=[ThrottleDevice(major=8, minor=16, rate=20)])),
     ["blkio.bfq.weight=300", "blkio.bfq.weight_device=8:0 500",
      "blkio.throttle.read_bps_device=8:0 1048576",
      "blkio.throttle.write_iops_device=8:16 20"]),
]
V2 = [
    (LinuxResources(), []),
    (LinuxResources(memory=MemoryResources(limit=64 * MIB, swap=128 * MIB,
                                           reservation=8 * MIB, swappiness=10)),
     ["memory.swap.max=67108864", "memory.max=67108864", "memory.low=8388608"]),
    (LinuxResources(memory=MemoryResources(limit=-1)), ["memory.swap.max=max", "memory.max=max"]),
    (LinuxResources(cpu=CpuResources(shares=1024, quota=50000, period=100000)),
     ["cpu.weight=100", "cpu.max=50000 100000"]),
    (LinuxResources(cpu=CpuResources(quota=-1)), ["cpu.max=max"]),
    (LinuxResources(cpu=CpuResources(period=50000, burst=1000)),
     ["cpu.max=max 50000", "cpu.max.burst=1000"]),
    (LinuxResources(pids=PidsResources(limit=-5)), ["pids.max=max"]),
    (LinuxResources(hugepage_limits=[HugepageLimit(page_size="2MB", limit=4096)]),
     ["hugetlb.2MB.max=4096", "hugetlb.2MB.rsvd.max=4096"]),
    (LinuxResources(block_io=BlockIOResources(
        weight=10, throttle_write_bps_device=[ThrottleDevice(major=8, minor=0, rate=5)])),
     ["io.weight=1", "io.max=8:0 wbps=5"]),
    (LinuxResources(unified={"memory.high": "1000"}), ["memory.high=1000"]),
]


def flat(groups: list[settings.Group]) -> list[str | tuple[str, ...]]:
    """``file=value`` for a single setting, a tuple of those for a pair."""
    texts = [tuple(f"{one.file}={one.value}" for one in group) for group in groups]
    return [text[0] if len(text) == 1 else text for text in texts]


@pytest.mark.parametrize(("resources", "expected"), V1)
def test_version_one(resources: LinuxResources, expected: list[str]) -> None:
    without_cfq = settings.v1_settings(resources, lambda _, file: file != "blkio.weight")
    assert flat(without_cfq) == expected


@pytest.mark.parametrize(("resources", "expected"), V2)
def test_version_two(resources: LinuxResources, expected: list[str]) -> None:
    plain = settings.v2_settings(resources, lambda _, file: file != "io.bfq.weight")
    assert flat(plain) == expected


def test_cfq_and_bfq_files() -> None:
    resources = LinuxResources(block_io=BlockIOResources(
        weight=300, weight_device=[WeightDevice(major=8, minor=0, weight=500)]))
    assert flat(settings.v1_settings(resources, lambda *_: True)) == [
        "blkio.weight=300", "blkio.weight_device=8:0 500"]
    assert flat(settings.v2_settings(resources, lambda *_: True)) == [
        "io.bfq.weight=300", "io.bfq.weight=8:0 500"]


@pytest.mark.parametrize(("shares", "weight"),
                         [(1, 1), (2, 1), (512, 59), (1024, 100), (2048, 174), (262144, 10000)])
def test_cpu_weight_maps_ends_and_default(shares: int, weight: int) -> None:
    assert settings.cpu_weight(shares) == weight


def test_cpu_weight_never_falls() -> None:
    weights = [settings.cpu_weight(shares) for shares in range(2, 262145, 97)]
    assert weights == sorted(weights)
    assert (min(weights), max(weights)) == (1, 9999)


@pytest.mark.parametrize(("weight", "expected"), [(10, 1), (500, 4950), (1000, 10000)])
def test_io_weight_is_linear(weight: int, expected: int) -> None:
    assert settings.io_weight(weight) == expected


@pytest.mark.parametrize(("limit", "swap", "expected"), [
    (100, 100, "0"), (100, 300, "200"), (100, None, None), (None, None, None), (100, -1, "max"),
    (-1, None, "max"), (None, -1, "max"),
])
def test_swap_is_what_is_beyond_memory(limit: int | None, swap: int | None,
                                       expected: str | None) -> None:
    assert settings.swap_max(limit, swap) == expected


@pytest.mark.parametrize(("limit", "swap", "message"), [
    (None, 5, "unable to set swap limit without memory limit"),
    (100, 50, "memory\\+swap limit should be >= memory limit"),
])
def test_impossible_swap(limit: int | None, swap: int, message: str) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        settings.swap_max(limit, swap)


def test_swap_that_does_not_exist_need_not_be_turned_off() -> None:
    resources = LinuxResources(memory=MemoryResources(limit=100, swap=100))
    assert flat(settings.v2_settings(resources, lambda *_: False)) == ["memory.max=100"]


def test_swappiness_has_a_range() -> None:
    resources = LinuxResources(memory=MemoryResources(swappiness=101))
    with pytest.raises(InvalidParameterError, match=r"valid range is 0-100"):
        settings.v1_settings(resources, lambda *_: True)


@pytest.mark.parametrize("name", ["../memory.max", "cgroup.procs", "a/b"])
def test_unified_takes_no_paths_and_no_core_files(name: str) -> None:
    with pytest.raises(InvalidParameterError, match="must be a file name"):
        settings.v2_settings(LinuxResources(unified={name: "1"}), lambda *_: True)


def test_unified_needs_version_two() -> None:
    with pytest.raises(InvalidParameterError, match="cgroup v1"):
        settings.v1_settings(LinuxResources(unified={"memory.max": "1"}), lambda *_: True)


def test_default_devices_come_on_top_of_the_rules() -> None:
    """runtime-spec config-linux.md#default-devices: they work whatever the list says."""
    policy = settings.device_policy(LinuxResources(devices=[DeviceRule(allow=False)]))
    assert not policy.default_allow
    assert {b"c 1:3 rwm", b"c 136:* rwm", b"c 5:2 rwm", b"c *:* m"} <= set(policy.lines())


def test_privileged_has_no_exceptions() -> None:
    policy = settings.device_policy(LinuxResources(devices=[DeviceRule(allow=True, access="rwm")]))
    assert (policy.default_allow, policy.exceptions) == (True, {})
