"""A container's init: from a bare fork of the shim to the container's program.

Owns   the order of the whole set-up inside the container's namespaces.
Runs   in a child of the shim, already in the container's pid namespace, single-threaded.
Needs  CAP_SYS_ADMIN and the host's /proc at /proc until ``pivot``.
Spec   runtime-spec runtime.md#lifecycle steps 2 to 8, config-linux.md.

``runtime/sync.py`` has the conversation with the shim. The shim makes the cgroup while this process
makes mounts; the process joins it itself, as moving another process costs an RCU grace period on
every hierarchy.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.linux import cgroupfs, namespaces
from pallet.linux import mount as m
from pallet.linux import process as kernel
from pallet.runtime import devices, process, reaper, rootfs, sysctl
from pallet.runtime.cgroupmount import CgroupSource
from pallet.runtime.failure import StartFailureError
from pallet.spec.runtime import Mount

if TYPE_CHECKING:
    from pallet.runtime.cgroup import Cgroup
    from pallet.runtime.process import Command
    from pallet.runtime.rootfs import Prepared
    from pallet.runtime.sync import InitSide
    from pallet.spec.mounts import RootMount
    from pallet.spec.runtime import Hook, Namespace, Spec

_INIT_PATH = "/sbin/docker-init"
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41
_SEPARATE = frozenset({"pid", "user", "cgroup"})
"""Namespaces entered by the shim, by ``usernamespace.py``, and after the cgroup was joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitPlan:
    """Everything a container's init needs."""

    spec: Spec
    root: RootMount | None
    user: str
    group_add: list[str]
    stdio: process.Stdio
    filter: bytes | None
    filter_flags: int
    init: str | None
    """None: no init; "": Pallet's own; else the path of a tini-like program."""
    netns_fd: int
    """Namespace to join, -1 for what the spec says."""
    mount_point: str
    """Any directory: the root is mounted there, in this mount namespace only."""
    id: str = ""
    bundle: str = ""
    """Directory with the config.json that hooks look at; needed where there are hooks."""
    cgroup: Cgroup | None
    mapped: bool = False
    """The container has a user namespace of its own; ``usernamespace.py`` comes first then."""


def run(plan: InitPlan, sync: InitSide) -> None:
    """Set up and execute; returns only by raising.

    Raises:
        StartFailureError: a step failed.
    """
    execute(plan, prepare(plan, sync), sync)


def prepare(plan: InitPlan, sync: InitSide) -> Command:
    """Set up; return what is left to execute once ``InitSide.executing`` was said.

    Raises:
        StartFailureError: a step failed.
    """
    process.restore_signals()
    os.setsid()
    os.umask(0)
    sysctl.check(plan.spec.linux.sysctl, plan.spec.linux.namespaces, plan.netns_fd)
    enter_namespaces(plan)
    prepared = prepare_mounts(plan)
    root_fd = mount_root(plan)
    return set_up(plan, sync, prepared, root_fd)


def execute(plan: InitPlan, command: Command, sync: InitSide) -> None:
    """Execute the program, or serve as its init."""

    def run_program() -> None:
        sync.executing()
        process.execute(command)

    if plan.init == "":
        kernel.set_name("pallet-init")
        reaper.run_under_init(run_program, sync.close)
    run_program()


def set_up(plan: InitPlan, sync: InitSide, prepared: list[Prepared], root_fd: int) -> Command:
    """The part after the namespaces and the root are there."""
    spec = plan.spec
    mount_ns_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    sync.send_namespace(mount_ns_fd)
    os.close(mount_ns_fd)
    _set_names(spec)
    _mount_everything(plan, prepared, sync, root_fd)
    nodes = devices.clone_nodes(spec) if plan.mapped and devices.owns_dev(spec) else {}
    hooked = spec.hooks is not None and bool(spec.hooks.create_container)
    if spec.hooks is not None and hooked:
        _populate_before(spec, nodes, root_fd)
        _run_hooks(plan, spec.hooks.create_container, "creating")
    rootfs.pivot(root_fd)
    os.close(root_fd)
    rootfs.set_root_propagation(spec.linux.rootfs_propagation)
    if devices.owns_dev(spec) and not hooked:
        devices.populate(spec, nodes)
    stdio = _open_terminal(plan, sync)
    sysctl.apply(spec.linux.sysctl)
    rootfs.protect(spec)
    if spec.hooks is not None:
        _run_hooks(plan, spec.hooks.start_container, "created")
    process.connect_stdio(stdio)
    return _become(plan, stdio)


def _populate_before(spec: Spec, nodes: dict[str, int], root_fd: int) -> None:
    """Fill /dev for hooks that work on it, and leave the working directory in the new root."""
    host_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(root_fd)
    os.chroot(".")
    try:
        if devices.owns_dev(spec):
            devices.populate(spec, nodes)
    finally:
        os.fchdir(host_fd)
        os.chroot(".")
        os.close(host_fd)
    os.fchdir(root_fd)


def _run_hooks(plan: InitPlan, wanted: list[Hook], status: str) -> None:
    from pallet.runtime import hooks  # few containers have any

    hooks.run(wanted, hooks.State(id=plan.id, status=status, pid=os.getpid(), bundle=plan.bundle,
                                  annotations=plan.spec.annotations))


def enter_namespaces(plan: InitPlan) -> None:
    """Join and make all namespaces but those of pids, users and cgroups."""
    flags = namespaces.CLONE_NEWNS
    netns_fd = plan.netns_fd
    try:
        for entry in plan.spec.linux.namespaces:
            if entry.type in _SEPARATE or (entry.type == "network" and netns_fd >= 0):
                continue
            if entry.path:
                namespaces.join_path(entry.path, entry.type)
            elif entry.type in namespaces.FLAGS:
                flags |= namespaces.FLAGS[entry.type]
        if netns_fd >= 0:
            namespaces.setns(netns_fd, namespaces.CLONE_NEWNET)
        namespaces.unshare(flags)
        if flags & namespaces.CLONE_NEWNET:
            _bring_up_loopback()
    except OSError as error:
        raise StartFailureError.of(error, "entering namespaces") from error


def prepare_mounts(plan: InitPlan) -> list[Prepared]:
    """Clone what the host's mount tree has to give, then cut the tree off from the host."""
    prepared = rootfs.prepare(plan.spec.mounts)
    if plan.init:
        prepared += rootfs.prepare([Mount(destination=_INIT_PATH, type="bind", source=plan.init,
                                          options=["bind", "ro"])])
    # Nothing mounted from here on may reach the host; what the host mounts later may reach us.
    m.mount(None, "/", flags=m.MS_SLAVE | m.MS_REC)
    return prepared


def mount_root(plan: InitPlan) -> int:
    """Mount the container's root file system; return an O_PATH descriptor of it."""
    path = plan.spec.root.path if plan.spec.root else "/"
    return rootfs.mount_root(plan.root, path, plan.mount_point)


def _bring_up_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP_RUNNING))


def _set_names(spec: Spec) -> None:
    try:
        if spec.hostname:
            namespaces.set_hostname(spec.hostname)
        if spec.domainname:
            namespaces.set_domainname(spec.domainname)
    except OSError as error:
        raise StartFailureError.of(error, "setting the host name") from error


def _mount_everything(plan: InitPlan, prepared: list[Prepared], sync: InitSide, root_fd: int,
                      ) -> None:
    """Carry out all mounts; wait for the shim before the first cgroup mount."""
    source: CgroupSource | None = None
    for entry in prepared:
        if not rootfs.is_cgroup(entry):
            rootfs.attach(root_fd, entry)
            continue
        if source is None:
            source = _join_cgroup(plan, sync)
        rootfs.attach_cgroup(root_fd, entry, source)
        if plan.cgroup is not None:
            plan.cgroup.shown(source, entry.options)
    if source is None:
        _join_cgroup(plan, sync)


def _join_cgroup(plan: InitPlan, sync: InitSide) -> CgroupSource:
    sync.wait_go()
    entry = next((n for n in plan.spec.linux.namespaces if n.type == "cgroup"), None)
    try:
        if plan.cgroup is not None:
            plan.cgroup.join()
        if entry is not None:
            _enter_cgroup_namespace(entry)
    except OSError as error:
        raise StartFailureError.of(error, "joining the cgroup") from error
    mounts = cgroupfs.detect()
    return CgroupSource(
        v1=mounts.v1, v2=mounts.v2, namespaced=entry is not None,
        directories=plan.cgroup.directories() if plan.cgroup is not None else {},
        ready=plan.cgroup.ready if plan.cgroup is not None else None)


def _enter_cgroup_namespace(entry: Namespace) -> None:
    if entry.path:
        namespaces.join_path(entry.path, "cgroup")
    else:
        namespaces.unshare(namespaces.CLONE_NEWCGROUP)


def _open_terminal(plan: InitPlan, sync: InitSide) -> process.Stdio:
    wanted = plan.spec.process
    if not wanted.terminal:
        return plan.stdio
    size = wanted.console_size
    master_fd, terminal_fd = devices.open_terminal(
        size.height if size else 0, size.width if size else 0, console=True)
    sync.send_terminal(master_fd)
    os.close(master_fd)
    return process.Stdio(terminal_fd=terminal_fd)


def _become(plan: InitPlan, stdio: process.Stdio) -> Command:
    command = process.become(
        process.Plan(process=plan.spec.process, user=plan.user, group_add=plan.group_add,
                     filter=plan.filter, filter_flags=plan.filter_flags, make_cwd=True), stdio)
    if plan.init:
        return command._replace(program=_INIT_PATH, argv=[_INIT_PATH, "--", *command.argv])
    return command


# --- an exec's process ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecPlan:
    """Everything one more process in a running container needs."""

    command: process.Plan
    stdio: process.Stdio
    pidfd: int
    """The container's main process."""
    namespaces: list[str]
    cgroup: Cgroup | None


def run_exec(plan: ExecPlan, sync: InitSide) -> None:
    """Enter the container and execute; returns only by raising.

    Precondition: this process was forked into the container's pid namespace.
    """
    process.restore_signals()
    os.setsid()
    sync.wait_go()
    try:
        if plan.cgroup is not None:
            plan.cgroup.join()
        namespaces.setns(plan.pidfd, sum(
            namespaces.FLAGS[kind] for kind in plan.namespaces if kind != "pid"))
        os.chdir("/")
    except OSError as error:
        raise StartFailureError.of(error, "entering the container's namespaces") from error
    if "user" in plan.namespaces:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    stdio = plan.stdio
    wanted = plan.command.process
    if wanted.terminal:
        size = wanted.console_size
        master_fd, terminal_fd = devices.open_terminal(
            size.height if size else 0, size.width if size else 0, console=False)
        sync.send_terminal(master_fd)
        os.close(master_fd)
        stdio = process.Stdio(terminal_fd=terminal_fd)
    process.connect_stdio(stdio)
    command = process.become(plan.command, stdio)
    sync.executing()
    process.execute(command)
