"""A container's cgroup, whatever the host's layout: the ``Cgroup`` Protocol and ``open_cgroup``.

Owns   the choice of version and layout, and carrying out OCI resources on it.
Runs   in the shim and its children on the start path (``create``, ``apply``, ``join``), in the
       daemon for statistics and updates. No threads, no state outside the objects.
Needs  root, or a delegated part of the hierarchies.
Spec   runtime-spec config-linux.md#control-groups, #cgroups-path.

Layouts: version 1, version 2, and hybrid: all limits on version 1, and only a controller that sits
on the cgroup2 mount alone (hugetlb, say) on that one; the container joins it only then, as
joining a version 2 cgroup can cost an RCU grace period.

The ``systemd`` driver follows systemd's naming (``system.slice/pallet-<id>.scope``) and makes these
directories itself. It does not register the scope with systemd over D-Bus: systemd then sees
cgroups it has not made, shows them in ``systemd-cgls``, but knows no unit for them and may reset a
slice's own settings at a ``daemon-reload``. ``cgroupfs`` keeps clear of systemd's part of the tree
and is the default.
"""

from __future__ import annotations

import errno
import os
import posixpath
from typing import TYPE_CHECKING, Protocol

from pallet.errors import InvalidParameterError, SyscallError, SystemFailureError
from pallet.linux import cgroup1, cgroupfs
from pallet.linux.cgroup1 import Cgroup1
from pallet.linux.cgroup2 import Cgroup2
from pallet.runtime.cgroup_settings import Group, device_policy, v1_settings, v2_settings
from pallet.runtime.cgroupahead import Ahead, sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.linux.bpfdevices import DevicePolicy
    from pallet.linux.cgroupfs import Counters, Mounts, Setting
    from pallet.runtime.cgroupmount import CgroupSource, Ready
    from pallet.runtime.options import MountOptions
    from pallet.spec.runtime import LinuxResources


class Cgroup(Protocol):
    """One container's cgroup.

    Order on the start path: ``create``, ``apply``, then the container's init calls ``join``
    before it forks or starts threads. At the end ``kill_all`` and ``delete``. Every call may come
    from an object opened later in another process. A cgroup that is gone has no processes and
    zero counters.
    """

    @property
    def path(self) -> str:
        """Absolute path within the hierarchies, for example ``/pallet/<id>``."""
        ...

    def directories(self) -> dict[str, str]:
        """Return controller (or ``name=…``, ``""`` for cgroup2) -> directory on this host."""
        ...

    def exists(self) -> bool:
        """Tell whether the cgroup is there."""
        ...

    def create(self) -> None:
        """Make the cgroup with its parents; one that exists is taken over.

        Raises:
            SyscallError: EROFS, EACCES where it may not be made.
        """
        ...

    def apply(self, resources: LinuxResources) -> None:
        """Set the limits that ``resources`` names, and on a new cgroup the device rules.

        A cgroup this object did not make keeps its devices unless ``resources`` lists some.

        Raises:
            InvalidParameterError: a value that makes no sense (swap below memory, …).
            SystemFailureError: the memory in use is beyond the wanted limit; a limit's
                controller is not there.
            SyscallError: the kernel refused a value.
        """
        ...

    def add_pid(self, pid: int) -> None:
        """Move the process ``pid`` with all its threads in; slower than ``join``.

        Raises:
            SyscallError: ESRCH when it is gone.
        """
        ...

    @property
    def bears_children(self) -> bool:
        """Whether ``fork`` makes children that are inside at once, without ``join``'s wait.

        True on version 2: there a caller makes the cgroup first and then forks with ``fork``.
        """
        ...

    def fork(self) -> int:
        """Fork the calling process; the child is in the cgroup, or as on ``os.fork`` must join.

        ``join`` in the child is right in both cases. Precondition: one thread.

        Returns:
            The child's pid, 0 in the child.

        Raises:
            SyscallError: the cgroup is gone. In the parent only.
        """
        ...

    def join(self) -> None:
        """Move the calling process in, unless it was born there. Precondition: it has one thread.

        Raises:
            SyscallError: ENOENT when the cgroup is gone.
        """
        ...

    def pids(self) -> list[int]:
        """Return the processes in it and below it."""
        ...

    def freeze(self) -> None:
        """Stop its processes and wait for that.

        Raises:
            SyscallError: EBUSY when they do not stop; ENODEV without a freezer.
        """
        ...

    def thaw(self) -> None:
        """Let its processes go on."""
        ...

    def is_frozen(self) -> bool:
        """Tell whether it is frozen."""
        ...

    def kill_all(self) -> None:
        """Send SIGKILL to everything in it and below it; a frozen one is thawed to die."""
        ...

    def oom_kills(self) -> int:
        """Return how many of its processes the out-of-memory killer took."""
        ...

    def oom_event_fd(self) -> int:
        """Return an fd that polls readable after an out-of-memory event (or the cgroup's removal).

        The caller closes it, and asks ``oom_kills`` what happened.

        Raises:
            SyscallError: without a memory controller.
        """
        ...

    def stats(self) -> Counters:
        """Return its raw counters."""
        ...

    def take(self, ahead: Ahead) -> None:
        """Let ``create`` use a cgroup that was made ahead, where it suits; the caller goes on owning it."""
        ...

    @property
    def ready(self) -> Ready | None:
        """Its mounts, where ``create`` used a cgroup that was made ahead with them."""
        ...

    def shown(self, source: CgroupSource, options: MountOptions) -> None:
        """Note how the container sees it: ``make_ahead`` makes such mounts."""
        ...

    def make_ahead(self) -> Ahead | None:
        """Make a cgroup for the next container of the same kind; None where that is no use.

        Raises:
            SyscallError: it cannot be made.
        """
        ...

    def delete(self) -> None:
        """Remove it and all below it; idempotent. Its parents stay (see ``remove_parent``).

        Raises:
            SyscallError: EBUSY when processes stay in it for two seconds.
        """
        ...


class _HostCgroup:
    """``Cgroup`` on one hierarchy family, with the cgroup2 mount of a hybrid host beside it."""

    def __init__(self, main: Cgroup1 | Cgroup2, unified: Cgroup2 | None = None) -> None:
        self._main = main
        self._unified = unified
        self._fresh = False
        self._born_inside = False
        self._ahead: Ahead | None = None
        self._policy: DevicePolicy | None = None
        self._shown: tuple[CgroupSource, MountOptions] | None = None

    def take(self, ahead: Ahead) -> None:
        """Let ``create`` use a cgroup that was made ahead, where it suits; the caller goes on owning it."""
        if isinstance(self._main, Cgroup1) and self._main.path.rpartition("/")[0] == ahead.parent:
            self._ahead = ahead

    @property
    def ready(self) -> Ready | None:
        return self._ahead.ready if self._ahead is not None else None

    def shown(self, source: CgroupSource, options: MountOptions) -> None:
        """Note how the container sees it: the next one may see it the same way."""
        self._shown = source, options

    def make_ahead(self) -> Ahead | None:
        """Make one for the next container of the same kind; None where there is no such thing.

        Raises:
            SyscallError: it cannot be made.
        """
        return Ahead(self._main, self._policy, self._shown) if isinstance(self._main, Cgroup1) else None

    @property
    def path(self) -> str:
        return self._main.path

    def directories(self) -> dict[str, str]:
        if isinstance(self._main, Cgroup2):
            return {"": self._main.directory}
        return dict(self._main.directories)

    def exists(self) -> bool:
        return self._main.exists()

    def create(self) -> None:
        if self._ahead is None or not isinstance(self._main, Cgroup1) or not self._ahead.become(self._main):
            self._ahead = None
            self._main.create()
        self._fresh = True

    def apply(self, resources: LinuxResources) -> None:
        main = self._main
        if self._fresh or resources.devices:
            self._policy = device_policy(resources)
            if self._ahead is None or self._ahead.policy != self._policy:
                main.set_devices(self._policy, fresh=self._fresh)
            self._fresh = False
        if isinstance(main, Cgroup2):
            groups = v2_settings(resources, main.has_file)
        else:
            groups = self._split(resources, main, v1_settings(resources, main.has_file))
        for group in groups:
            _write_group(main, group)

    def _split(self, resources: LinuxResources, main: Cgroup1,
               groups: list[Group]) -> list[Group]:
        """Carry out on the cgroup2 mount what has no v1 hierarchy; return what has one."""
        present = main.controllers()
        elsewhere = {group[0].controller for group in groups} - present
        if not elsewhere:
            return groups
        unified = self._unified
        there = unified.controllers() if unified else frozenset()
        if missing := sorted(elsewhere - there):
            message = f"cannot set limits: cgroup controller {missing[0]!r} is not available"
            raise SystemFailureError(message)
        if unified is not None:
            unified.create()
            for group in v2_settings(resources, unified.has_file):
                if group[0].controller in elsewhere:
                    _write_group(unified, group)
        return [group for group in groups if group[0].controller in present]

    def _joined(self) -> Sequence[Cgroup1 | Cgroup2]:
        if self._unified is not None and self._unified.exists():
            return (self._main, self._unified)
        return (self._main,)

    def add_pid(self, pid: int) -> None:
        for part in self._joined():
            part.add_pid(pid)

    @property
    def bears_children(self) -> bool:
        return isinstance(self._main, Cgroup2)

    def fork(self) -> int:
        if not isinstance(self._main, Cgroup2):
            return os.fork()
        pid = self._main.fork()
        if pid is None:
            return os.fork()
        self._born_inside = pid == 0
        return pid

    def join(self) -> None:
        if self._born_inside:
            return
        if self._ahead is not None:
            self._ahead.join()
        for part in self._joined() if self._ahead is None else self._joined()[1:]:
            part.join()

    def pids(self) -> list[int]:
        return self._main.pids()

    def freeze(self) -> None:
        self._main.freeze()

    def thaw(self) -> None:
        self._main.thaw()

    def is_frozen(self) -> bool:
        return self._main.is_frozen()

    def kill_all(self) -> None:
        self._main.kill_all()
        if self._main.is_frozen():
            self._main.thaw()

    def oom_kills(self) -> int:
        return self._main.oom_kills()

    def oom_event_fd(self) -> int:
        return self._main.oom_event_fd()

    def stats(self) -> Counters:
        return self._main.counters()

    def delete(self) -> None:
        self._main.delete()
        if self._unified is not None:
            self._unified.delete()


def _write_group(target: Cgroup1 | Cgroup2, group: Group) -> None:
    """Write the settings of a group; of a pair the second one first where that is what it takes."""
    try:
        target.write(group[0])
    except SyscallError as error:
        if len(group) == 2 and error.errno == errno.EINVAL:
            target.write(group[1])
            target.write(group[0])
            return
        raise _explained(target, group[0], error) from error
    for setting in group[1:]:
        try:
            target.write(setting)
        except SyscallError as error:
            raise _explained(target, setting, error) from error


def _explained(target: Cgroup1 | Cgroup2, setting: Setting, error: SyscallError) -> Exception:
    """Return the error to raise for a setting the kernel refused."""
    if error.errno == errno.EBUSY and setting.file == "memory.limit_in_bytes":
        usage = target.read("memory", "memory.usage_in_bytes").strip()
        peak = target.read("memory", "memory.max_usage_in_bytes").strip()
        return SystemFailureError(f"unable to set memory limit to {setting.value} "
                                  f"(current usage: {usage}, peak usage: {peak})")
    if error.errno in (errno.ENODEV, errno.ENOENT) and error.call in ("open", "write") \
            and not target.has_file(setting.controller, setting.file):
        return SystemFailureError(f"cannot set {setting.file}: the cgroup has no such control "
                                  "(kernel without it, or controller not delegated)")
    return error


def resolve_path(cgroups_path: str, driver: str) -> str:
    """Return the path within the hierarchies of an OCI ``cgroupsPath``.

    Args:
        cgroups_path: ``/parent/name`` for ``cgroupfs``; ``slice:prefix:name`` for ``systemd``. A
            relative path is taken from the hierarchies' root; ``..`` does not lead out of it.
        driver: ``cgroupfs`` or ``systemd``.

    Raises:
        InvalidParameterError: a malformed path or slice, an unknown driver.
    """
    if driver == "cgroupfs":
        path = posixpath.normpath("/" + cgroups_path.strip("/"))
        if path == "/":
            message = f"invalid cgroup path: {cgroups_path!r}"
            raise InvalidParameterError(message)
        return path
    if driver != "systemd":
        message = f"native.cgroupdriver option {driver} not supported"
        raise InvalidParameterError(message)
    parts = cgroups_path.split(":")
    if len(parts) != 3 or not parts[2]:
        message = ("expected cgroupsPath to be of format \"slice:prefix:name\" for systemd "
                   f"cgroups, got {cgroups_path!r} instead")
        raise InvalidParameterError(message)
    parent, prefix, name = parts
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix \
        else f"{name}.scope"
    return f"{expand_slice(parent or 'system.slice')}/{unit}"


def expand_slice(name: str) -> str:
    """Return the path of a systemd slice: ``a-b.slice`` is ``/a.slice/a-b.slice``.

    Raises:
        InvalidParameterError: not a slice's name.
    """
    stem, suffix = name[:-len(".slice")], name[-len(".slice"):]
    if suffix != ".slice" or not stem or "/" in name:
        message = f"invalid slice name: {name}"
        raise InvalidParameterError(message)
    if stem == "-":
        return ""
    path, prefix = "", ""
    for part in stem.split("-"):
        if not part:
            message = f"invalid slice name: {name}"
            raise InvalidParameterError(message)
        path += f"/{prefix}{part}.slice"
        prefix += f"{part}-"
    return path


def open_cgroup(path: str, *, driver: str = "cgroupfs", mounts: Mounts | None = None) -> Cgroup:
    """Return the cgroup of an OCI ``cgroupsPath``; nothing is made yet.

    Args:
        path: as ``resolve_path`` takes it.
        driver: ``cgroupfs`` or ``systemd``.
        mounts: where the hierarchies are; None asks this process's mount namespace.

    Raises:
        InvalidParameterError: a malformed path.
        SystemFailureError: the host has no cgroup hierarchy mounted.
    """
    found = cgroupfs.detect() if mounts is None else mounts
    resolved = resolve_path(path, driver)
    mode = found.mode
    if mode == "none":
        message = "no cgroup mount found in mountinfo"
        raise SystemFailureError(message)
    if mode == "v2" and found.v2 is not None:
        return _HostCgroup(Cgroup2(resolved, found.v2))
    unified = Cgroup2(resolved, found.v2) if found.v2 is not None else None
    return _HostCgroup(Cgroup1(resolved, dict(found.v1)), unified)


def remove_parent(path: str, *, driver: str = "cgroupfs", mounts: Mounts | None = None) -> None:
    """Remove a parent cgroup (``/pallet``) from every hierarchy where it is empty.

    For the daemon's clean stop: containers do not remove their parent, as the next one would have
    to make it again.
    """
    found = cgroupfs.detect() if mounts is None else mounts
    sweep_ahead(path, driver=driver, mounts=found)
    resolved = expand_slice(path) if driver == "systemd" else resolve_path(path, driver)
    roots = list(dict.fromkeys(found.v1.values())) + ([found.v2] if found.v2 else [])
    cgroup1.remove_empty(resolved, roots)


def sweep_ahead(path: str, *, driver: str = "cgroupfs", mounts: Mounts | None = None) -> None:
    """Remove the cgroups that killed shims had made ahead below a parent cgroup."""
    found = cgroupfs.detect() if mounts is None else mounts
    resolved = expand_slice(path) if driver == "systemd" else resolve_path(path, driver)
    sweep(resolved, dict.fromkeys(found.v1.values()))
