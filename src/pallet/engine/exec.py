"""Exec: further processes in running containers.

``ExecInstances`` implements ``api.backends.ExecBackend``. Engine API Exec*; semantics row "exec".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.aio import shielded
from pallet.engine import security
from pallet.engine.attach import parse_detach_keys
from pallet.engine.merge import environment, overlay_env
from pallet.engine.oci import cgroups_path
from pallet.engine.status import Status
from pallet.errors import ConflictError, InvalidParameterError, NotFoundError, PalletError
from pallet.spec import runtime as oci
from pallet.spec.engine.exec import ExecConfig, ExecInspect, ExecProcess
from pallet.spec.engine.wire import given
from pallet.types import ExecId
from pallet.zygote import messages

if TYPE_CHECKING:
    import socket

    from pallet.config import Config
    from pallet.engine.container import Container
    from pallet.engine.seccomp import SeccompFilters
    from pallet.engine.store import ContainerStore
    from pallet.engine.tasks import Tasks
    from pallet.paths import ExecPaths
    from pallet.spec.engine.options import ExecStartOptions, OpenStream
    from pallet.supervisor.client import Supervisor
    from pallet.supervisor.shims import AttachResult, Shim

_KEEP_ENDED_S = 300.0
_NOT_RUN = 126
_HOST_KINDS = {"pid": "pid_mode", "network": "network_mode", "uts": "uts_mode", "ipc": "ipc_mode",
               "cgroup": "cgroupns_mode"}


@dataclass(slots=True, kw_only=True)
class ExecInstance:
    """One exec. ``exit_code`` is None until it ended."""

    id: ExecId
    container: Container
    config: ExecConfig
    tty: bool
    started: bool = False
    running: bool = False
    exit_code: int | None = None
    pid: int = 0
    shim: Shim | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


def _check_running(container: Container) -> None:
    """Raises: ConflictError when no process can be added."""
    if container.status is Status.PAUSED:
        msg = f"container {container.name} is paused, unpause the container before exec"
        raise ConflictError(msg)
    if container.status is Status.RESTARTING:
        msg = f"container {container.id} is restarting, wait until the container is running"
        raise ConflictError(msg)
    if container.status is not Status.RUNNING or container.shim is None:
        msg = f"container {container.id} is not running"
        raise ConflictError(msg)


class ExecInstances:
    """Makes, starts and remembers execs."""

    def __init__(
        self, *, config: Config, exec_paths: ExecPaths, store: ContainerStore, supervisor: Supervisor,
        filters: SeccompFilters, tasks: Tasks,
    ) -> None:
        self._config = config
        self._exec_paths = exec_paths
        self._store = store
        self._supervisor = supervisor
        self._filters = filters
        self._tasks = tasks
        self._instances: dict[str, ExecInstance] = {}

    async def create(self, name_or_id: str, config: ExecConfig) -> str:
        """See ``ExecBackend.create``."""
        return self.make(self._store.index.get(name_or_id), config).id

    def make(self, container: Container, config: ExecConfig) -> ExecInstance:
        """Make an exec of ``container``.

        Raises:
            ConflictError: the container does not run.
            InvalidParameterError: no command, or bad detach keys.
        """
        if not config.cmd:
            msg = "No exec command specified"
            raise InvalidParameterError(msg)
        parse_detach_keys(config.detach_keys)
        _check_running(container)
        instance = ExecInstance(id=ExecId(secrets.token_hex(32)), container=container, config=config, tty=config.tty)
        self._instances[instance.id] = instance
        container.exec_ids.append(instance.id)
        self._emit(instance, f"exec_create: {' '.join(config.cmd)}")
        return instance

    def _emit(self, instance: ExecInstance, action: str, **attributes: str) -> None:
        self._store.emit(instance.container, action, execID=instance.id, **attributes)

    def _get(self, exec_id: str) -> ExecInstance:
        instance = self._instances.get(exec_id)
        if instance is None:
            msg = f"No such exec instance: {exec_id}"
            raise NotFoundError(msg)
        return instance

    async def start(self, exec_id: str, options: ExecStartOptions, open_stream: OpenStream | None) -> None:
        """See ``ExecBackend.start``."""
        instance = self._get(exec_id)
        if instance.exit_code is not None or (instance.started and not instance.running):
            msg = f"Error: Exec command {exec_id} has already run"
            raise ConflictError(msg)
        if instance.started:
            msg = f"Error: Exec command {exec_id} is already running"
            raise ConflictError(msg)
        _check_running(instance.container)
        instance.started = True
        if open_stream is None:
            await self.run(instance, None, options.console_size)
            return
        try:
            sock = await open_stream(multiplexed=not instance.tty)
        except BaseException:
            self._failed(instance, _NOT_RUN)
            raise
        spare = sock.dup()
        try:
            await self.run(instance, sock, options.console_size)
        except PalletError as error:
            # The reply's head is gone: Docker writes the failure into the stream.
            await _write_failure(spare, str(error), mux=not instance.tty)
        finally:
            spare.close()

    async def run(
        self, instance: ExecInstance, sock: socket.socket | None, console_size: tuple[int, int] | None
    ) -> None:
        """Start the process; return once it was executed.

        Args:
            sock: the client's stream, closed here in every case; None for none.

        Raises:
            InvalidParameterError: the command cannot be run (126, 127 in inspect).
        """
        instance.started = True
        # A caller that is cancelled (a probe of a container that ends) must not leave a process without a watcher.
        await shielded(self._run(instance, sock, console_size))

    async def _run(
        self, instance: ExecInstance, sock: socket.socket | None, console_size: tuple[int, int] | None
    ) -> None:
        try:
            request = await self._request(instance, sock is not None, console_size)
            shim = await self._supervisor.start_exec(request, attach_sockets=[sock] if sock is not None else [])
        except Exception as error:
            if sock is not None:
                sock.close()
            self._failed(instance, getattr(error, "exit_code", _NOT_RUN))
            shutil.rmtree(self._exec_paths.shim(instance.id), ignore_errors=True)
            raise
        instance.shim, instance.pid, instance.running = shim, shim.pid, True
        self._emit(instance, f"exec_start: {' '.join(instance.config.cmd or ())}")
        self._tasks.spawn(self._follow(instance, shim), f"exec {instance.id[:12]}")
        if sock is not None:
            self._tasks.spawn(self._report_detach(instance, shim.streams[1]), f"exec attach {instance.id[:12]}")

    def _failed(self, instance: ExecInstance, exit_code: int) -> None:
        instance.exit_code = exit_code
        instance.ended.set()
        self._forget_later(instance)

    async def _follow(self, instance: ExecInstance, shim: Shim) -> None:
        end = await asyncio.shield(shim.exited)
        instance.running, instance.exit_code, instance.shim = False, end.exit_code, None
        instance.ended.set()
        shutil.rmtree(shim.shim_dir, ignore_errors=True)
        self._emit(instance, "exec_die", exitCode=str(end.exit_code))
        self._forget_later(instance)

    def _forget_later(self, instance: ExecInstance) -> None:
        if instance.id in instance.container.exec_ids:
            instance.container.exec_ids.remove(instance.id)
        asyncio.get_running_loop().call_later(_KEEP_ENDED_S, self._instances.pop, instance.id, None)

    async def _report_detach(self, instance: ExecInstance, ended: asyncio.Future[AttachResult]) -> None:
        if await ended == "detached":
            self._emit(instance, "exec_detach")

    async def _request(
        self, instance: ExecInstance, attached: bool, console_size: tuple[int, int] | None
    ) -> messages.StartExec:
        container, config = instance.container, instance.config
        host = container.host_config
        options = security.parse_security_opts(
            host.security_opt or [], no_new_privileges=self._config.no_new_privileges)
        privileged = config.privileged or host.privileged
        names = security.merge_capabilities(host.cap_add or [], host.cap_drop or [], privileged=privileged)
        seccomp = await self._filters.select(options, names, privileged=privileged)
        _check_running(container)  # it may have ended meanwhile, and has no process to join then
        shim_dir = os.fspath(self._exec_paths.shim(instance.id))
        os.makedirs(shim_dir, mode=0o700, exist_ok=True)
        size = console_size or given(config.console_size)
        keys = parse_detach_keys(config.detach_keys) if instance.tty and config.attach_stdin else b""
        return messages.StartExec(
            id=instance.id, container_id=container.id, container_pid=container.pid,
            container_dir=os.fspath(self._exec_paths.shim(container.id)),
            namespaces=["mount", *(kind for kind, mode in _HOST_KINDS.items() if getattr(host, mode) != "host")],
            cgroups_path=cgroups_path(container, self._config), cgroup_driver=self._config.cgroup_driver,
            process=oci.Process(
                terminal=instance.tty,
                console_size=oci.Box(height=size[0], width=size[1]) if size else None,
                args=config.cmd or [], env=_environment(container, config, tty=instance.tty),
                cwd=config.working_dir or container.config.working_dir or "/",
                capabilities=oci.Capabilities(bounding=names, effective=names, permitted=names),
                rlimits=security.rlimits(host.ulimits, self._config.default_ulimits),
                no_new_privileges=options.no_new_privileges,
                oom_score_adj=host.oom_score_adj),
            user=config.user or container.config.user,
            group_add=host.group_add or [] if not config.user else [],
            stdio=messages.Stdio(
                open_stdin=config.attach_stdin, stdin_once=True,
                attach=[messages.Attach(
                    stream_id=1, stdin=config.attach_stdin, stdout=config.attach_stdout, stderr=config.attach_stderr,
                    mux=not instance.tty, detach_keys=keys.decode("latin-1"))] if attached else []),
            shim_dir=shim_dir, seccomp_path=seccomp.path, seccomp_flags=seccomp.flags)

    async def inspect(self, exec_id: str) -> ExecInspect:
        """See ``ExecBackend.inspect``."""
        instance = self._get(exec_id)
        if instance.shim is not None:
            # A client that saw its stream end asks at once: the exit may be unread in our socket.
            instance.shim.poll()
            if instance.shim.exited.done():
                await instance.ended.wait()
        config = instance.config
        words = config.cmd or [""]
        return ExecInspect(
            id=instance.id, running=instance.running, exit_code=instance.exit_code,
            process_config=ExecProcess(tty=instance.tty, entrypoint=words[0], arguments=words[1:],
                                       privileged=config.privileged, **({"user": config.user} if config.user else {})),
            open_stdin=config.attach_stdin, open_stderr=config.attach_stderr, open_stdout=config.attach_stdout,
            can_remove=instance.exit_code is not None, container_id=instance.container.id,
            detach_keys=config.detach_keys, pid=instance.pid)

    async def resize(self, exec_id: str, *, height: int, width: int) -> None:
        """See ``ExecBackend.resize``."""
        instance = self._get(exec_id)
        if instance.shim is None:
            msg = f"exec process {exec_id} is not running"
            raise ConflictError(msg)
        instance.shim.resize(height, width)

    def forget(self, container: Container) -> None:
        """Drop the execs of a removed container that were never started; others are still asked for."""
        for exec_id in list(container.exec_ids):
            if not self._instances[exec_id].started:
                del self._instances[exec_id]
                container.exec_ids.remove(exec_id)


def _environment(container: Container, config: ExecConfig, *, tty: bool) -> list[str]:
    """The container's own environment, TERM for a terminal, the exec's variables over them."""
    merged = dict(entry.partition("=")[::2] for entry in environment(container.config))
    if tty:
        merged.setdefault("TERM", "xterm")
    return overlay_env(merged, config.env)


async def _write_failure(sock: socket.socket, message: str, *, mux: bool) -> None:
    """Put an error's text into an opened stream, as Docker does (on standard output), and end it."""
    text = message.encode() + b"\r\n"
    head = struct.pack(">BxxxI", 1, len(text)) if mux else b""
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_sendall(sock, head + text)
