"""Containers and execs of an OCI runtime program behind the same shim.

Owns   the calls of ``runc``-like programs: create, start, exec, delete.
Runs   in a shim, which mounts the root in a mount namespace of its own.
Spec   runtime-spec runtime.md#operations; the command line that runc and crun share.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from pallet.linux import cgroupfs, namespaces, procfs
from pallet.linux import mount as m
from pallet.runtime import bundle, rootfs
from pallet.runtime.cgroup import open_cgroup
from pallet.runtime.failure import StartFailureError
from pallet.zygote import messages
from pallet.zygote.launch import Launched

if TYPE_CHECKING:
    from pallet.runtime.cgroup import Cgroup
    from pallet.runtime.sync import FailureReport
    from pallet.zygote.messages import ForeignRuntime
    from pallet.zygote.stdio import Hub

_CONSOLE_TIMEOUT_S = 10.0


class _LogLine(msgspec.Struct):
    msg: str = ""
    level: str = ""


@dataclass(slots=True, kw_only=True)
class _Program:
    """One runtime program with its state directory."""

    runtime: ForeignRuntime
    directory: str
    driver: str

    def run(self, arguments: list[str], stdio: tuple[int, int, int] = (-1, -1, -1)) -> None:
        """Run one operation to its end.

        Args:
            stdio: descriptors for 0, 1, 2; -1 is /dev/null.

        Raises:
            StartFailureError: the program's own last error message.
        """
        log = os.path.join(self.directory, "runtime.log")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(log)
        argv = [self.runtime.path, *self.runtime.args, "--root",
                os.path.join(self.directory, "runtime"), "--log", log, "--log-format", "json"]
        if self.driver == "systemd":
            argv.append("--systemd-cgroup")
        pid = _spawn([*argv, *arguments], stdio)
        _, status = os.waitpid(pid, 0)
        if status:
            raise StartFailureError(_last_error(log) or f"{self.runtime.path} failed: "
                                    f"exit status {os.waitstatus_to_exitcode(status)}",
                                    native=False)


def _spawn(argv: list[str], stdio: tuple[int, int, int]) -> int:
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
    for number, fd in enumerate(stdio):
        if fd >= 0:
            actions.append((os.POSIX_SPAWN_DUP2, fd, number))
    try:
        return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions,
                              setsigdef=[*_DEFAULT_SIGNALS])
    except FileNotFoundError as error:
        message = f'exec: "{argv[0]}": executable file not found in $PATH'
        raise StartFailureError(message, native=False) from error


_DEFAULT_SIGNALS = (1, 2, 3, 13, 15, 25)
"""HUP, INT, QUIT, PIPE, TERM, XFSZ: ignored by a shim, and inherited over an exec if not reset."""


def _last_error(log: str) -> str:
    try:
        with open(log, "rb") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        with contextlib.suppress(msgspec.DecodeError):
            entry = msgspec.json.decode(line, type=_LogLine)
            if entry.msg and entry.level in {"error", "fatal", ""}:
                return entry.msg
    return ""


@dataclass(slots=True)
class _Steps:
    """Stands where the native runtime has its conversation with the init."""

    program: _Program
    start_id: str
    """Container to start at ``go``; "" when the process runs already."""
    held_fds: list[int] = field(default_factory=list)
    _ready_fd: int = -1
    _letters: list[bytes] = field(default_factory=lambda: [b"X"])

    def fileno(self) -> int:
        """A descriptor that is readable at once: the end of a pipe without a writer."""
        if self._ready_fd < 0:
            self._ready_fd, write_fd = os.pipe2(os.O_CLOEXEC)
            os.close(write_fd)
        return self._ready_fd

    def go(self) -> None:
        """Execute the container's program."""
        if self.start_id:
            self.program.run(["start", self.start_id])
        for fd in self.held_fds:
            os.close(fd)
        self.held_fds.clear()

    def receive(self) -> tuple[bytes, int, FailureReport | None]:
        """The program was executed; then the end."""
        return (self._letters.pop() if self._letters else b""), -1, None

    def close(self) -> None:
        """Close the descriptor of ``fileno``."""
        if self._ready_fd >= 0:
            os.close(self._ready_fd)
            self._ready_fd = -1


def launch(
    request: messages.StartContainer | messages.StartExec, runtime: ForeignRuntime, hub: Hub,
    netns_fd: int,
) -> Launched:
    """Have ``runtime`` create a container, or execute one more process in it.

    Raises:
        StartFailureError: in the runtime's words.
    """
    if isinstance(request, messages.StartContainer):
        return _create(request, runtime, hub, netns_fd)
    return _execute(request, runtime, hub)


def _create(request: messages.StartContainer, runtime: ForeignRuntime, hub: Hub, netns_fd: int,
            ) -> Launched:
    directory = request.shim_dir
    program = _Program(runtime=runtime, directory=directory, driver=request.cgroup_driver)
    spec = request.spec
    bundle_dir = os.path.join(directory, "bundle")
    rootfs_dir = os.path.join(bundle_dir, "rootfs")
    os.makedirs(rootfs_dir, exist_ok=True)
    _enter_mount_namespace()
    root_fd = rootfs.mount_root(request.root, spec.root.path if spec.root else "/", rootfs_dir)
    os.chdir(directory)
    process = bundle.resolve_process(spec.process, request.user, request.group_add, root_fd)
    bundle.make_cwd(root_fd, process.cwd)
    os.close(root_fd)
    netns = f"/proc/{os.getpid()}/fd/{netns_fd}" if netns_fd >= 0 else ""
    bundle.write_config(spec, os.path.join(bundle_dir, "config.json"), process=process,
                        rootfs=rootfs_dir, netns=netns, init=request.init)
    arguments = ["create", "--bundle", bundle_dir]

    def delete() -> None:
        with contextlib.suppress(StartFailureError):
            program.run(["delete", "--force", request.id])
        with contextlib.suppress(OSError):
            m.unmount(rootfs_dir, m.MNT_DETACH)
        for name in ("bundle", "runtime", "runtime.log", "init.pid", "tty"):
            _remove(os.path.join(directory, name))

    try:
        pid = _call(program, arguments, request.id, hub, terminal=process.terminal)
    except StartFailureError:
        delete()
        raise
    steps = _Steps(program, request.id, [netns_fd] if netns_fd >= 0 else [])
    return Launched(
        pid=pid, start_time=procfs.start_time(pid), sync=steps,
        cgroup=_cgroup_of(spec.linux.cgroups_path, request.cgroup_driver), owns_cgroup=True,
        makes_cgroup=False, on_end=delete,
        private_pids=any(n.type == "pid" and not n.path for n in spec.linux.namespaces))


def _remove(path: str) -> None:
    """Remove a file or a small tree."""
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            for name in os.listdir(path):
                _remove(os.path.join(path, name))
            os.rmdir(path)
        else:
            os.unlink(path)


def _enter_mount_namespace() -> None:
    """Give the shim and the runtime it calls a mount namespace of their own.

    On a hybrid host every limit is on cgroup version 1, and crun refuses to run where it finds a
    cgroup2 mount with controllers beside it: so runtimes see an empty directory there. It is a file
    system of this namespace's own, as they make directories in it all the same.
    """
    namespaces.unshare(namespaces.CLONE_NEWNS)
    m.mount(None, "/", flags=m.MS_SLAVE | m.MS_REC)
    found = cgroupfs.detect()
    if found.mode == "hybrid" and found.v2 is not None:
        m.mount("tmpfs", found.v2, "tmpfs")


def _cgroup_of(path: str, driver: str) -> Cgroup | None:
    """The container's cgroup as far as ``_enter_mount_namespace`` lets runtimes see it."""
    if not path:
        return None
    found = cgroupfs.detect()
    seen = found if found.mode == "v2" else cgroupfs.Mounts(v1=found.v1)
    return open_cgroup(path, driver=driver, mounts=seen)


def _execute(request: messages.StartExec, runtime: ForeignRuntime, hub: Hub) -> Launched:
    program = _Program(runtime=runtime, directory=request.container_dir,
                       driver=request.cgroup_driver)
    root_fd = os.open(f"/proc/{request.container_pid}/root",
                      os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        process = bundle.resolve_process(request.process, request.user, request.group_add, root_fd)
    finally:
        os.close(root_fd)
    _enter_mount_namespace()
    path = os.path.join(request.shim_dir, "process.json")
    with open(path, "wb", buffering=0) as file:
        file.write(msgspec.json.encode(process))
    pid = _call(program, ["exec", "--detach", "--process", path], request.container_id, hub,
                terminal=process.terminal)
    return Launched(pid=pid, start_time=procfs.start_time(pid), sync=_Steps(program, ""),
                    cgroup=None, owns_cgroup=False,
                    makes_cgroup=False, private_pids=False)


def _call(program: _Program, arguments: list[str], container_id: str, hub: Hub, *, terminal: bool,
          ) -> int:
    """Run ``create`` or ``exec`` with the process's stdio; return the process's pid.

    Precondition: the working directory is the shim's own, where the pid file goes.
    """
    arguments = [*arguments, "--pid-file", os.path.abspath("init.pid")]
    if terminal:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
            with contextlib.suppress(FileNotFoundError):
                os.unlink("tty")
            console.bind("tty")
            console.listen(1)
            # The path must be short enough for a socket address: by this process's cwd it is.
            program.run([*arguments, "--console-socket", f"/proc/{os.getpid()}/cwd/tty",
                         container_id])
            hub.set_terminal(_receive_terminal(console))
    else:
        stdio = hub.make_pipes()
        try:
            program.run([*arguments, container_id], stdio)
        finally:
            for fd in stdio:
                if fd >= 0:
                    os.close(fd)
    with open("init.pid", "rb") as file:
        return int(file.read())


def _receive_terminal(console: socket.socket) -> int:
    console.settimeout(_CONSOLE_TIMEOUT_S)
    connection, _ = console.accept()
    with connection:
        _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4),
                                                socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data)
    if not fds:
        message = "the runtime sent no terminal"
        raise StartFailureError(message, native=False)
    return fds[0]
