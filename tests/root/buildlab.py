"""A daemon in this process, without doors, for tests of the solver: graphs in, layers out."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pallet.build import graph
from pallet.build.job import Job
from pallet.build.ports import ContextTree, FrontendOptions
from pallet.build.progress import Event, LogEvent, VertexEvent
from pallet.config import BridgeConfig, Config
from pallet.daemon.app import Daemon
from pallet.image.importer import Importer
from pallet.spec import platform as platforms
from pallet.spec.reference import parse_normalized
from tests.support.scratch import busybox_tar
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from pallet.build.job import Solved
    from pallet.build.ports import AgentDialer
    from pallet.build.progress import Watch
    from pallet.image.model import Image
    from pallet.types import Digest

T = TypeVar("T")

SHELL = ("/bin/sh", "-c")
_PATIENCE_S = 20.0


@dataclass
class Client:
    """A client whose context is a directory of this host."""

    root: str = ""
    secrets: dict[str, bytes] = field(default_factory=dict)
    agent: AgentDialer | None = None
    held: int = 0

    shared_key = ""

    async def tree(self, source: graph.LocalSource, watch: Watch, vertex: Digest) -> ContextTree:
        self.held += 1
        return ContextTree(root=self.root)

    async def release(self, tree: ContextTree) -> None:
        self.held -= 1

    async def secret(self, secret_id: str) -> bytes | None:
        return self.secrets.get(secret_id)

    async def ssh_agent(self, agent_id: str) -> AgentDialer | None:
        return self.agent

    async def credentials(self, host: str) -> tuple[str, str] | None:
        return None


class Told:
    """What a build told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def output(self, stream: int = 1) -> bytes:
        """Everything that commands wrote."""
        return b"".join(event.data for event in self.events
                        if isinstance(event, LogEvent) and event.stream == stream)

    def cached(self) -> list[str]:
        """Names of the vertices that were cached."""
        return [event.name for event in self.events if isinstance(event, VertexEvent) and event.cached]

    def ran(self) -> list[str]:
        """Names of the vertices that were carried out."""
        return [event.name for event in self.events
                if isinstance(event, VertexEvent) and event.completed_ns and not event.cached and not event.error]


class BuildLab:
    """One daemon with a busybox image."""

    def __init__(self, daemon: Daemon, base: Image) -> None:
        self.daemon = daemon
        self.solver = daemon.solving.solver
        self.base = base
        self.told = Told()
        self.client = Client()
        self._begun: dict[int, list[asyncio.Task[Any]]] = {}

    def image(self) -> graph.Vertex:
        """The vertex of the base image."""
        op = graph.ImageSource(reference="busybox:latest", digest=self.daemon.images.manifest(self.base.id)[0],
                               platform=platforms.host())
        return graph.Vertex(op=op, name="FROM busybox")

    @asynccontextmanager
    async def job(self, client: Client | None = None, **options: Any) -> AsyncIterator[Job]:
        """A build's job, ended with the block; ``afterwards`` is what ``Solver.end`` does then."""
        debug, afterwards = options.pop("debug", False), options.pop("afterwards", None)
        self.told = Told()
        job = Job(client=client or self.client, watch=self.told,  # type: ignore[arg-type]
                  options=FrontendOptions(**options), lease=self.daemon.images.lease(), debug=debug)
        try:
            yield job
        finally:
            await self._end(id(job))
            await self.solver.end(job, afterwards)

    def begin(self, targets: Sequence[graph.Vertex], job: Job) -> asyncio.Task[list[Solved]]:
        """Solve in the background; what is still under way at the job's end, also of a failed test, is cancelled."""
        task = asyncio.get_running_loop().create_task(self.solver.solve(targets, job))
        self._begun.setdefault(id(job), []).append(task)
        return task

    def beside(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something else in the background; ``end`` cancels it."""
        task = asyncio.get_running_loop().create_task(work)
        self._begun.setdefault(0, []).append(task)
        return task

    async def end(self) -> None:
        """Cancel what has not been waited for."""
        for key in list(self._begun):
            await self._end(key)

    async def _end(self, key: int) -> None:
        tasks = self._begun.pop(key, [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def until(self, condition: Callable[[], T]) -> T:
        """Wait for the first truthy result; a background task that fails meanwhile fails the test."""
        async with asyncio.timeout(_PATIENCE_S * PATIENCE):
            while not (found := condition()):
                for task in [task for tasks in self._begun.values() for task in tasks if task.done()]:
                    if not task.cancelled() and (error := task.exception()) is not None:
                        raise error
                await asyncio.sleep(0.01)
        return found

    async def solve(self, *targets: graph.Vertex, **options: Any) -> list[Solved]:
        """Solve in a job of its own."""
        async with self.job(**options) as job:
            return await self.solver.solve(targets, job)

    def view(self, layers: Sequence[str]) -> dict[str, os.stat_result]:
        """Every path of a stack of layers with its status, found layer by layer."""
        found: dict[str, os.stat_result] = {}
        for root in self.trees(layers):
            for where, directories, files in os.walk(root):
                for name in (*directories, *files):
                    path = os.path.join(where, name)
                    found[os.path.relpath(path, root)] = os.lstat(path)
        return found

    def trees(self, layers: Sequence[str]) -> list[Path]:
        """Directories of layers, base first."""
        snapshotter = self.daemon.snapshotter
        return [Path(snapshotter.root_mount_of_layers([layer]).base_dir,  # type: ignore[list-item]
                     snapshotter.root_mount_of_layers([layer]).lower[0]) for layer in layers]  # type: ignore[list-item]

    def read(self, layers: Sequence[str], path: str) -> bytes:
        """A file in the topmost layer that has it."""
        for root in reversed(self.trees(layers)):
            if os.path.lexists(root / path):
                return (root / path).read_bytes()
        raise FileNotFoundError(path)

    def leftovers(self) -> list[str]:
        """Snapshots, shims and files of steps that should be gone."""
        return [*self.daemon.snapshotter.keys(), *os.listdir(self.daemon.run.shims),
                *os.listdir(self.daemon.data.drafts)]


@asynccontextmanager
async def build_lab(tmp_path: Path, *, import_base: bool = True, **config: Any) -> AsyncIterator[BuildLab]:
    """Start a daemon without network, import busybox (or anything, for the base), stop it all at the end."""
    run = Path(tempfile.mkdtemp(prefix="t-build-", dir="/dev/shm"))
    daemon = Daemon(Config(data_root=tmp_path / "data", exec_root=run, bridge=BridgeConfig(name="none"),
                           cgroup_parent=f"/t-build-{os.getpid()}", **config))
    try:
        await daemon.start()
        try:
            importer = Importer(daemon.images, daemon.supervisor)

            async def source() -> AsyncIterator[bytes]:
                yield busybox_tar() if import_base else bytes(1024)

            image = await importer.run(source(), reference=parse_normalized("busybox:latest"))
            lab = BuildLab(daemon, image)
            try:
                yield lab
            finally:
                await lab.end()
        finally:
            await daemon.close()
    finally:
        shutil.rmtree(run, ignore_errors=True)


def run(base: graph.Vertex, command: str, *, name: str = "", mounts: Sequence[graph.RunMount] = (),
        inputs: Sequence[graph.Vertex] = (), ignore_cache: bool = False, **more: Any) -> graph.Vertex:
    """A RUN with a shell."""
    return graph.Vertex(op=graph.RunOp(args=(*SHELL, command), mounts=tuple(mounts), **more),
                        inputs=(base, *inputs), name=name or f"RUN {command}", platform=platforms.host(),
                        ignore_cache=ignore_cache)


def copy(base: graph.Vertex, source: graph.Vertex, *paths: str, dest: str, name: str = "",
         ignore_cache: bool = False, **more: Any) -> graph.Vertex:
    """A COPY."""
    action = graph.CopyAction(input=1, paths=paths, dest=dest, **more)
    return graph.Vertex(op=graph.FileOp(actions=(action,)), inputs=(base, source),
                        name=name or f"COPY {' '.join(paths)} {dest}", ignore_cache=ignore_cache)


def context() -> graph.Vertex:
    """The build context."""
    return graph.Vertex(op=graph.LocalSource(name="context"), name="[internal] load build context")
