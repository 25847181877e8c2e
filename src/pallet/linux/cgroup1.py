"""Cgroup version 1: one directory in each of the mounted hierarchies.

Owns   the v1 control files' ways: which hierarchies a container's cgroup is in, joining them, the
       freezer, the out-of-memory notification, statistics.
Runs   in zygote children on the start path, in the daemon for statistics.
Needs  root, or a delegated directory in every hierarchy.
Spec   Documentation/admin-guide/cgroup-v1/*.rst; runtime-spec config-linux.md#control-groups.

(m) On a two-core machine making the directories of nine hierarchies takes 0.3 ms, joining them
0.3 ms, removing them 0.25 ms. Joining through ``cgroup.procs`` can take 2 to 22 ms more: the kernel
waits for an RCU grace period (``cgroup_threadgroup_rwsem``) unless somebody just did the same. A
thread that moves itself by writing 0 to ``tasks`` needs no such wait: that is what ``join`` does.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import TYPE_CHECKING

from pallet.errors import SyscallError
from pallet.linux import cgroupfs
from pallet.linux.cgroupfs import Counters, IoCounter, Setting, keyed, number, read_or_empty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.linux.bpfdevices import DevicePolicy

_FREEZE_DEADLINE_S = 5.0
_USER_HZ = os.sysconf("SC_CLK_TCK")


class Cgroup1:
    """The cgroup ``path`` in every v1 hierarchy.

    Args:
        path: absolute within the hierarchies, normalized.
        mounts: controller (or ``name=…``) -> mount point.
    """

    def __init__(self, path: str, mounts: dict[str, str]) -> None:
        self.path = path
        self._mounts = mounts
        self.directories = {name: mount + path for name, mount in mounts.items()}
        self.unique = tuple(dict.fromkeys(self.directories.values()))
        """One directory for each hierarchy."""

    def beside(self, name: str) -> Cgroup1:
        """Another one of the same parent."""
        return Cgroup1(f"{self.path.rpartition('/')[0]}/{name}", self._mounts)

    def controllers(self) -> frozenset[str]:
        """Return the names of the controllers there are hierarchies of."""
        return frozenset(self.directories)

    def exists(self) -> bool:
        """Tell whether the cgroup is there in any hierarchy."""
        return any(os.path.isdir(directory) for directory in self.unique)

    def create(self, *, parents: bool = True) -> None:
        """Make the cgroup in every hierarchy, its parents too; one that exists is taken over.

        Args:
            parents: make those that are not there.

        Raises:
            SyscallError: EROFS, EACCES where it may not be made; ENOSPC when a parent's cpuset is
                empty and cannot be filled.
        """
        for directory in self.unique:
            try:
                cgroupfs.make_directory(directory)
            except SyscallError as error:
                if error.errno != errno.ENOENT or not parents:
                    raise
                os.makedirs(directory, exist_ok=True)
        cpuset = self.directories.get("cpuset")
        # An empty cpuset takes no process. With clone_children on the parent a new cgroup starts
        # with its parent's values, and one read tells.
        if cpuset and not read_or_empty(f"{cpuset}/cpuset.cpus").strip():
            self._fill_cpuset(cpuset)

    def _fill_cpuset(self, directory: str) -> None:
        """Give ``directory`` and its ancestors below the mount the values of their parents."""
        parent = os.path.dirname(directory)
        at_top = not os.path.exists(f"{parent}/cpuset.cpus")
        if at_top:
            return
        for name in ("cpuset.cpus", "cpuset.mems"):
            if read_or_empty(f"{directory}/{name}").strip():
                continue
            value = read_or_empty(f"{parent}/{name}").strip()
            if not value:
                self._fill_cpuset(parent)
                value = read_or_empty(f"{parent}/{name}").strip()
            cgroupfs.write(f"{directory}/{name}", value)
        if directory == os.path.dirname(self.directories["cpuset"]):
            cgroupfs.write(f"{directory}/cgroup.clone_children", "1")

    def write(self, setting: Setting) -> None:
        """Write one setting.

        Raises:
            SyscallError: ENODEV when the controller has no hierarchy; otherwise the kernel's word.
        """
        directory = self.directories.get(setting.controller)
        if directory is None:
            raise SyscallError("write", errno.ENODEV, setting.file)
        cgroupfs.write(f"{directory}/{setting.file}", setting.value)

    def has_file(self, controller: str, file: str) -> bool:
        """Tell whether the kernel offers the control ``file`` (it may have been built without)."""
        directory = self.directories.get(controller)
        return directory is not None and os.path.exists(f"{directory}/{file}")

    def read(self, controller: str, file: str) -> str:
        """Return a control file's text, "" where there is none."""
        directory = self.directories.get(controller)
        return read_or_empty(f"{directory}/{file}") if directory else ""

    def set_devices(self, policy: DevicePolicy, *, fresh: bool) -> None:
        """Make ``policy`` the cgroup's device access.

        Args:
            policy: what to allow and to refuse.
            fresh: accepted for symmetry with version 2; here the whole state is written anyway.

        Raises:
            SyscallError: EPERM when the parent allows less; EINVAL when there are cgroups below.
        """
        directory = self.directories.get("devices")
        if directory is None:
            return
        base, exceptions = "deny", "allow"
        if policy.default_allow:
            base, exceptions = "allow", "deny"
        cgroupfs.write(f"{directory}/devices.{base}", b"a")
        if policy.exceptions:
            cgroupfs.write_lines(f"{directory}/devices.{exceptions}", policy.lines())

    def add_pid(self, pid: int) -> None:
        """Move the process ``pid`` with all its threads into the cgroup.

        Raises:
            SyscallError: ESRCH when it is gone; ENOSPC when the cpuset is empty.
        """
        value = str(pid).encode()
        for directory in self.unique:
            cgroupfs.write(f"{directory}/cgroup.procs", value)

    def join(self) -> None:
        """Move the calling process, which has one thread, into the cgroup.

        Raises:
            SyscallError: ENOENT when the cgroup is gone; ENOSPC when the cpuset is empty.
        """
        for directory in self.unique:
            cgroupfs.write(f"{directory}/tasks", b"0")

    def pids(self) -> list[int]:
        """Return the processes in the cgroup and below it; [] when it is gone."""
        return cgroupfs.processes(self._anchor())

    def _anchor(self) -> str:
        """The hierarchy asked about processes: pids has no business of systemd or an init in it."""
        for name in ("pids", "freezer", "memory", "devices"):
            if name in self.directories:
                return self.directories[name]
        return self.unique[0]

    def freeze(self) -> None:
        """Stop every process in the cgroup and wait until they have stopped.

        Raises:
            SyscallError: ENODEV without a freezer hierarchy; EBUSY when they did not stop in time:
                they are thawed again then.
        """
        state = self._freezer_state()
        pause_s, deadline = 0.0005, time.monotonic() + _FREEZE_DEADLINE_S
        while True:
            # A process that forks or is traced meanwhile can leave the state at FREEZING for good;
            # writing again restarts the attempt.
            cgroupfs.write(state, b"FROZEN")
            if cgroupfs.read(state).strip() == "FROZEN":
                return
            if time.monotonic() >= deadline:
                cgroupfs.write(state, b"THAWED")
                raise SyscallError("freeze", errno.EBUSY, state)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.02)

    def thaw(self) -> None:
        """Let the processes of a frozen cgroup go on.

        Raises:
            SyscallError: ENODEV without a freezer hierarchy.
        """
        cgroupfs.write(self._freezer_state(), b"THAWED")

    def is_frozen(self) -> bool:
        """Tell whether the cgroup is frozen or about to be."""
        return self.read("freezer", "freezer.state").strip() in ("FROZEN", "FREEZING")

    def _freezer_state(self) -> str:
        directory = self.directories.get("freezer")
        if directory is None:
            raise SyscallError("freeze", errno.ENODEV, self.path)
        return f"{directory}/freezer.state"

    def kill_all(self) -> None:
        """Send SIGKILL to every process in the cgroup and below it, so that none can fork away."""
        pids = self.pids()
        if not pids:
            return
        frozen = "freezer" in self.directories
        if frozen:
            # No wait for FROZEN: a process seen running in its fork is caught by the next round.
            cgroupfs.write(self._freezer_state(), b"FROZEN")
        try:
            known: set[int] = set()
            while set(pids) - known:
                for pid in set(pids) - known:
                    _kill(pid)
                known.update(pids)
                pids = self.pids()
        finally:
            if frozen:
                self.thaw()

    def oom_kills(self) -> int:
        """Return how many processes the out-of-memory killer took here (Linux >= 4.13)."""
        return keyed(self.read("memory", "memory.oom_control")).get("oom_kill", 0)

    def oom_event_fd(self) -> int:
        """Return an fd that becomes readable at an out-of-memory event; the caller closes it.

        It also becomes readable when the cgroup is removed: ``oom_kills`` tells the difference.

        Raises:
            SyscallError: ENODEV without a memory hierarchy.
        """
        directory = self.directories.get("memory")
        if directory is None:
            raise SyscallError("eventfd", errno.ENODEV, self.path)
        event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control_fd = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                cgroupfs.write(f"{directory}/cgroup.event_control", f"{event_fd} {control_fd}")
            finally:
                os.close(control_fd)
        except OSError:
            os.close(event_fd)
            raise
        return event_fd

    def counters(self) -> Counters:
        """Return the cgroup's raw counters; zeros for hierarchies that are not mounted."""
        cpu = keyed(self.read("cpu", "cpu.stat"))
        user_ns, system_ns = self._cpu_split()
        return Counters(
            cpu_usage_ns=number(self.read("cpuacct", "cpuacct.usage")),
            cpu_user_ns=user_ns,
            cpu_system_ns=system_ns,
            cpu_per_cpu_ns=tuple(map(int, self.read("cpuacct", "cpuacct.usage_percpu").split())),
            cpu_periods=cpu.get("nr_periods", 0),
            cpu_throttled_periods=cpu.get("nr_throttled", 0),
            cpu_throttled_ns=cpu.get("throttled_time", 0),
            memory_usage_bytes=number(self.read("memory", "memory.usage_in_bytes")),
            memory_max_usage_bytes=number(self.read("memory", "memory.max_usage_in_bytes")),
            memory_limit_bytes=number(self.read("memory", "memory.limit_in_bytes")),
            memory_failures=number(self.read("memory", "memory.failcnt")),
            memory_stat=keyed(self.read("memory", "memory.stat")),
            oom_kills=self.oom_kills(),
            pids_current=number(self.read("pids", "pids.current")),
            pids_limit=number(self.read("pids", "pids.max")),
            io_bytes=self._io("service_bytes"),
            io_operations=self._io("serviced"),
        )

    def _cpu_split(self) -> tuple[int, int]:
        user = self.read("cpuacct", "cpuacct.usage_user")
        if user:
            return number(user), number(self.read("cpuacct", "cpuacct.usage_sys"))
        ticks = keyed(self.read("cpuacct", "cpuacct.stat"))
        ns = 1_000_000_000 // _USER_HZ
        return ticks.get("user", 0) * ns, ticks.get("system", 0) * ns

    def _io(self, what: str) -> tuple[IoCounter, ...]:
        """Read the first of the schedulers' and the throttler's accounts that has entries."""
        for name in (f"blkio.bfq.io_{what}_recursive", f"blkio.throttle.io_{what}_recursive",
                     f"blkio.throttle.io_{what}"):
            if entries := parse_io(self.read("blkio", name)):
                return entries
        return ()

    def delete(self) -> None:
        """Remove the cgroup and all below it from every hierarchy; idempotent.

        Raises:
            SyscallError: EBUSY when processes stay in it.
        """
        cgroupfs.remove_tree(self.unique)


def parse_io(text: str) -> tuple[IoCounter, ...]:
    """Return the entries of a v1 blkio file: ``major:minor op value`` lines."""
    entries = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != 3 or ":" not in words[0]:
            continue
        major, _, minor = words[0].partition(":")
        entries.append(IoCounter(major=int(major), minor=int(minor), op=words[1],
                                 value=int(words[2])))
    return tuple(entries)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def remove_empty(path: str, mounts: Sequence[str]) -> None:
    """Remove the cgroup ``path`` below each of ``mounts`` where it holds nothing any more."""
    for mount in mounts:
        try:
            os.rmdir(mount + path)
        except OSError:
            continue
