"""Backends in memory: enough behaviour to test the API's side of the seam, none of an engine."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from pallet import errors
from pallet.api.backends import Backends
from pallet.http.streams import STDOUT, frame
from pallet.spec.engine.api_version import API_VERSION, MIN_API_VERSION
from pallet.spec.engine.config import ContainerConfig
from pallet.spec.engine.container import (
    ContainerCreateResponse,
    ContainerInspect,
    ContainerState,
    ContainerSummary,
    ContainerWaitResponse,
    DriverData,
    SummaryNetworks,
)
from pallet.spec.engine.event import EventActor, EventMessage
from pallet.spec.engine.exec import ExecInspect, ExecProcess
from pallet.spec.engine.host_config import HostConfig
from pallet.spec.engine.image import ImageDeleteItem, ImageInspect, ImageRootFS, ImageSummary
from pallet.spec.engine.network import NetworkSettings
from pallet.spec.engine.options import LogStream
from pallet.spec.engine.progress import ProgressDetail, ProgressMessage
from pallet.spec.engine.system import (
    ComponentVersion,
    PlatformName,
    PluginsInfo,
    SystemInfo,
    SystemVersion,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ID = "4e227761275d9e85698fe3bf1e5c2a1e05d0b0f6d73797208f323545451c2ac8"


class Feed:
    """A ``Stream`` fed by the test; remembers that it was closed."""

    def __init__(self, *items: Any, ends: bool = True) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        for item in items:
            self.queue.put_nowait(item)
        if ends:
            self.queue.put_nowait(StopAsyncIteration)
        self.closed = asyncio.Event()

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> Any:
        item = await self.queue.get()
        if item is StopAsyncIteration:
            raise StopAsyncIteration
        if isinstance(item, Exception):
            raise item
        return item

    async def aclose(self) -> None:
        self.closed.set()


class FakeWait:
    """A registered wait."""

    def __init__(self) -> None:
        self.future: asyncio.Future[ContainerWaitResponse] = (
            asyncio.get_running_loop().create_future())
        self.closed = False

    async def result(self) -> ContainerWaitResponse:
        return await self.future

    def close(self) -> None:
        self.closed = True


async def echo(sock: socket.socket, *, multiplexed: bool) -> None:
    """Play the container: write back what comes in capitals, and the total at the end of input."""
    loop = asyncio.get_running_loop()
    total = 0
    try:
        while data := await loop.sock_recv(sock, 65536):
            total += len(data)
            out = data.upper()
            await loop.sock_sendall(sock, frame(STDOUT, out) if multiplexed else out)
        out = b"[%d]" % total
        await loop.sock_sendall(sock, frame(STDOUT, out) if multiplexed else out)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    finally:
        sock.close()


class FakeContainers:
    """One container called ``c1``; records calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.tty = False
        self.waits: list[FakeWait] = []
        self.feed = Feed()
        self.error: Exception | None = None
        self.sessions: set[asyncio.Task[None]] = set()
        self.gate: asyncio.Event | None = None

    def _find(self, name: str) -> None:
        if name not in ("c1", "/c1", ID, ID[:12]):
            msg = f"No such container: {name}"
            raise errors.NotFoundError(msg)

    async def _call(self, verb: str, name: str, **details: Any) -> None:
        self._find(name)
        self.calls.append((verb, details))
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error

    async def create(self, options: Any) -> ContainerCreateResponse:
        self.calls.append(("create", options))
        if options.config.image != "busybox":
            msg = f"No such image: {options.config.image}:latest"
            raise errors.NotFoundError(msg)
        return ContainerCreateResponse(id=ID)

    async def list(self, options: Any) -> list[ContainerSummary]:
        self.calls.append(("list", options))
        return [ContainerSummary(
            id=ID, names=["/c1"], image="busybox", image_id="sha256:0", command="sh",
            created=1795504837, state="running", status="Up 3 seconds",
            network_settings=SummaryNetworks())]

    async def inspect(self, name_or_id: str, *, size: bool) -> ContainerInspect:
        await self._call("inspect", name_or_id, size=size)
        return ContainerInspect(
            id=ID, created="2026-11-24T07:20:37.349960852Z", path="sh", args=[],
            state=ContainerState(status="created"), image="sha256:0", name="/c1",
            driver="overlay2", host_config=HostConfig(), graph_driver=DriverData(),
            config=ContainerConfig(), network_settings=NetworkSettings())

    async def start(self, name_or_id: str) -> None:
        await self._call("start", name_or_id)

    async def stop(self, name_or_id: str, **details: Any) -> None:
        await self._call("stop", name_or_id, **details)

    async def restart(self, name_or_id: str, **details: Any) -> None:
        await self._call("restart", name_or_id, **details)

    async def kill(self, name_or_id: str, **details: Any) -> None:
        await self._call("kill", name_or_id, **details)

    async def rename(self, name_or_id: str, **details: Any) -> None:
        await self._call("rename", name_or_id, **details)

    async def remove(self, name_or_id: str, **details: Any) -> None:
        await self._call("remove", name_or_id, **details)

    async def resize(self, name_or_id: str, **details: Any) -> None:
        await self._call("resize", name_or_id, **details)

    async def subscribe_wait(self, name_or_id: str, *, condition: str) -> FakeWait:
        await self._call("wait", name_or_id, condition=condition)
        self.waits.append(FakeWait())
        return self.waits[-1]

    async def attach(self, name_or_id: str, options: Any, open_stream: Any) -> None:
        await self._call("attach", name_or_id, options=options)
        sock = await open_stream(multiplexed=not self.tty)
        session = asyncio.get_running_loop().create_task(echo(sock, multiplexed=not self.tty))
        self.sessions.add(session)

    async def logs(self, name_or_id: str, options: Any) -> LogStream:
        await self._call("logs", name_or_id, options=options)
        return LogStream(tty=self.tty, chunks=self.feed)


class FakeExecs:
    """One exec called ``e1``."""

    def __init__(self, containers: FakeContainers) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._containers = containers

    def _find(self, exec_id: str) -> None:
        if exec_id != "e1":
            msg = f"No such exec instance: {exec_id}"
            raise errors.NotFoundError(msg)

    async def create(self, name_or_id: str, config: Any) -> str:
        self._containers._find(name_or_id)
        self.calls.append(("create", config))
        return "e1"

    async def start(self, exec_id: str, options: Any, open_stream: Any) -> None:
        self._find(exec_id)
        self.calls.append(("start", options))
        if open_stream is not None:
            sock = await open_stream(multiplexed=not options.tty)
            self._containers.sessions.add(asyncio.get_running_loop().create_task(
                echo(sock, multiplexed=not options.tty)))

    async def inspect(self, exec_id: str) -> ExecInspect:
        self._find(exec_id)
        return ExecInspect(
            id="e1", running=True, exit_code=None, open_stdin=False, open_stderr=True,
            open_stdout=True, can_remove=False, container_id=ID, pid=7,
            process_config=ExecProcess(tty=False, entrypoint="sh", arguments=[]))

    async def resize(self, exec_id: str, **details: Any) -> None:
        self._find(exec_id)
        self.calls.append(("resize", details))


class FakeImages:
    """One image; pulls follow a script of messages and errors."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.script: list[Any] = [
            ProgressMessage(status="Pulling from library/busybox", id="latest"),
            ProgressMessage(status="Downloading", id="aa", progress_detail=ProgressDetail(
                current=1, total=2)),
            ProgressMessage(status="Pull complete", id="aa", progress_detail=ProgressDetail()),
        ]
        self.cancelled = asyncio.Event()

    async def pull(self, options: Any, progress: Callable[[ProgressMessage], None]) -> None:
        self.calls.append(("pull", options))
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    progress(step)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    push = pull

    async def list(self, options: Any) -> list[ImageSummary]:
        self.calls.append(("list", options))
        return [ImageSummary(created=1, id="sha256:0", size=5)]

    async def inspect(
        self, name: str, *, platform: str, manifests: bool = False
    ) -> ImageInspect:
        if name not in ("busybox", "library/busybox"):
            msg = f"No such image: {name}:latest"
            raise errors.NotFoundError(msg)
        return ImageInspect(
            id="sha256:0", config=None, architecture="amd64", os="linux", size=5,
            graph_driver=DriverData(), root_fs=ImageRootFS())

    async def history(self, name: str, *, platform: str) -> list[Any]:
        return []

    async def tag(self, name: str, **details: Any) -> None:
        self.calls.append(("tag", (name, details)))

    async def remove(self, name: str, **details: Any) -> list[ImageDeleteItem]:
        self.calls.append(("remove", (name, details)))
        return [ImageDeleteItem(untagged="busybox:latest"), ImageDeleteItem(deleted="sha256:0")]


class FakeArchives:
    """Counts what is uploaded."""

    def __init__(self) -> None:
        self.received = 0
        self.gate: asyncio.Event | None = None

    async def load(self, source: AsyncIterator[bytes], *, quiet: bool, platforms: Any,
                   progress: Any) -> None:
        if self.gate:
            await self.gate.wait()
        async for chunk in source:
            self.received += len(chunk)
        progress(ProgressMessage(stream=f"Loaded {self.received}\n"))

    async def save(self, names: Any, *, platforms: Any) -> Feed:
        return Feed(b"tar:", ",".join(names).encode())

    async def import_tree(self, source: AsyncIterator[bytes], *, progress: Any,
                          **details: Any) -> None:
        async for chunk in source:
            self.received += len(chunk)
        progress(ProgressMessage(status="sha256:1"))


class FakeNetworks:
    """No networks."""

    async def list(self, filters: Any) -> list[Any]:
        return []

    async def inspect(self, name_or_id: str, *, verbose: bool, scope: str) -> Any:
        msg = f"network {name_or_id} not found"
        raise errors.NotFoundError(msg)


class FakeVolumes:
    """No volumes."""

    async def list(self, filters: Any) -> Any:
        from pallet.spec.engine.volume import VolumeList

        return VolumeList()

    async def inspect(self, name: str) -> Any:
        msg = f"get {name}: no such volume"
        raise errors.NotFoundError(msg)

    async def create(self, request: Any) -> Any:
        from pallet.spec.engine.volume import Volume

        return Volume(name=request.name or "n" * 64, mountpoint="/v")

    async def remove(self, name: str, *, force: bool) -> None:
        if not force:
            await self.inspect(name)

    async def prune(self, filters: Any, *, all_unused: bool) -> Any:
        from pallet.spec.engine.volume import VolumePruneResponse

        return VolumePruneResponse(volumes_deleted=["all"] if all_unused else [])


class FakeSystem:
    """A daemon that does nothing."""

    def __init__(self) -> None:
        self.feed = Feed()
        self.calls: list[tuple[str, Any]] = []

    async def version(self) -> SystemVersion:
        return SystemVersion(
            platform=PlatformName(name="Pallet"), version="0.1.0", api_version=API_VERSION, arch="amd64",
            min_api_version=MIN_API_VERSION, kernel_version="6.1",
            components=[ComponentVersion(name="Engine", version="0.1.0")])

    async def info(self) -> SystemInfo:
        return SystemInfo(
            id="x", containers=0, containers_running=0, containers_paused=0,
            containers_stopped=0, images=0, driver="overlay2", plugins=PluginsInfo(),
            memory_limit=True, swap_limit=True, cpu_cfs_period=True, cpu_cfs_quota=True,
            cpu_shares=True, cpu_set=True, pids_limit=True, ipv4_forwarding=True, debug=False,
            nfd=1, oom_kill_disable=True, ngoroutines=1, system_time="", logging_driver="json-file",
            cgroup_driver="cgroupfs", cgroup_version="1", nevents_listener=0, kernel_version="6.1",
            operating_system="Debian", os_version="12", architecture="x86_64",
            registry_config=None, ncpu=1, mem_total=1, docker_root_dir="/x", name="h", labels=[],
            server_version="0.1.0", runtimes={}, default_runtime="pallet",
            live_restore_enabled=True, init_binary="", security_options=[])

    async def events(self, options: Any) -> Feed:
        self.calls.append(("events", options))
        return self.feed

    async def disk_usage(self, kinds: frozenset[str]) -> Any:
        from pallet.spec.engine.system import DiskUsage

        self.calls.append(("df", kinds))
        return DiskUsage(layers_size=0, images=[], containers=[], volumes=[], build_cache=[])


def event(action: str, kind: str = "container") -> EventMessage:
    """An event of one container."""
    return EventMessage(
        type=kind, action=action, actor=EventActor(id=ID), time=1, time_nano=1_000_000_000)


class Fakes:
    """All of them, wired."""

    def __init__(self) -> None:
        self.containers = FakeContainers()
        self.execs = FakeExecs(self.containers)
        self.images = FakeImages()
        self.archives = FakeArchives()
        self.system = FakeSystem()
        self.backends = Backends(
            containers=self.containers, execs=self.execs, images=self.images,
            networks=FakeNetworks(), system=self.system, volumes=FakeVolumes(),
            archives=self.archives)
