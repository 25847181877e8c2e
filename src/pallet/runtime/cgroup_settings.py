"""From OCI resources to control files: pure functions, one a cgroup version.

Owns   which limit goes into which file, and the conversions between the versions' scales.
Runs   anywhere; no I/O.
Spec   runtime-spec config-linux.md#control-groups; Documentation/admin-guide/cgroup-v2.rst;
       the conversions are the ones the common OCI runtimes use.

The result is a list of groups. A group of two holds values that limit each other (memory and memory
plus swap, quota and period): which one can be written first depends on what is there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.linux.bpfdevices import ANY, DevicePolicy, DeviceRule, policy_of
from pallet.linux.cgroupfs import Setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.spec.runtime import (
        BlockIOResources,
        CpuResources,
        LinuxResources,
        MemoryResources,
        ThrottleDevice,
        WeightDevice,
    )

Group = tuple[Setting, ...]

# What every container may use whatever its list says: runtime-spec config-linux.md#default-devices,
# and making any node (using it is another matter). Without these the /dev of a container is dead.
_DEFAULT_RULES = (
    DeviceRule(allow=True, kind="c", access="m"),
    DeviceRule(allow=True, kind="b", access="m"),
    DeviceRule(allow=True, kind="c", major=1, minor=3),
    DeviceRule(allow=True, kind="c", major=1, minor=5),
    DeviceRule(allow=True, kind="c", major=1, minor=7),
    DeviceRule(allow=True, kind="c", major=1, minor=8),
    DeviceRule(allow=True, kind="c", major=1, minor=9),
    DeviceRule(allow=True, kind="c", major=5, minor=0),
    DeviceRule(allow=True, kind="c", major=5, minor=2),
    DeviceRule(allow=True, kind="c", major=136),
)


def device_policy(resources: LinuxResources) -> DevicePolicy:
    """Return what the resources' device rules and the default devices add up to.

    Raises:
        InvalidParameterError: a malformed rule.
    """
    rules = [
        DeviceRule(
            allow=rule.allow,
            kind=rule.type or "a",
            major=ANY if rule.major is None else rule.major,
            minor=ANY if rule.minor is None else rule.minor,
            access=rule.access or "rwm",
        )
        for rule in resources.devices
    ]
    return policy_of((*rules, *_DEFAULT_RULES))


def v1_settings(resources: LinuxResources, has_file: Callable[[str, str], bool]) -> list[Group]:
    """Return the version 1 settings of everything in ``resources`` but the devices.

    Args:
        resources: what to set; what is None, 0 or empty is left alone.
        has_file: (controller, file) -> whether the kernel offers it, for files with two names.

    Raises:
        InvalidParameterError: a value no kernel takes, ``unified`` on version 1.
    """
    if resources.unified:
        message = "cannot use unified settings on a cgroup v1 host"
        raise InvalidParameterError(message)
    groups: list[Group] = []
    if resources.cpu is not None:
        groups += _v1_cpu(resources.cpu)
    if resources.memory is not None:
        groups += _v1_memory(resources.memory)
    if resources.pids is not None and resources.pids.limit:
        groups.append((Setting(controller="pids", file="pids.max",
                               value=_pids(resources.pids.limit)),))
    if resources.block_io is not None:
        groups += _v1_block_io(resources.block_io, has_file)
    groups += [(Setting(controller="hugetlb", file=f"hugetlb.{limit.page_size}.limit_in_bytes",
                        value=str(limit.limit)),) for limit in resources.hugepage_limits]
    return groups


def _pids(limit: int) -> str:
    return str(limit) if limit > 0 else "max"


def _single(controller: str, file: str, value: int | str | None) -> list[Group]:
    """Return one group of one setting, or none where the value is not set (None, 0, "")."""
    return [(Setting(controller=controller, file=file, value=str(value)),)] if value else []


def _pair(first: list[Group], second: list[Group]) -> list[Group]:
    """Join two optional settings that limit each other into one group."""
    both = tuple(setting for group in first + second for setting in group)
    return [both] if both else []


def _v1_cpu(cpu: CpuResources) -> list[Group]:
    groups = [
        *_pair(_single("cpu", "cpu.rt_period_us", cpu.realtime_period),
               _single("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime)),
        *_single("cpu", "cpu.shares", cpu.shares),
        *_pair(_single("cpu", "cpu.cfs_period_us", cpu.period),
               _single("cpu", "cpu.cfs_quota_us", cpu.quota)),
        *_single("cpu", "cpu.cfs_burst_us", cpu.burst),
    ]
    if cpu.idle is not None:
        groups.append((Setting(controller="cpu", file="cpu.idle", value=str(cpu.idle)),))
    groups += _single("cpuset", "cpuset.cpus", cpu.cpus)
    groups += _single("cpuset", "cpuset.mems", cpu.mems)
    return groups


def _v1_memory(memory: MemoryResources) -> list[Group]:
    swap = memory.swap
    if memory.limit == -1 and not swap:
        # Unlimited memory below a limit of memory plus swap is no unlimited memory.
        swap = -1
    groups = _pair(_single("memory", "memory.limit_in_bytes", memory.limit),
                   _single("memory", "memory.memsw.limit_in_bytes", swap))
    groups += _single("memory", "memory.soft_limit_in_bytes", memory.reservation)
    if memory.disable_oom_killer:
        groups += _single("memory", "memory.oom_control", 1)
    if memory.swappiness is not None and memory.swappiness != -1:
        if not 0 <= memory.swappiness <= 100:
            message = (f"invalid memory swappiness value: {memory.swappiness} "
                       "(valid range is 0-100)")
            raise InvalidParameterError(message)
        groups.append((Setting(controller="memory", file="memory.swappiness",
                               value=str(memory.swappiness)),))
    # kernel and kernel_tcp: deprecated in Linux 5.4 and gone since 6.1; the engine warns.
    return groups


# OCI throttle list -> v1 file and io.max key.
_THROTTLES = (
    ("throttle_read_bps_device", "blkio.throttle.read_bps_device", "rbps"),
    ("throttle_write_bps_device", "blkio.throttle.write_bps_device", "wbps"),
    ("throttle_read_iops_device", "blkio.throttle.read_iops_device", "riops"),
    ("throttle_write_iops_device", "blkio.throttle.write_iops_device", "wiops"),
)


def _throttles(io: BlockIOResources) -> list[tuple[str, str, ThrottleDevice]]:
    """Return (v1 file, io.max key, device) of every throttle."""
    return [(file, key, device) for field, file, key in _THROTTLES
            for device in getattr(io, field)]


def _v1_block_io(io: BlockIOResources, has_file: Callable[[str, str], bool]) -> list[Group]:
    # CFQ's files went with it in Linux 5.0; BFQ has its own names (and no leaf weights).
    prefix = "blkio." if has_file("blkio", "blkio.weight") else "blkio.bfq."
    groups = _single("blkio", f"{prefix}weight", io.weight)
    groups += _single("blkio", f"{prefix}leaf_weight", io.leaf_weight)
    for device in io.weight_device:
        name = f"{device.major}:{device.minor}"
        if device.weight:
            groups += _single("blkio", f"{prefix}weight_device", f"{name} {device.weight}")
        if device.leaf_weight:
            groups += _single("blkio", f"{prefix}leaf_weight_device",
                              f"{name} {device.leaf_weight}")
    for file, _, throttle in _throttles(io):
        groups += _single("blkio", file, f"{throttle.major}:{throttle.minor} {throttle.rate}")
    return groups


def v2_settings(resources: LinuxResources, has_file: Callable[[str, str], bool]) -> list[Group]:
    """Return the version 2 settings of everything in ``resources`` but the devices.

    Args:
        resources: what to set; what is None, 0 or empty is left alone. Swappiness, realtime and
            disabling the out-of-memory killer have no counterpart and are left out.
        has_file: (controller, file) -> whether the kernel offers it, for files with two names.

    Raises:
        InvalidParameterError: a value no kernel takes, a name in ``unified`` that is a path.
    """
    groups: list[Group] = []
    if resources.cpu is not None:
        groups += _v2_cpu(resources.cpu)
    if resources.memory is not None:
        groups += _v2_memory(resources.memory, has_file)
    if resources.pids is not None and resources.pids.limit:
        groups += _single("pids", "pids.max", _pids(resources.pids.limit))
    if resources.block_io is not None:
        groups += _v2_block_io(resources.block_io, has_file)
    for limit in resources.hugepage_limits:
        groups += _single("hugetlb", f"hugetlb.{limit.page_size}.max", str(limit.limit))
        if has_file("hugetlb", f"hugetlb.{limit.page_size}.rsvd.max"):
            groups += _single("hugetlb", f"hugetlb.{limit.page_size}.rsvd.max", str(limit.limit))
    for name, value in resources.unified.items():
        if "/" in name or name.startswith("cgroup."):
            message = f"unified resource {name!r} must be a file name of a controller"
            raise InvalidParameterError(message)
        groups.append((Setting(controller=name.partition(".")[0], file=name, value=value),))
    return groups


def cpu_weight(shares: int) -> int:
    """Convert cpu shares (2 to 262144, default 1024) to a v2 weight (1 to 10000, default 100).

    A power of ten whose exponent is quadratic in log2(shares), so that both ends and the default
    map onto each other.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    power = math.log2(shares)
    exponent = (power * power + 125 * power) / 612 - 7 / 34
    # Rounded first: 1024 must give 100 and not, by the last bit of a float, 101.
    return math.ceil(round(10**exponent, 6))


def _v2_cpu(cpu: CpuResources) -> list[Group]:
    groups = _single("cpu", "cpu.weight", cpu_weight(cpu.shares) if cpu.shares else None)
    if cpu.quota or cpu.period:
        quota = str(cpu.quota) if cpu.quota and cpu.quota > 0 else "max"
        groups += _single("cpu", "cpu.max", f"{quota} {cpu.period}" if cpu.period else quota)
    groups += _single("cpu", "cpu.max.burst", cpu.burst)
    if cpu.idle is not None:
        groups.append((Setting(controller="cpu", file="cpu.idle", value=str(cpu.idle)),))
    groups += _single("cpuset", "cpuset.cpus", cpu.cpus)
    groups += _single("cpuset", "cpuset.mems", cpu.mems)
    return groups


def swap_max(limit: int | None, swap: int | None) -> str | None:
    """Return ``memory.swap.max`` for OCI's memory limit and memory-plus-swap; None leaves it.

    Raises:
        InvalidParameterError: swap without a memory limit, or less than it.
    """
    if limit == -1 and not swap:
        return "max"
    if not swap:
        return None
    if swap == -1:
        return "max"
    if not limit or limit < 0:
        message = "unable to set swap limit without memory limit"
        raise InvalidParameterError(message)
    if swap < limit:
        message = "memory+swap limit should be >= memory limit"
        raise InvalidParameterError(message)
    return str(swap - limit)


def _v2_memory(memory: MemoryResources, has_file: Callable[[str, str], bool]) -> list[Group]:
    groups: list[Group] = []
    swap = swap_max(memory.limit, memory.swap)
    # Without swap accounting there is nothing to turn off or to leave unlimited.
    if swap is not None and (swap not in ("0", "max") or has_file("memory", "memory.swap.max")):
        groups += _single("memory", "memory.swap.max", swap)
    groups += _single("memory", "memory.max", _bytes(memory.limit))
    groups += _single("memory", "memory.low", _bytes(memory.reservation))
    return groups


def _bytes(limit: int | None) -> str | None:
    if not limit:
        return None
    return "max" if limit < 0 else str(limit)


def io_weight(weight: int) -> int:
    """Convert a blkio weight (10 to 1000) linearly to an io.weight (1 to 10000)."""
    return 1 + (weight - 10) * 9999 // 990


def _v2_block_io(io: BlockIOResources, has_file: Callable[[str, str], bool]) -> list[Group]:
    groups: list[Group] = []
    # BFQ has its own file in the scale of the v1 weights; io.weight belongs to io.cost.
    bfq = has_file("io", "io.bfq.weight")
    file = "io.bfq.weight" if bfq else "io.weight"

    def scaled(weight: int) -> int:
        return weight if bfq else io_weight(weight)

    if io.weight:
        groups += _single("io", file, scaled(io.weight))
    for device in io.weight_device:
        groups += _v2_weight_device(file, device, scaled)
    for _, key, throttle in _throttles(io):
        groups += _single("io", "io.max",
                          f"{throttle.major}:{throttle.minor} {key}={throttle.rate}")
    return groups


def _v2_weight_device(file: str, device: WeightDevice,
                      scaled: Callable[[int], int]) -> list[Group]:
    if not device.weight:
        return []
    return _single("io", file, f"{device.major}:{device.minor} {scaled(device.weight)}")
