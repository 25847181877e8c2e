"""Resource limits: from ``HostConfig`` to the OCI ``linux.resources``, with Docker's checks.

Pure, but for the device numbers of block devices and the host's CPU count. The device cgroup's
rules come from ``engine/security.py``. Engine API Resources; runtime-spec config-linux.md.
"""

from __future__ import annotations

import os
import stat
from functools import cache
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.spec import runtime as oci

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.spec.engine.host_config import HostConfig, ThrottleDevice, WeightDevice

_MIN_MEMORY_BYTES = 6 * 1024 * 1024
_CPU_PERIOD_US = 100_000


def _refuse(message: str) -> InvalidParameterError:
    return InvalidParameterError(message)


def check(host: HostConfig) -> None:
    """Refuse impossible limits.

    Raises:
        InvalidParameterError: in Docker's words.
    """
    _check_memory(host)
    _check_cpu(host)
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        msg = "Range of blkio weight is from 10 to 1000"
        raise _refuse(msg)
    if host.pids_limit is not None and host.pids_limit < -1:
        msg = "Invalid value for PidsLimit"
        raise _refuse(msg)


def _check_memory(host: HostConfig) -> None:
    memory, swap = host.memory, host.memory_swap
    swappiness = host.memory_swappiness
    for failed, message in (
        (0 < memory < _MIN_MEMORY_BYTES, "Minimum memory limit allowed is 6MB"),
        (memory > 0 and 0 < swap < memory,
         "Minimum memoryswap limit should be larger than memory limit, see usage"),
        (memory == 0 and swap > 0, "You should always set the Memory limit when using Memoryswap limit, see usage"),
        (swappiness is not None and not -1 <= swappiness <= 100,
         f"Invalid value: {swappiness}, valid memory swappiness range is 0-100"),
        (0 < host.memory_reservation < _MIN_MEMORY_BYTES, "Minimum memory reservation allowed is 6MB"),
        (0 < memory < host.memory_reservation,
         "Minimum memory limit can not be less than memory reservation limit, see usage"),
    ):
        if failed:
            raise _refuse(message)


def _check_cpu(host: HostConfig) -> None:
    cpus = _cpu_count()
    for failed, message in (
        (host.nano_cpus > 0 and host.cpu_period > 0,
         "Conflicting options: Nano CPUs and CPU Period cannot both be set"),
        (host.nano_cpus > 0 and host.cpu_quota > 0,
         "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
        (host.nano_cpus < 0 or host.nano_cpus > cpus * 1_000_000_000,
         f"Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"),
        (host.cpu_shares < 0, f"shares is not valid: {host.cpu_shares}"),
        (host.cpu_period != 0 and not 1000 <= host.cpu_period <= 1_000_000,
         "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
        (0 < host.cpu_quota < 1000, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
    ):
        if failed:
            raise _refuse(message)
    if host.cpuset_cpus:
        _check_cpuset(host.cpuset_cpus, _online("cpu"), kind="cpus", available="CPUs")
    if host.cpuset_mems:
        _check_cpuset(host.cpuset_mems, _online("node"), kind="mems", available="memory nodes")


def _check_cpuset(wanted: str, online: str, *, kind: str, available: str) -> None:
    try:
        numbers = _parse_cpuset(wanted)
    except ValueError:
        msg = f"Invalid value {wanted} for cpuset {kind}"
        raise _refuse(msg) from None
    if not numbers <= _parse_cpuset(online):
        msg = f"Requested {available} are not available - requested {wanted}, available: {online}"
        raise _refuse(msg)


def _online(kind: str) -> str:
    path = f"/sys/devices/system/{kind}/online"
    try:
        with open(path, encoding="ascii") as handle:
            return handle.read().strip()
    except OSError:
        return "0" if kind == "node" else f"0-{(os.cpu_count() or 1) - 1}"


def _parse_cpuset(text: str) -> set[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = int(first)
        high = int(last) if dash else low
        if low > high or low < 0:
            raise ValueError(part)
        numbers.update(range(low, high + 1))
    return numbers


def build(host: HostConfig, devices: list[oci.DeviceRule]) -> oci.LinuxResources:
    """Return the limits of ``host`` with ``devices`` as the device cgroup's rules.

    Raises:
        InvalidParameterError: a block device of a blkio option that is none.
    """
    return oci.LinuxResources(
        devices=devices, memory=_memory(host), cpu=_cpu(host), block_io=_block_io(host),
        pids=oci.PidsResources(limit=host.pids_limit) if host.pids_limit else None)


def _memory(host: HostConfig) -> oci.MemoryResources | None:
    swap: int | None = host.memory_swap or None
    if swap is not None and not _has_swap_accounting():
        swap = None  # create has warned
    if swap is None and host.memory > 0 and _has_swap_accounting():
        swap = host.memory * 2  # Docker's default: as much swap as memory
    swappiness = host.memory_swappiness
    if swappiness == -1:
        swappiness = None
    values = (host.memory or None, host.memory_reservation or None, swap, swappiness, host.oom_kill_disable)
    if all(value is None for value in values):
        return None
    return oci.MemoryResources(limit=values[0], reservation=values[1], swap=swap, swappiness=swappiness,
                               disable_oom_killer=host.oom_kill_disable)


def _cpu(host: HostConfig) -> oci.CpuResources | None:
    period, quota = host.cpu_period or None, host.cpu_quota or None
    if host.nano_cpus > 0:
        period, quota = _CPU_PERIOD_US, host.nano_cpus * _CPU_PERIOD_US // 1_000_000_000
    if not (host.cpu_shares or period or quota or host.cpu_realtime_period or host.cpu_realtime_runtime
            or host.cpuset_cpus or host.cpuset_mems):
        return None
    return oci.CpuResources(
        shares=host.cpu_shares or None, quota=quota, period=period,
        realtime_runtime=host.cpu_realtime_runtime or None, realtime_period=host.cpu_realtime_period or None,
        cpus=host.cpuset_cpus, mems=host.cpuset_mems)


def _block_io(host: HostConfig) -> oci.BlockIOResources | None:
    lists = (host.blkio_weight_device, host.blkio_device_read_bps, host.blkio_device_write_bps,
             host.blkio_device_read_iops, host.blkio_device_write_iops)
    if not host.blkio_weight and not any(lists):
        return None
    return oci.BlockIOResources(
        weight=host.blkio_weight or None,
        weight_device=[_weight(d) for d in host.blkio_weight_device or ()],
        throttle_read_bps_device=_throttles(host.blkio_device_read_bps),
        throttle_write_bps_device=_throttles(host.blkio_device_write_bps),
        throttle_read_iops_device=_throttles(host.blkio_device_read_iops),
        throttle_write_iops_device=_throttles(host.blkio_device_write_iops))


def _device_numbers(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        msg = f"no such file or directory: {path}"
        raise _refuse(msg) from None
    if not stat.S_ISBLK(status.st_mode):
        msg = f"{path} is not a block device"
        raise _refuse(msg)
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def _weight(device: WeightDevice) -> oci.WeightDevice:
    major, minor = _device_numbers(device.path)
    return oci.WeightDevice(major=major, minor=minor, weight=device.weight)


def _throttles(devices: Sequence[ThrottleDevice] | None) -> list[oci.ThrottleDevice]:
    made: list[oci.ThrottleDevice] = []
    for device in devices or ():
        major, minor = _device_numbers(device.path)
        made.append(oci.ThrottleDevice(major=major, minor=minor, rate=device.rate))
    return made


def warnings(host: HostConfig) -> list[str]:
    """Docker's warnings for limits that this kernel cannot keep."""
    found: list[str] = []
    if (host.memory or host.memory_swap) and not _has_swap_accounting():
        found.append("Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
                     "Memory limited without swap.")
    if host.oom_kill_disable and not host.memory:
        found.append("OOM killer is disabled for the container, but no memory limit is set, this can result in the "
                     "system running out of resources.")
    return found


@cache
def _cpu_count() -> int:
    return os.cpu_count() or 1


@cache
def _has_swap_accounting() -> bool:
    """Whether memory+swap can be limited: v1's memsw files, or cgroup v2 with the memory controller."""
    return os.path.exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes") or (
        os.path.exists("/sys/fs/cgroup/cgroup.controllers"))
