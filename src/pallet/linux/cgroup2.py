"""Cgroup version 2: one directory in the unified hierarchy.

Owns   the v2 control files' ways: handing controllers down the path, joining, freezing, killing,
       the out-of-memory notification, statistics, the device program.
Runs   in zygote children on the start path, in the daemon for statistics.
Needs  root, or a delegated directory; Linux >= 5.2 for the freezer, 5.14 for ``cgroup.kill``
       (without it the processes are killed one by one).
Spec   Documentation/admin-guide/cgroup-v2.rst; runtime-spec config-linux.md#control-groups.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import time
from functools import cache
from typing import TYPE_CHECKING

from pallet.errors import SyscallError
from pallet.linux import bpfdevices, cgroupfs, clone
from pallet.linux._libc import bind, call
from pallet.linux.cgroupfs import Counters, IoCounter, Setting, keyed, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.linux.bpfdevices import DevicePolicy

_FREEZE_DEADLINE_S = 5.0
_IN_MODIFY = 0x2
_IN_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK

WANTED = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb")
"""Controllers handed down to a container, where the kernel has them on this hierarchy.

cpu, memory, pids and io also count without any limit: statistics need them."""

_inotify_init1 = bind("inotify_init1", ctypes.c_int)
_inotify_add_watch = bind("inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


@cache
def _offered(mount: str) -> tuple[str, ...]:
    """The wanted controllers the hierarchy at ``mount`` has; fixed once the host has booted."""
    offered = cgroupfs.read_or_empty(f"{mount}/cgroup.controllers").split()
    return tuple(name for name in WANTED if name in offered)


class Cgroup2:
    """The cgroup ``path`` of the cgroup2 file system mounted at ``mount``.

    Args:
        path: absolute within the hierarchy, normalized.
        mount: mount point.
        mkdir: makes one directory; tests give one that fills it as the kernel does.
        rmdir: removes one directory.
    """

    def __init__(self, path: str, mount: str, *, mkdir: Callable[[str], None] = os.mkdir,
                 rmdir: Callable[[str], None] = os.rmdir) -> None:
        self.path = path
        self.mount = mount
        self.directory = mount + path
        self._mkdir = mkdir
        self._rmdir = rmdir

    def controllers(self) -> frozenset[str]:
        """Return the names of the wanted controllers of this hierarchy."""
        return frozenset(_offered(self.mount))

    def exists(self) -> bool:
        """Tell whether the cgroup is there."""
        return os.path.isdir(self.directory)

    def create(self) -> None:
        """Make the cgroup and its parents, and hand the controllers down to it.

        A controller that cannot be handed down (a parent holds processes, or is not delegated) is
        left out: the setting that needs it fails, no other.

        Raises:
            SyscallError: EROFS, EACCES where it may not be made.
        """
        try:
            cgroupfs.make_directory(self.directory, mkdir=self._mkdir)
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
            self._make_parents()
        offered = _offered(self.mount)
        if not offered:
            return
        have = cgroupfs.read_or_empty(f"{self.directory}/cgroup.controllers").split()
        if missing := [name for name in offered if name not in have]:
            self._hand_down(missing)

    def _ancestors(self) -> list[str]:
        """The directories from the mount point to the parent of the cgroup."""
        parts = [part for part in self.path.split("/") if part]
        return ["/".join((self.mount, *parts[:depth])) for depth in range(len(parts))]

    def _make_parents(self) -> None:
        for directory in (*self._ancestors()[1:], self.directory):
            cgroupfs.make_directory(directory, mkdir=self._mkdir)

    def _hand_down(self, controllers: list[str]) -> None:
        for directory in self._ancestors():
            control = f"{directory}/cgroup.subtree_control"
            try:
                cgroupfs.write(control, " ".join(f"+{name}" for name in controllers))
            except SyscallError:
                # One refused controller refuses the line; the others may still go.
                for name in controllers:
                    _try_write(control, f"+{name}")

    def write(self, setting: Setting) -> None:
        """Write one setting.

        Raises:
            SyscallError: ENOENT when the controller was not handed down; the kernel's word.
        """
        cgroupfs.write(f"{self.directory}/{setting.file}", setting.value)

    def has_file(self, controller: str, file: str) -> bool:
        """Tell whether the cgroup has the control ``file``."""
        del controller  # part of its name here
        return os.path.exists(f"{self.directory}/{file}")

    def read(self, controller: str, file: str) -> str:
        """Return a control file's text, "" where there is none."""
        del controller
        return cgroupfs.read_or_empty(f"{self.directory}/{file}")

    def set_devices(self, policy: DevicePolicy, *, fresh: bool) -> None:
        """Make ``policy`` the cgroup's device access.

        Args:
            policy: what to allow and to refuse.
            fresh: nothing can be attached yet.

        Raises:
            SyscallError: EPERM without the capability for bpf(2).
        """
        if policy.default_allow and not policy.exceptions and fresh:
            return
        directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            bpfdevices.replace_program(directory_fd, bpfdevices.assemble(policy), fresh=fresh)
        finally:
            os.close(directory_fd)

    def add_pid(self, pid: int) -> None:
        """Move the process ``pid`` with all its threads into the cgroup.

        Raises:
            SyscallError: ESRCH when it is gone; EBUSY when the cgroup hands controllers down.
        """
        cgroupfs.write(f"{self.directory}/cgroup.procs", str(pid))

    def join(self) -> None:
        """Move the calling process into the cgroup.

        Raises:
            SyscallError: as ``add_pid``.
        """
        cgroupfs.write(f"{self.directory}/cgroup.procs", b"0")

    def fork(self) -> int | None:
        """Fork with the child in the cgroup; None, without a fork, where the kernel cannot.

        Raises:
            SyscallError: ENOENT when the cgroup is gone; EBUSY when it hands controllers down.
        """
        try:
            directory_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SyscallError("open", error.errno or errno.EIO, self.directory) from None
        try:
            return clone.fork_into(directory_fd)
        except SyscallError as error:
            # Linux < 5.7, or a seccomp filter around the daemon: EPERM from Docker's older ones.
            if error.errno in (errno.ENOSYS, errno.EINVAL, errno.E2BIG, errno.EPERM):
                return None
            raise
        finally:
            os.close(directory_fd)

    def pids(self) -> list[int]:
        """Return the processes in the cgroup and below it; [] when it is gone."""
        return cgroupfs.processes(self.directory)

    def freeze(self) -> None:
        """Stop every process in the cgroup and wait until they have stopped.

        Raises:
            SyscallError: EBUSY when they did not stop in time: they are thawed again then.
        """
        cgroupfs.write(f"{self.directory}/cgroup.freeze", b"1")
        if not self._wait_event("frozen", 1, _FREEZE_DEADLINE_S):
            self.thaw()
            raise SyscallError("freeze", errno.EBUSY, self.directory)

    def thaw(self) -> None:
        """Let the processes of a frozen cgroup go on."""
        cgroupfs.write(f"{self.directory}/cgroup.freeze", b"0")

    def is_frozen(self) -> bool:
        """Tell whether the cgroup is frozen or about to be."""
        return number(self.read("", "cgroup.freeze")) == 1

    def _wait_event(self, key: str, value: int, deadline_s: float) -> bool:
        """Wait for ``key`` of cgroup.events; the kernel signals a change as POLLPRI."""
        events_fd = os.open(f"{self.directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            poll = select.poll()
            poll.register(events_fd, select.POLLPRI)
            deadline = time.monotonic() + deadline_s
            while True:
                text = os.pread(events_fd, 4096, 0).decode()
                if keyed(text).get(key) == value:
                    return True
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                poll.poll(left_s * 1000)
        finally:
            os.close(events_fd)

    def kill_all(self) -> None:
        """Send SIGKILL to every process in the cgroup and below it, so that none can fork away."""
        try:
            cgroupfs.write(f"{self.directory}/cgroup.kill", b"1")
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
        else:
            return
        # fork(2) fails while SIGKILL is pending, so once every process that is seen has got it
        # there are no others.
        known: set[int] = set()
        while new := set(self.pids()) - known:
            for pid in new:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            known |= new

    def oom_kills(self) -> int:
        """Return how many processes the out-of-memory killer took here and below."""
        return keyed(self.read("memory", "memory.events")).get("oom_kill", 0)

    def oom_event_fd(self) -> int:
        """Return an fd that becomes readable when memory.events changes; the caller closes it.

        Raises:
            SyscallError: ENOENT when the memory controller was not handed down.
        """
        path = f"{self.directory}/memory.events"
        inotify_fd = call(_inotify_init1, "inotify_init1", _IN_FLAGS)
        try:
            call(_inotify_add_watch, "inotify_add_watch", inotify_fd, os.fsencode(path),
                 _IN_MODIFY, path=path)
        except SyscallError:
            os.close(inotify_fd)
            raise
        return inotify_fd

    def counters(self) -> Counters:
        """Return the cgroup's raw counters; zeros for controllers that are not handed down."""
        cpu = keyed(self.read("cpu", "cpu.stat"))
        events = keyed(self.read("memory", "memory.events"))
        io = _parse_io_stat(self.read("io", "io.stat"))
        return Counters(
            cpu_usage_ns=cpu.get("usage_usec", 0) * 1000,
            cpu_user_ns=cpu.get("user_usec", 0) * 1000,
            cpu_system_ns=cpu.get("system_usec", 0) * 1000,
            cpu_periods=cpu.get("nr_periods", 0),
            cpu_throttled_periods=cpu.get("nr_throttled", 0),
            cpu_throttled_ns=cpu.get("throttled_usec", 0) * 1000,
            memory_usage_bytes=number(self.read("memory", "memory.current")),
            memory_max_usage_bytes=number(self.read("memory", "memory.peak")),
            memory_limit_bytes=number(self.read("memory", "memory.max")),
            memory_failures=events.get("max", 0),
            memory_stat=keyed(self.read("memory", "memory.stat")),
            oom_kills=events.get("oom_kill", 0),
            pids_current=number(self.read("pids", "pids.current")),
            pids_limit=number(self.read("pids", "pids.max")),
            io_bytes=tuple(entry for key, entry in io if key.endswith("bytes")),
            io_operations=tuple(entry for key, entry in io if key.endswith("ios")),
        )

    def delete(self) -> None:
        """Remove the cgroup and all below it; idempotent.

        Raises:
            SyscallError: EBUSY when processes stay in it.
        """
        cgroupfs.remove_tree([self.directory], rmdir=self._rmdir)


# io.stat's keys -> the operations the v1 accounts name.
_IO_KEYS = {"rbytes": "Read", "wbytes": "Write", "dbytes": "Discard",
            "rios": "Read", "wios": "Write", "dios": "Discard"}


def _parse_io_stat(text: str) -> list[tuple[str, IoCounter]]:
    """Return (key, counter) of io.stat: ``major:minor key=value …`` lines."""
    entries = []
    for line in text.splitlines():
        device, *pairs = line.split()
        major, colon, minor = device.partition(":")
        if not colon:
            continue
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in _IO_KEYS:
                entries.append((key, IoCounter(major=int(major), minor=int(minor),
                                               op=_IO_KEYS[key], value=int(value))))
    return entries


def _try_write(path: str, value: str) -> None:
    try:
        cgroupfs.write(path, value)
    except SyscallError:
        return
