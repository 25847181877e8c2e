"""Facts of the host for ``info`` and ``version``. Reads /proc and /sys; blocking, but quick."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo:
    """What ``docker info`` tells of the machine."""

    kernel: str
    machine: str
    os_name: str
    os_version: str
    cpus: int
    memory_bytes: int
    hostname: str
    cgroup_v2: bool
    controllers: frozenset[str]
    swap_limit: bool
    ipv4_forwarding: bool
    seccomp: bool
    apparmor: bool


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read().strip()
    except OSError:
        return ""


def _os_release() -> dict[str, str]:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        if text := _read(path):
            pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
            return {key: value.strip("\"'") for key, _, value in pairs}
    return {}


def is_cgroup_v2() -> bool:
    """Whether /sys/fs/cgroup itself is the unified hierarchy; hybrid hosts count as v1."""
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def _controllers(*, unified: bool) -> frozenset[str]:
    if unified:
        return frozenset(_read("/sys/fs/cgroup/cgroup.controllers").split())
    rows = (line.split() for line in _read("/proc/cgroups").splitlines() if not line.startswith("#"))
    return frozenset(row[0] for row in rows if len(row) == 4 and row[3] == "1"
                     and os.path.isdir(f"/sys/fs/cgroup/{row[0]}"))


def collect() -> HostInfo:
    """Look at the host."""
    release = _os_release()
    unified = is_cgroup_v2()
    controllers = _controllers(unified=unified)
    memsw = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
    return HostInfo(
        kernel=platform.release(), machine=platform.machine(),
        os_name=release.get("PRETTY_NAME", "Linux"), os_version=release.get("VERSION_ID", ""),
        cpus=os.cpu_count() or 1, memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        hostname=platform.node(), cgroup_v2=unified, controllers=controllers,
        swap_limit=unified or os.path.exists(memsw),
        ipv4_forwarding=_read("/proc/sys/net/ipv4/ip_forward") == "1",
        seccomp=os.path.exists("/proc/sys/kernel/seccomp"),
        apparmor=_read("/sys/module/apparmor/parameters/enabled") == "Y")


def kernel_at_least(release: str, wanted: tuple[int, int]) -> bool:
    """Whether a kernel release such as ``6.1.0-18-amd64`` is at least ``wanted``."""
    parts = release.split(".")
    try:
        return (int(parts[0]), int(parts[1].partition("-")[0])) >= wanted
    except (IndexError, ValueError):
        return False
