"""How a shim makes its process: natively, as an exec, or through an OCI runtime (``foreign.py``).

Owns   the forks of init and exec, and what has to be there before them.
Runs   in a shim.
"""

from __future__ import annotations

import functools
import math
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pallet.linux import cgroupfs, idmap, namespaces, procfs, vfork
from pallet.linux import process as kernel
from pallet.runtime import bundle, cgroup, init, process, sync, usernamespace
from pallet.runtime.failure import StartFailureError
from pallet.zygote import messages, rehearsal

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.runtime.cgroup import Cgroup
    from pallet.runtime.cgroupahead import Ahead
    from pallet.runtime.sync import FailureReport, InitSide, ShimSide
    from pallet.spec.runtime import LinuxResources
    from pallet.zygote.stdio import Hub


class Steps(Protocol):
    """The conversation with a process on its way; ``ShimSide`` is the native runtime's."""

    def fileno(self) -> int:
        """For polling."""
        ...

    def go(self) -> None:
        """The shim is ready."""
        ...

    def receive(self) -> tuple[bytes, int, FailureReport | None]:
        """As ``ShimSide.receive``."""
        ...

    def close(self) -> None:
        """Done."""
        ...


@dataclass(slots=True, kw_only=True)
class Launched:
    """A process on its way to its program."""

    pid: int
    start_time: int
    """Of ``pid``, in clock ticks since boot."""
    sync: Steps
    cgroup: Cgroup | None
    owns_cgroup: bool
    """The cgroup is this container's: killed and removed at the end."""
    makes_cgroup: bool
    """It is also made here, rather than by a runtime program."""
    private_pids: bool
    """Everything the process leaves behind dies with it."""
    borrowed: bool = False
    """It ran in the shim's memory until its exec, and the shim is as it was before."""
    resources: LinuxResources | None = None
    on_end: Callable[[], None] | None = None
    """What else there is to undo once the process has ended."""
    held_fds: list[int] = field(default_factory=list)
    """Kept open until the process has ended: its mount namespace."""

    def prepare_cgroup(self) -> None:
        """Make the cgroup, while the process makes its mounts."""
        if self.cgroup is not None and self.makes_cgroup:
            self.cgroup.create()
            if self.resources is not None:
                self.cgroup.apply(self.resources)


def read_filter(path: str | None) -> bytes | None:
    """Return a compiled seccomp filter."""
    if path is None:
        return None
    with open(path, "rb", buffering=0) as file:
        return file.read()


def open_cgroup(path: str, driver: str) -> Cgroup | None:
    """Return the handle of a configuration's cgroup; None where it names none."""
    return cgroup.open_cgroup(path, driver=driver) if path else None


def _run_child(body: Callable[[InitSide], None], theirs: InitSide) -> None:
    """Run a forked child to its exec; never returns."""
    try:
        _prepare_child()
        body(theirs)
    except BaseException as error:  # noqa: BLE001 - a forked child has nobody above it
        theirs.fail(error)
    os._exit(1)


def _plan(request: messages.StartContainer, netns_fd: int, stdio: tuple[int, int, int],
          ) -> init.InitPlan:
    mount_point = _bundle(request) if request.spec.hooks is not None else request.shim_dir
    return init.InitPlan(
        spec=request.spec, root=request.root, user=request.user, group_add=request.group_add,
        stdio=process.Stdio(stdin_fd=stdio[0], stdout_fd=stdio[1], stderr_fd=stdio[2]),
        filter=read_filter(request.seccomp_path), filter_flags=request.seccomp_flags,
        init=request.init, netns_fd=netns_fd, mount_point=mount_point,
        id=request.id, bundle=request.shim_dir,
        cgroup=open_cgroup(request.spec.linux.cgroups_path, request.cgroup_driver),
        mapped=any(n.type == "user" and not n.path for n in request.spec.linux.namespaces))


def _bundle(request: messages.StartContainer) -> str:
    """Make the bundle that hooks look at; return its root directory.

    Raises:
        StartFailureError: hooks that are not run here.
    """
    from pallet.runtime import hooks  # few containers have any

    hooks.check(request.spec)
    rootfs = os.path.join(request.shim_dir, "rootfs")
    os.makedirs(rootfs, exist_ok=True)
    bundle.write_config(request.spec, os.path.join(request.shim_dir, "config.json"),
                        process=request.spec.process, rootfs=rootfs, netns="", init=None)
    return rootfs


def container(request: messages.StartContainer, hub: Hub, netns_fd: int,
              born: Callable[[Launched], None], ahead: Ahead | None = None) -> Launched:
    """Make a container's init.

    Args:
        netns_fd: closed here.
        ahead: a cgroup to use if it suits.
        born: called once the process exists and waits to be let go on; it calls ``sync.go``.
    """
    child_fds = (-1, -1, -1) if request.spec.process.terminal else hub.make_pipes()
    plan = _plan(request, netns_fd, child_fds)
    if _may_borrow(request, plan):
        if ahead is not None and plan.cgroup is not None:
            plan.cgroup.take(ahead)
        launched = _borrow(request, plan, born)
    else:
        launched = _fork(request, plan, born)
    for fd in (netns_fd, *child_fds):
        if fd >= 0:
            os.close(fd)
    return launched


def _launched(request: messages.StartContainer, plan: init.InitPlan, pid: int, side: ShimSide,
              ) -> Launched:
    handle = plan.cgroup
    return Launched(
        pid=pid, start_time=procfs.start_time(pid), sync=side, cgroup=handle, owns_cgroup=True,
        makes_cgroup=handle is None or not handle.bears_children,
        resources=request.spec.linux.resources, private_pids=_has_own_pids(request))


def _has_own_pids(request: messages.StartContainer) -> bool:
    return any(n.type == "pid" and not n.path for n in request.spec.linux.namespaces)


def _may_borrow(request: messages.StartContainer, plan: init.InitPlan) -> bool:
    """Tell whether the init may run in this shim's memory until its exec.

    Not where it stays Python or forks itself (hooks), where it is born in its cgroup, and where processes
    of another container could trace it: they would see the host's secrets in that memory.
    """
    return (vfork.usable and plan.init != "" and request.spec.hooks is None and not plan.mapped
            and _has_own_pids(request) and not (plan.cgroup is not None and plan.cgroup.bears_children))


def _borrow(request: messages.StartContainer, plan: init.InitPlan,
            born: Callable[[Launched], None]) -> Launched:
    """Run the init up to its exec in a child that shares this process's memory meanwhile."""
    ours, theirs = sync.pair()
    launched: list[Launched] = []

    commands: list[process.Command] = []

    def prepare() -> process.Command:
        _prepare_child()
        launched.append(_launched(request, plan, _child().pid, ours))
        born(launched[0])
        command = init.prepare(plan, theirs)
        theirs.executing()
        commands.append(command)
        return command

    def failed(error: BaseException) -> None:
        if commands and isinstance(error, OSError | ValueError):
            process.exec_failed(commands[0].program, error)
        theirs.fail(error)

    # This process waits for the child to execute; a child that hangs takes it down.
    signal.alarm(math.ceil(request.start_timeout_s))
    try:
        pid = _child().run(prepare, failed, flags=vfork.CLONE_NEWPID)
    finally:
        signal.alarm(0)
    theirs.close()
    if not launched:
        launched.append(_launched(request, plan, pid, ours))
    launched[0].borrowed = True
    return launched[0]


def _prepare_child() -> None:
    # It will be seen from inside the container before its exec, when its /proc/<pid>/exe is still
    # the host's interpreter, writable for the container's root if that could open it.
    kernel.set_undumpable()
    kernel.set_name("pallet-init")


@functools.cache
def _child() -> vfork.Child:
    return vfork.Child()


def rehearse() -> None:
    """Walk through an init's steps in a shim that waits for its request."""
    if not vfork.usable or cgroupfs.detect().mode == "v2":
        return

    def walk() -> process.Command:
        rehearsal.of_init()
        os._exit(0)

    pid = _child().run(walk, lambda _error: None)
    os.waitpid(pid, 0)


def _fork(request: messages.StartContainer, plan: init.InitPlan,
          born: Callable[[Launched], None]) -> Launched:
    pid, ours = _fork_init(request, plan)
    launched = _launched(request, plan, pid, ours)
    born(launched)
    return launched


def _fork_init(request: messages.StartContainer, plan: init.InitPlan) -> tuple[int, ShimSide]:
    ours, theirs = sync.pair()
    entry = next((n for n in request.spec.linux.namespaces if n.type == "pid"), None)
    if not plan.mapped:
        _choose_pid_namespace(entry.path if entry else None)
    handle = plan.cgroup
    if handle is not None and handle.bears_children:
        handle.create()
        if plan.spec.linux.resources is not None:
            handle.apply(plan.spec.linux.resources)
        pid = handle.fork()
    else:
        pid = os.fork()
    if not pid:
        ours.close()
        _run_child(lambda side: (usernamespace.run if plan.mapped else init.run)(plan, side),
                   theirs)
    theirs.close()
    if plan.mapped:
        pid = _await_mapped(request, ours, pid)
    return pid, ours


def _await_mapped(request: messages.StartContainer, ours: ShimSide, middle_pid: int) -> int:
    """Write the maps of a new user namespace; return the pid of the init born in it."""
    linux = request.spec.linux

    def write_maps() -> None:
        idmap.write(middle_pid,
                    [(m.container_id, m.host_id, m.size) for m in linux.uid_mappings],
                    [(m.container_id, m.host_id, m.size) for m in linux.gid_mappings])

    try:
        return ours.serve_mapping(write_maps)
    finally:
        os.waitpid(middle_pid, 0)


def _choose_pid_namespace(path: str | None) -> None:
    """Decide where the next child is born: None is the host's namespace, "" a new one."""
    if path is None:
        return
    if path:
        namespaces.join_path(path, "pid")
    else:
        namespaces.unshare(namespaces.CLONE_NEWPID)


def leave_pid_namespace() -> None:
    """Have further children born beside the shim again."""
    namespaces.join_path("/proc/self/ns/pid", "pid")


def run_exec(request: messages.StartExec, hub: Hub) -> Launched:
    """Fork an exec's process into a container."""
    pidfd = _open_container(request)
    ours, theirs = sync.pair()
    wanted = request.process
    child_fds = (-1, -1, -1) if wanted.terminal else hub.make_pipes()
    cgroup_handle = open_cgroup(request.cgroups_path, request.cgroup_driver)
    kinds = [kind for kind in request.namespaces if _differs(kind, request.container_pid)]
    plan = init.ExecPlan(
        command=process.Plan(
            process=wanted, user=request.user, group_add=request.group_add,
            filter=read_filter(request.seccomp_path), filter_flags=request.seccomp_flags,
            make_cwd=False),
        stdio=process.Stdio(stdin_fd=child_fds[0], stdout_fd=child_fds[1], stderr_fd=child_fds[2]),
        pidfd=pidfd, namespaces=kinds, cgroup=cgroup_handle)
    if "pid" in kinds:
        namespaces.setns(pidfd, namespaces.CLONE_NEWPID)
    # On version 2 moving a process costs an RCU grace period, being born inside does not.
    pid = cgroup_handle.fork() if cgroup_handle is not None else os.fork()
    if not pid:
        _run_child(lambda side: init.run_exec(plan, side), theirs)
    theirs.close()
    for fd in (pidfd, *child_fds):
        if fd >= 0:
            os.close(fd)
    return Launched(pid=pid, start_time=procfs.start_time(pid), sync=ours, cgroup=cgroup_handle,
                    owns_cgroup=False,
                    makes_cgroup=False, private_pids=False)


def _open_container(request: messages.StartExec) -> int:
    """Return a pidfd of the container, which may have ended and its pid be another's."""
    gone = StartFailureError(f"container {request.container_id} is not running", plain=True)
    try:
        pidfd = os.pidfd_open(request.container_pid)
        with open(os.path.join(request.container_dir, "state.json"), "rb") as file:
            state = messages.state_decoder.decode(file.read())
    except (ProcessLookupError, FileNotFoundError):
        raise gone from None
    if not procfs.is_alive(state.pid, state.pid_start_time) or state.pid != request.container_pid:
        os.close(pidfd)
        raise gone
    return pidfd


def _differs(kind: str, pid: int) -> bool:
    """True when ``pid`` is in another namespace of that kind: one's own cannot be entered again."""
    name = namespaces.PROC_NAMES[kind]
    try:
        theirs = os.stat(f"/proc/{pid}/ns/{name}")
        ours = os.stat(f"/proc/self/ns/{name}")
    except FileNotFoundError:
        return False
    return theirs.st_ino != ours.st_ino
