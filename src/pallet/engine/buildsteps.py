"""Commands of builds: one process in the native runtime on a snapshot, and nothing left after it.

Owns   the container that a step is while it runs: in no index, without record, log and events. A
       killed daemon's steps are swept by ``engine/restore.py`` as what has no record: shim, cgroup,
       snapshot, address and files.
Runs   on the loop; ``build.ports.StepRunner`` without importing it.
Spec   BuildKit's executor: no init, the host name ``buildkitsandbox``, no standard input.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

import msgspec

from pallet.aio import run_blocking
from pallet.engine import devices, hostinfo, oci, security
from pallet.engine.container import Container
from pallet.engine.stepmounts import StepFiles
from pallet.errors import SystemFailureError
from pallet.http.streams import Deframer
from pallet.network.model import ConnectRequest, Sandbox
from pallet.spec.engine.config import ContainerConfig
from pallet.spec.engine.host_config import HostConfig, Ulimit
from pallet.storage import stubs
from pallet.types import ContainerId, ImageId
from pallet.zygote import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from pallet.config import Config
    from pallet.engine.files import ContainerFiles
    from pallet.engine.joins import Joins
    from pallet.engine.seccomp import SeccompFilters
    from pallet.engine.start import HostFacts
    from pallet.engine.stepmounts import MountWish
    from pallet.network.controller import NetworkController
    from pallet.paths import ExecPaths
    from pallet.spec.runtime import Spec
    from pallet.storage.snapshot import Snapshotter
    from pallet.supervisor.client import Supervisor
    from pallet.supervisor.shims import Exit, Shim

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOSTNAME = "buildkitsandbox"
_PIECE_BYTES = 256 * 1024
_KILL = 9
_STDERR = 2
_SHARE = 4
"""A step gets one in so many of the processes that the kernel has."""


class StepLimits(Protocol):
    """The part of ``build.ports.FrontendOptions`` that a step's container is made by."""

    @property
    def cgroup_parent(self) -> str: ...
    @property
    def resources(self) -> Mapping[str, int]: ...
    @property
    def cpuset_cpus(self) -> str: ...
    @property
    def cpuset_mems(self) -> str: ...
    @property
    def shm_size_bytes(self) -> int: ...
    @property
    def ulimits(self) -> Sequence[tuple[str, int, int]]: ...
    @property
    def extra_hosts(self) -> Sequence[tuple[str, str]]: ...


class StepLike(Protocol):
    """``build.ports.Step``, which engine may not import."""

    @property
    def id(self) -> str: ...
    @property
    def args(self) -> Sequence[str]: ...
    @property
    def env(self) -> Sequence[str]: ...
    @property
    def cwd(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def network(self) -> str: ...
    @property
    def insecure(self) -> bool: ...
    @property
    def hostname(self) -> str: ...
    @property
    def mounts(self) -> Sequence[MountWish]: ...
    @property
    def devices(self) -> Sequence[str]: ...
    @property
    def options(self) -> StepLimits: ...
    @property
    def readonly_root(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class StepEnd:
    """How a step's command ended."""

    exit_code: int
    """128 + n for a death by signal n."""
    oom_killed: bool


class StepRunner:
    """Runs commands of builds. One per daemon; steps know nothing of one another."""

    def __init__(
        self, *, config: Config, exec_paths: ExecPaths, facts: HostFacts, snapshotter: Snapshotter,
        network: NetworkController, supervisor: Supervisor, files: ContainerFiles, joins: Joins,
        filters: SeccompFilters, cdi: devices.Devices,
    ) -> None:
        self._config = config
        self._exec_paths = exec_paths
        self._facts = facts
        self._snapshotter = snapshotter
        self._network = network
        self._supervisor = supervisor
        self._files = files
        self._joins = joins
        self._filters = filters
        self._cdi = cdi
        self._cgroup_v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")

    async def run(self, step: StepLike, output: Callable[[int, bytes], None]) -> StepEnd:
        """See ``build.ports.StepRunner.run``."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            async with _Run(self, step) as run:
                shim = await run.start([theirs], attach=[_attach(mux=True)])
                await _relay(ours, output)
                return _end(await shim.exited)
        finally:
            ours.close()
            theirs.close()

    async def converse(self, step: StepLike, peer: socket.socket, output: Callable[[int, bytes], None]) -> StepEnd:
        """See ``build.ports.StepRunner.converse``."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            async with _Run(self, step) as run:
                shim = await run.start([peer, theirs], attach=[
                    messages.Attach(stream_id=1, stdin=True, stdout=True, mux=False),
                    messages.Attach(stream_id=2, stderr=True, mux=False)], stdin=True)
                loop = asyncio.get_running_loop()
                while data := await loop.sock_recv(ours, _PIECE_BYTES):
                    output(_STDERR, data)
                return _end(await shim.exited)
        finally:
            for sock in (ours, theirs, peer):
                sock.close()

    async def shell(self, step: StepLike, client: socket.socket, *, tty: bool,
                    size: tuple[int, int] = (0, 0)) -> int:
        """Run a step whose streams are a client's: a debug shell. Returns the exit code.

        Args:
            client: the hijacked connection, served by the shim and closed here; raw bytes with
                ``tty``, frames without.
            size: height and width of the terminal.
        """
        async with _Run(self, step) as run:
            shim = await run.start([client], attach=[_attach(mux=not tty, stdin=True)], tty=tty, size=size,
                                   stdin=True)
            found = await shim.exited
            await asyncio.wait(shim.streams.values())
            return found.exit_code

    # -- what ``_Run`` is made of ------------------------------------------------------------------

    def container(self, step: StepLike, *, tty: bool, size: tuple[int, int]) -> Container:
        """The container that a step is."""
        limits, network = step.options, step.network or "default"
        given = limits.resources
        host = HostConfig(
            network_mode=network, ipc_mode="private",
            cgroupns_mode="private" if self._cgroup_v2 and not step.insecure else "host",
            privileged=step.insecure, auto_remove=True,
            cgroup_parent=limits.cgroup_parent, memory=given.get("memory", 0),
            memory_swap=given.get("memswap", 0), cpu_shares=given.get("cpushares", 0),
            cpu_period=given.get("cpuperiod", 0), cpu_quota=given.get("cpuquota", 0),
            pids_limit=_most_processes(), cpuset_cpus=limits.cpuset_cpus, cpuset_mems=limits.cpuset_mems,
            shm_size=limits.shm_size_bytes or self._config.default_shm_size_bytes,
            ulimits=[Ulimit(name=name, soft=soft, hard=hard) for name, soft, hard in limits.ulimits],
            extra_hosts=[f"{name}:{address}" for name, address in limits.extra_hosts],
            console_size=size, readonly_rootfs=step.readonly_root,
            masked_paths=[] if step.insecure else list(security.MASKED_PATHS),
            readonly_paths=[] if step.insecure else list(security.READONLY_PATHS))
        config = ContainerConfig(
            hostname=step.hostname or _HOSTNAME, user=step.user, tty=tty, open_stdin=tty,
            cmd=list(step.args), working_dir=step.cwd)
        return Container(
            id=ContainerId(step.id), name=f"build-{step.id[:12]}", created_at_ns=0,
            image_id=ImageId(""), image_ref="", layers=(), config=config, host_config=host,
            driver=self._snapshotter.name)

    async def request(self, container: Container, step: StepLike, sandbox: Sandbox,
                      files: StepFiles, stdio: messages.Stdio, shim_dir: str) -> messages.StartContainer:
        """The start message."""
        options = security.parse_security_opts([], no_new_privileges=self._config.no_new_privileges)
        around = oci.Surroundings(
            config=self._config, joined=self._joins.resolve(container),
            files=self._files.write_step(container, sandbox.endpoint),
            private_network=sandbox.netns_fd is not None or container.host_config.network_mode == "none",
            recursive_read_only=self._facts.recursive_read_only, has_mqueue=self._facts.has_mqueue)
        spec = _with_step(oci.build(container, around, options), step, files)
        groups: tuple[str, ...] = ()
        if step.devices:
            given = await devices.give(spec, step.devices, self._cdi)
            spec, groups = given.spec, given.groups
        names = spec.process.capabilities.bounding if spec.process.capabilities else []
        seccomp = await self._filters.select(options, names, privileged=step.insecure)
        return messages.StartContainer(
            id=container.id, spec=spec, root=files.root(stubs.under(
                self._snapshotter.root_mount(step.id, volatile=True))),
            user=step.user, group_add=list(groups), stdio=stdio, shim_dir=shim_dir, seccomp_path=seccomp.path,
            seccomp_flags=seccomp.flags, has_netns=sandbox.netns_fd is not None,
            cgroup_driver=self._config.cgroup_driver, cgroup_ahead=not container.host_config.cgroup_parent)

    async def connect(self, container: Container) -> Sandbox:
        """Give a step its network."""
        return await self._network.connect(container.id, ConnectRequest(
            container_name=container.name, network_mode=container.host_config.network_mode))

    async def launch(self, request: messages.StartContainer, sandbox: Sandbox,
                     clients: list[socket.socket]) -> Shim:
        """Start it; ``clients`` are closed in every case."""
        return await self._supervisor.start_container(
            request, netns_fd=sandbox.netns_fd, attach_sockets=clients)

    def shim_dir(self, step_id: str) -> str:
        """Make and return the shim's directory."""
        path = os.fspath(self._exec_paths.shim(step_id))
        os.makedirs(path, mode=0o700, exist_ok=True)
        self._files.prepare(step_id)
        return path

    def step_files(self, step: StepLike, shim_dir: str) -> StepFiles:
        """Describe what a step has mounted."""
        return StepFiles(step.id, step.mounts, self._snapshotter, shim_dir)

    async def clean_up(self, step_id: str, shim_dir: str) -> None:
        """Take away what is not the snapshot."""
        await self._network.release(step_id)

        def remove() -> None:
            # At once: a shell in a failed step has the same id, and files of its own in the same place.
            self._files.remove(step_id)
            shutil.rmtree(shim_dir, ignore_errors=True)

        await run_blocking(remove)


class _Run:
    """One run: everything it makes is gone when the block ends, however it ends."""

    def __init__(self, runner: StepRunner, step: StepLike) -> None:
        self._runner = runner
        self._step = step
        self._shim: Shim | None = None
        self._shim_dir = ""
        self._files: StepFiles | None = None
        self._starting: asyncio.Task[Shim] | None = None

    async def __aenter__(self) -> _Run:
        return self

    async def start(self, clients: list[socket.socket], *, attach: list[messages.Attach], tty: bool = False,
                    size: tuple[int, int] = (0, 0), stdin: bool = False) -> Shim:
        # Shielded: a start that is cancelled on its way would come up with nobody to end it.
        self._starting = asyncio.get_running_loop().create_task(
            self._start(clients, attach=attach, tty=tty, size=size, stdin=stdin))
        return await asyncio.shield(self._starting)

    async def _start(self, clients: list[socket.socket], *, attach: list[messages.Attach], tty: bool,
                     size: tuple[int, int], stdin: bool) -> Shim:
        runner, step = self._runner, self._step
        self._shim_dir = runner.shim_dir(step.id)
        container = runner.container(step, tty=tty, size=size)
        sandbox = await runner.connect(container)
        try:
            self._files = files = runner.step_files(step, self._shim_dir)
            await run_blocking(files.make)
            stdio = messages.Stdio(open_stdin=stdin, stdin_once=stdin, attach=attach)
            request = await runner.request(container, step, sandbox, files, stdio, self._shim_dir)
            self._shim = await runner.launch(request, sandbox, clients)
        except OSError as error:
            raise SystemFailureError(str(error)) from error
        finally:
            sandbox.close()
        return self._shim

    async def __aexit__(self, *_exc: object) -> None:
        await _to_its_end(self._close())

    async def _close(self) -> None:
        if self._starting is not None:
            await asyncio.wait({self._starting})
            if not self._starting.cancelled():
                self._starting.exception()  # told by ``start`` unless that was cancelled
        if self._shim is not None:
            if self._shim.running:
                self._shim.signal_all(_KILL)
                self._shim.kill(_KILL)
            await self._shim.exited
            await self._shim.gone
        if self._files is not None:
            self._files.remove()
        if self._shim_dir:
            await self._runner.clean_up(self._step.id, self._shim_dir)


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """Await what a second cancellation must not leave half done."""
    task = asyncio.get_running_loop().create_task(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                raise
            await asyncio.wait({task})
            raise


async def _relay(sock: socket.socket, output: Callable[[int, bytes], None]) -> None:
    """Hand on what the command writes until both its streams have ended."""
    loop, deframer = asyncio.get_running_loop(), Deframer()
    while data := await loop.sock_recv(sock, _PIECE_BYTES):
        for stream, payload in deframer.feed(data):
            output(stream, payload)


def _attach(*, mux: bool, stdin: bool = False) -> messages.Attach:
    """One client for all streams."""
    return messages.Attach(stream_id=1, stdin=stdin, stdout=True, stderr=True, mux=mux)


@cache
def _most_processes() -> int | None:
    """Processes that a step may have: enough for any, and a fork bomb leaves the host most of its own."""
    if "pids" not in hostinfo.collect().controllers:
        return None
    most = []
    for name in ("pid_max", "threads-max"):
        with open(f"/proc/sys/kernel/{name}", encoding="ascii") as handle:
            most.append(int(handle.read()))
    return min(most) // _SHARE


def _end(found: Exit) -> StepEnd:
    return StepEnd(exit_code=found.exit_code, oom_killed=found.oom_killed)


def _with_step(spec: Spec, step: StepLike, files: StepFiles) -> Spec:
    """``spec`` with the step's own environment and mounts."""
    env = list(step.env)
    if not any(entry.startswith("PATH=") for entry in env):
        env.insert(0, _PATH)
    return msgspec.structs.replace(
        spec, process=msgspec.structs.replace(spec.process, env=env),
        mounts=[*spec.mounts, *files.mounts()])
