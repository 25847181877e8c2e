"""A build while its plan is made by somebody who asks for things on the way: a front end that is an image, LLB.

Owns   what planners get (``ports.Planning``), and the step that a front end's image runs as.
Runs   on the loop. All that is solved on the way belongs to the build's one job.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.build.dockerfile.bases import layout_image
from pallet.build.errors import BuildError
from pallet.build.graph import ImageSource, Vertex
from pallet.build.ops.layers import new_key
from pallet.build.ports import FrontendOptions, ResolvedImage, Step, StepMount
from pallet.build.progress import LogEvent, VertexEvent
from pallet.build.sharing import Executions
from pallet.errors import NotFoundError
from pallet.spec import reference as references
from pallet.types import Digest

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from pallet.build.assembly import SolverParts
    from pallet.build.entries import Entry
    from pallet.build.graph import Plan
    from pallet.build.job import Job
    from pallet.build.ops.layers import Layers
    from pallet.build.ports import BuildClient, FrontEndProcess, StepEnd, StepRunner
    from pallet.build.progress import Watch
    from pallet.build.remote import RemoteContext
    from pallet.build.request import BuildRequest
    from pallet.errors import PalletError
    from pallet.spec.platform import Platform
    from pallet.types import DiffID


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What the builder does for planners."""

    dockerfile: Callable[[BuildRequest], Awaitable[Plan]]
    """Plans what a request asks of the built-in language."""
    inputs: Callable[[], Awaitable[Mapping[str, Plan]]]
    """Plans the builds that the request builds on."""
    answers: Callable[[str, BuildRequest], Awaitable[Mapping[str, bytes]]]
    """Answers a subrequest about a Dockerfile."""
    tree: Callable[[], RemoteContext]
    """Makes what looks at layers."""


class Planning:
    """``ports.Planning`` of one build."""

    def __init__(self, request: BuildRequest, job: Job, parts: SolverParts, means: Means) -> None:
        self.request = request
        self._job = job
        self._parts = parts
        self._means = means

    @property
    def client(self) -> BuildClient:
        return self._job.client

    @property
    def watch(self) -> Watch:
        return self._job.watch

    async def image(self, reference: str, platform: Platform, *, pull: bool = False) -> ResolvedImage:
        """See ``ports.Planning``."""
        parsed = references.parse_normalized(reference)
        if parsed.digest is not None and (found := self._known(parsed, platform)) is not None:
            return found
        return await self._parts.images.resolve(reference, platform, pull=pull, client=self.client, watch=self.watch)

    def _known(self, reference: references.Reference, platform: Platform) -> ResolvedImage | None:
        """An image that is here by its digest: what a planner was told of it before."""
        try:
            image = self._parts.images.find(Digest(str(reference.digest)))
        except NotFoundError:
            return None
        return ResolvedImage(reference=str(reference), digest=Digest(str(reference.digest)), config=image.config,
                             local=True) if image.config.platform.architecture == platform.architecture else None

    async def layout(self, store: str, digest: str, platform: Platform) -> ResolvedImage:
        """See ``ports.Planning``."""
        return await layout_image(self.client, store, digest, platform)

    async def inputs(self) -> Mapping[str, Plan]:
        """See ``ports.Planning``."""
        return await self._means.inputs()

    async def dockerfile(self, request: BuildRequest) -> Plan:
        """See ``ports.Planning``."""
        return await self._means.dockerfile(request)

    async def answers(self, subrequest: str, request: BuildRequest) -> Mapping[str, bytes]:
        """See ``ports.Planning``."""
        return await self._means.answers(subrequest, request)

    async def solve(self, vertices: Sequence[Vertex], sources: Mapping[str, bytes]) -> None:
        """See ``ports.Planning``."""
        try:
            await self._parts.solver.solve(vertices, self._job)
        except BuildError as error:
            error.sources = error.sources or sources
            raise

    async def read(self, vertex: Vertex, path: str, limit_bytes: int) -> bytes | None:
        """See ``ports.Planning``."""
        return await (await self._look(vertex)).read(path, limit_bytes)

    async def entries(self, vertex: Vertex, path: str) -> Sequence[Entry] | None:
        """See ``ports.Planning``."""
        return await (await self._look(vertex)).entries(path)

    async def _look(self, vertex: Vertex) -> RemoteContext:
        (solved,) = await self._parts.solver.solve([vertex], self._job)
        tree = self._means.tree()
        tree.show(solved.layers)
        return tree

    async def run(self, process: FrontEndProcess, peer: socket.socket) -> None:
        """See ``ports.Planning``."""
        image = Vertex(op=ImageSource(reference=process.image.reference, digest=process.image.digest,
                                      platform=process.platform), name=f"docker-image://{process.image.reference}")
        try:
            (solved,) = await self._parts.solver.solve([image], self._job)
            await self._parts.front_ends.run(process, solved.layers, peer, self._job)
        finally:
            peer.close()


class FrontEndRunner:
    """Runs images as front ends: steps whose files are thrown away."""

    def __init__(self, layers: Layers, runner: StepRunner) -> None:
        self._layers = layers
        self._runner = runner
        self._executions: Executions[StepEnd] = Executions()

    async def close(self, refusal: PalletError) -> None:
        """End all that run; who waits for one gets ``refusal``."""
        await self._executions.close(refusal)

    async def run(self, process: FrontEndProcess, layers: Sequence[DiffID], peer: socket.socket, job: Job) -> None:
        """Run one to its end.

        Raises:
            PalletError: it could not be started, or failed.
        """
        name = f"[internal] run front end {process.image.reference}"
        digest = Digest(f"sha256:{new_key()}")

        def output(stream: int, data: bytes) -> None:
            job.watch(LogEvent(vertex=digest, stream=stream, data=data, timestamp_ns=time.time_ns()))

        async with self._root(layers) as key, _told(job.watch, digest, name):
            step = Step(
                id=key, args=process.args, env=process.env, cwd=process.cwd, user="", network=process.network,
                insecure=False, hostname="", options=FrontendOptions(),
                mounts=tuple(StepMount(target=path, kind="file", data=data, mode=0o400)
                             for path, data in process.files.items()))
            end = await self._executions.run(key, lambda told: self._runner.converse(step, peer, told), output, [])
            if end.exit_code:
                message = f"exit code: {end.exit_code}"
                raise BuildError(message, exit_code=end.exit_code)

    @asynccontextmanager
    async def _root(self, layers: Sequence[DiffID]) -> AsyncIterator[str]:
        key, _ = await self._layers.prepare(layers)
        try:
            yield key
        finally:
            await self._layers.remove(key)


@asynccontextmanager
async def _told(watch: Watch, digest: Digest, name: str) -> AsyncIterator[None]:
    """Tell of something that runs, and how it ends."""
    started = time.time_ns()
    watch(VertexEvent(digest=digest, name=name, started_ns=started))
    problem = ""
    try:
        yield
    except BaseException as error:
        problem = str(error) if isinstance(error, Exception) else "context canceled"
        raise
    finally:
        watch(VertexEvent(digest=digest, name=name, started_ns=started, completed_ns=time.time_ns(), error=problem))
