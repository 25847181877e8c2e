"""From a graph to layers: what is cached, what has to run, in which order.

Owns   the decision for each vertex; the work itself is done by ``ops/``.
Runs   on the loop, one task a vertex; independent ones at the same time.
Needs  every job to be ended with ``end``, however its build ends.
Spec   ``docs/dev/build.md`` "How the solver decides".
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

from pallet.build import graph
from pallet.build.cachekey import chain_key, combine, in_order, output_key, uses
from pallet.build.cachestore import CacheRecord
from pallet.build.errors import BuildError
from pallet.build.job import Solved
from pallet.build.ops.selection import SourceError
from pallet.build.sharing import Executions
from pallet.errors import PalletError, UnavailableError
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pallet.build.cachestore import CacheStore, Records
    from pallet.build.graph import Vertex
    from pallet.build.job import Job
    from pallet.build.ops.contents import Contents
    from pallet.build.ops.emulation import ForeignPerformer
    from pallet.build.ops.perform import Outputs
    from pallet.build.ops.sources import Sources
    from pallet.build.remotecache.importer import CacheImporter

logger = logging.getLogger(__name__)

_CLOSED = "the daemon is shutting down"
_STEPS_A_CPU = 2
"""Steps mostly wait for disks and networks."""
_LAYER_OPS = (graph.RunOp, graph.FileOp)
_KEYED = (*_LAYER_OPS, graph.MergeOp, graph.DiffOp)
"""What has a definition: sources are what they hold."""


class Solver:
    """Solves graphs. One per daemon."""

    def __init__(self, *, cache: CacheStore, sources: Sources, contents: Contents, performer: ForeignPerformer,
                 importer: CacheImporter) -> None:
        self.cache = cache
        self._sources = sources
        self._contents = contents
        self._performer = performer
        self._importer = importer
        self._executions: Executions[Records] = Executions()
        self._ending: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_STEPS_A_CPU * (os.cpu_count() or 1))
        self._closed = False

    async def solve(self, targets: Sequence[Vertex], job: Job) -> list[Solved]:
        """Solve vertices with all that they need; results of others that were found are in ``job.results``.

        Raises:
            BuildError: a vertex failed; the others have been stopped.
            PalletError: a source cannot be had.
        """
        order = in_order(targets)
        for vertex in order:
            if job.shown(vertex) not in job.told:
                job.tell(vertex)
        run = _Run(self, job)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(run.result(target)) for target in dict.fromkeys(targets)]
        except BaseExceptionGroup as problems:
            raise _first(problems) from None
        finally:
            await run.stop()
        found = dict(zip(dict.fromkeys(targets), (task.result() for task in tasks), strict=True))
        run.fill_in(order)
        return [found[target] for target in targets]

    async def close(self) -> None:
        """End every step, and carry none out any more: builds fail. Idempotent."""
        self._closed = True
        await self._executions.close(UnavailableError(_CLOSED))
        if self._ending:
            await asyncio.wait(self._ending)

    async def end(self, job: Job, afterwards: Callable[[], Awaitable[object]] | None = None) -> None:
        """Let go of everything a job holds; its results are safe only while something else keeps them.

        Work that it has begun and that others wait for goes on with what the job has: that is let go
        of when the work has ended.

        Args:
            afterwards: what is to be done once nothing is held, in the background.
        """
        later = any(not execution.done for execution in job.begun)
        if not later:
            await self._end(job)
        if later or afterwards is not None:
            task = asyncio.get_running_loop().create_task(self._end_later(job, afterwards, held=later))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end_later(self, job: Job, afterwards: Callable[[], Awaitable[object]] | None, *, held: bool) -> None:
        if held:
            for execution in job.begun:
                await execution.wait()
            await self._end(job)
        if afterwards is not None:
            try:
                await afterwards()
            except PalletError as error:
                logger.warning("what a build has left could not be collected: %s", error)

    async def _end(self, job: Job) -> None:
        for record_id in job.held:
            self.cache.release(record_id)
        job.held.clear()
        trees, job.trees = list(job.trees.values()), {}
        for task in trees:
            task.cancel()
        if trees:
            await asyncio.wait(trees)
        for task in trees:
            if not task.cancelled() and task.exception() is None:
                await job.client.release(task.result())
        job.lease.end()
        try:
            self.cache.flush()
        except PalletError as error:  # a full disk: all that is lost is when records were used
            logger.warning("uses of the build cache were not noted: %s", error)

    # -- what ``_Run`` needs -----------------------------------------------------------------------

    async def source(self, vertex: Vertex, job: Job) -> Solved:
        """Bring a source here."""
        return await self._sources.bring(vertex, job)

    async def content(self, solved: Solved, use: object, job: Job) -> str:
        """What an input holds where an operation looks."""
        return await self._contents.digest(solved, use, job)  # type: ignore[arg-type]

    def hit(self, keys: Sequence[str], job: Job) -> CacheRecord | None:
        """Record of the first key that leads to one, held for the job."""
        for key in keys:
            record = self.cache.find(key)
            if record is None:
                continue
            self.hold(record, job)
            # Between the look and the lease a collection may have come: look again.
            if self.cache.find(key) is record:
                self.cache.link(record, keys)
                self.cache.touch(record)
                return self.cache.get(record.id)
        return None

    async def imported(self, vertex: Vertex, keys: Sequence[str], job: Job) -> CacheRecord | None:
        """What a cache elsewhere has for one of the keys, brought here; held for the job."""
        for cache in job.caches:
            for key in keys:
                entry = cache.find(key)
                if entry is None:
                    continue
                try:
                    size = await self._importer.bring(cache, entry, job)
                except PalletError as error:
                    logger.warning("a build cache failed, the step runs instead: %s", error)
                    continue
                if size is not None:
                    record = self.cache.put(CacheRecord(
                        id="", description=entry.description or vertex.name, layers=entry.layers,
                        own=min(1, len(entry.layers)), size_bytes=size), keys)
                    self.hold(record, job)
                    return record
        return None

    def hold(self, record: CacheRecord, job: Job) -> None:
        """Keep a record's layers for a job."""
        self.cache.hold(record.id)
        job.held.append(record.id)
        job.lease.add_layers(DiffID(layer) for layer in record.layers)

    async def perform(self, vertex: Vertex, inputs: Sequence[Solved], job: Job, keys: Sequence[str]) -> CacheRecord:
        """Carry an operation out, once for all who want it now, and record what it made.

        Args:
            keys: of the whole command, whichever of its outputs the vertex is.
        """
        if self._closed:
            raise UnavailableError(_CLOSED)
        # A build that wants its failed steps kept has them to itself: it ends them.
        alone = vertex.ignore_cache or job.debug
        shared = f"{keys[0]}:{id(job)}:{job.shown(vertex)}" if alone else keys[0]

        async def work(output: Callable[[int, bytes], None]) -> Records:
            async with self._slots:
                made = await self._performer.perform(vertex, inputs, job, output)
            return self._record(vertex, inputs, made, keys)

        records = job.ran.get(shared)
        if records is None:
            records = await self._executions.run(
                shared, work, lambda stream, data: job.log(vertex, stream, data), job.begun)
            if alone:
                job.ran[shared] = records
        for record in records.values():
            self.hold(record, job)
        return records[output_of(vertex)]

    def _record(self, vertex: Vertex, inputs: Sequence[Solved], made: Outputs, keys: Sequence[str]) -> Records:
        return {output: self.cache.put(CacheRecord(
            id="", description=vertex.name, layers=(*one.base, one.diff_id), own=1, size_bytes=one.size_bytes,
            parents=tuple(solved.record for solved in inputs if solved.record)),
            [output_key(key, output) for key in keys]) for output, one in made.items()}


class _Run:
    """One job's walk over its graph."""

    def __init__(self, solver: Solver, job: Job) -> None:
        self._solver = solver
        self._job = job
        self._tasks: dict[str, asyncio.Task[Solved]] = {}
        self._definitions: dict[Vertex, str] = {}
        self._failures: dict[Vertex, BuildError] = {}

    async def stop(self) -> None:
        """End what is under way."""
        tasks = [task for task in self._tasks.values() if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in self._tasks.values():
            if not task.cancelled():
                task.exception()

    async def result(self, vertex: Vertex) -> Solved:
        """Result of a vertex; equal vertices are one."""
        solved = await asyncio.shield(self._task(vertex))
        self._job.results[vertex] = solved
        return solved

    def _task(self, vertex: Vertex) -> asyncio.Task[Solved]:
        """What solves a vertex, begun if need be."""
        digest = self._job.digest(vertex)
        task = self._tasks.get(digest)
        if task is None:
            task = self._tasks[digest] = asyncio.get_running_loop().create_task(self._solve(vertex))
        return task

    async def _solve(self, vertex: Vertex) -> Solved:
        try:
            return await self._decide(vertex)
        except BuildError:
            raise
        except (PalletError, OSError) as error:
            raise self._failed(vertex, error) from error

    def _failed(self, vertex: Vertex, error: PalletError | OSError) -> BuildError:
        """Tell once that a vertex cannot be, whoever asked for it."""
        if vertex not in self._failures:
            text, prefix = str(error), ""
            if isinstance(error, SourceError):
                text = f"failed to calculate checksum of ref {_ref(self._job, vertex)}: {error}"
                prefix = "failed to compute cache key: "
            now = time.time_ns()
            self._job.tell(vertex, started_ns=now, completed_ns=now, error=text)
            self._failures[vertex] = BuildError(prefix + text, vertex=vertex, digest=self._job.digest(vertex))
        return self._failures[vertex]

    async def _decide(self, vertex: Vertex) -> Solved:
        op = vertex.op
        if isinstance(op, graph.ScratchOp):
            return self._cached(vertex, Solved(cached=True))
        if isinstance(op, graph.MergeOp):
            return await self._merge(vertex)
        if isinstance(op, graph.DiffOp):
            return await self._diff(vertex)
        if not isinstance(op, _LAYER_OPS):
            return await self._source(vertex)
        definition = "" if _uncached(vertex) else await self._definition(vertex)
        output = output_of(vertex)
        record = await self._look([output_key(definition, output)], vertex) if definition else None
        if record is not None:
            return self._from(vertex, record)
        inputs = await self._inputs(vertex)
        content = await self._content_key(vertex, inputs)
        keys = [content, definition] if definition else [content]
        if not vertex.ignore_cache:
            record = await self._look([output_key(key, output) for key in keys], vertex)
        if record is not None:
            return self._from(vertex, record)
        return await self._perform(vertex, inputs, keys)

    async def _look(self, keys: Sequence[str], vertex: Vertex) -> CacheRecord | None:
        return self._solver.hit(keys, self._job) or await self._solver.imported(vertex, keys, self._job)

    async def _perform(self, vertex: Vertex, inputs: Sequence[Solved], keys: Sequence[str]) -> Solved:
        job, started = self._job, time.time_ns()
        job.tell(vertex, started_ns=started)
        try:
            record = await self._solver.perform(vertex, inputs, job, keys)
        except asyncio.CancelledError:
            job.tell(vertex, started_ns=started, completed_ns=time.time_ns(), error="context canceled")
            raise
        except (PalletError, OSError) as error:
            job.tell(vertex, started_ns=started, completed_ns=time.time_ns(), error=str(error))
            if isinstance(error, BuildError):
                raise
            raise BuildError(str(error), vertex=vertex, digest=job.digest(vertex)) from error
        job.tell(vertex, started_ns=started, completed_ns=time.time_ns())
        job.told.add(job.shown(vertex))
        return _solved(record, cached=False)

    async def _source(self, vertex: Vertex) -> Solved:
        job, started = self._job, time.time_ns()
        if not isinstance(vertex.op, graph.ImageSource):
            job.tell(vertex, started_ns=started)
        try:
            solved = await self._solver.source(vertex, job)
        except (PalletError, OSError) as error:
            job.tell(vertex, started_ns=started, completed_ns=time.time_ns(), error=str(error))
            raise BuildError(str(error), vertex=vertex, digest=job.digest(vertex)) from error
        if solved.cached:
            return self._cached(vertex, solved)
        job.told.add(job.shown(vertex))
        job.tell(vertex, started_ns=started, completed_ns=time.time_ns())
        return solved

    async def _merge(self, vertex: Vertex) -> Solved:
        inputs = await self._inputs(vertex)
        layers = tuple(layer for solved in inputs for layer in solved.layers)
        created = max((solved.created_ns for solved in inputs), default=0)
        return Solved(layers=layers, created_ns=created, cached=True)  # nothing is done: nobody sees it

    async def _diff(self, vertex: Vertex) -> Solved:
        inputs = await self._inputs(vertex)
        lower, upper = inputs
        if upper.layers[:len(lower.layers)] == lower.layers:
            layers = upper.layers[len(lower.layers):]
            return self._cached(vertex, Solved(layers=layers, created_ns=upper.created_ns, cached=True))
        keys = [combine("diff", [chain_key(lower.layers), chain_key(upper.layers)])]
        record = await self._look(keys, vertex)
        return self._from(vertex, record) if record is not None else await self._perform(vertex, inputs, keys)

    async def _inputs(self, vertex: Vertex) -> list[Solved]:
        return list(await asyncio.gather(*(self.result(below) for below in vertex.inputs)))

    def _from(self, vertex: Vertex, record: CacheRecord) -> Solved:
        return self._cached(vertex, _solved(record, cached=True))

    def _cached(self, vertex: Vertex, solved: Solved) -> Solved:
        # What it stands on comes first, as in the Dockerfile, but for what is under way by itself.
        for below in in_order([vertex]):
            if below is vertex or self._job.digest(below) not in self._tasks:
                self._tell_cached(below)
        return solved

    def _tell_cached(self, vertex: Vertex) -> None:
        shown = self._job.shown(vertex)
        if shown in self._job.told or isinstance(vertex.op, graph.MergeOp):
            return
        now = time.time_ns()
        self._job.told.add(shown)
        self._job.tell(vertex, started_ns=now, completed_ns=now, cached=True)

    # Keys

    async def _definition(self, vertex: Vertex) -> str:
        """Key of what a vertex is defined as. Sources are brought here for it, all at the same time."""
        found = self._definitions.get(vertex)
        if found is not None:
            return found
        order = in_order([vertex])
        for one in order:
            if not isinstance(one.op, _KEYED):
                self._task(one)
        for one in order:
            if one not in self._definitions and isinstance(one.op, _KEYED):
                try:
                    self._definitions[one] = await self._make_definition(one)
                except BuildError:
                    raise
                except (PalletError, OSError) as error:  # its fault, not that of who asks for it
                    raise self._failed(one, error) from error
        return self._definitions[vertex]

    async def _make_definition(self, vertex: Vertex) -> str:
        """The same with those of its inputs known."""
        parts = [self._job.names.op(vertex)]
        for use in uses(vertex.op, len(vertex.inputs)):
            below = vertex.inputs[use.input]
            key = self._definitions.get(below)
            key = (await self._taken(below, await self.result(below), use) if key is None
                   else output_key(key, output_of(below)))
            parts.append(f"{use.input}:{key}")
        return combine("definition", parts)

    async def _content_key(self, vertex: Vertex, inputs: Sequence[Solved]) -> str:
        parts = [self._job.names.op(vertex)]
        parts += [f"{use.input}:{await self._taken(vertex.inputs[use.input], inputs[use.input], use)}"
                  for use in uses(vertex.op, len(vertex.inputs))]
        return combine("content", parts)

    async def _taken(self, below: Vertex, solved: Solved, use: object) -> str:
        """What an operation takes of an input. For an image as it is, BuildKit calculates nothing: its words differ."""
        try:
            return await self._part(solved, use)
        except SourceError as error:
            if isinstance(below.op, graph.ImageSource):
                raise error.plain() from error
            raise

    async def _part(self, solved: Solved, use: object) -> str:
        if getattr(use, "selection", None) is None and solved.tree is None:
            return chain_key(solved.layers)
        return await self._solver.content(solved, use, self._job)

    # What a cached vertex made needless

    def fill_in(self, order: Sequence[Vertex]) -> None:
        """Find results for what nobody had to ask for: their layers are parts of what is known."""
        job = self._job
        for vertex in reversed(order):
            solved = job.results.get(vertex)
            base = vertex.inputs[0] if vertex.inputs else None
            if solved is None or base is None or base in job.results:
                continue
            on_base = (isinstance(vertex.op, graph.RunOp) and vertex.op.output is None) or (
                isinstance(vertex.op, graph.FileOp) and vertex.op.has_base)
            if on_base:
                job.results[base] = self._below(solved)
        for vertex in order:
            self._tell_cached(vertex)

    def _below(self, solved: Solved) -> Solved:
        record = self._solver.cache.get(solved.record)
        layers = solved.layers[:-1]
        for parent in record.parents if record is not None else ():
            found = self._solver.cache.get(parent)
            if found is not None and tuple(found.layers) == layers:
                return _solved(found, cached=True)
        return Solved(layers=layers, created_ns=solved.created_ns, cached=True)


def _solved(record: CacheRecord, *, cached: bool) -> Solved:
    return Solved(layers=tuple(DiffID(layer) for layer in record.layers), created_ns=record.created_ns,
                  cached=cached, record=record.id)


def output_of(vertex: Vertex) -> int | None:
    """Which output of its command a vertex is."""
    return vertex.op.output if isinstance(vertex.op, graph.RunOp) else None


def _uncached(vertex: Vertex) -> bool:
    """Whether it or something below is to be made anew: then only contents can say what is the same."""
    return any(below.ignore_cache for below in in_order([vertex]))


def _ref(job: Job, vertex: Vertex) -> str:
    name = job.digest(vertex).partition(":")[2][:25]
    return f"{name}::{name}"


def _first(problems: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first; failures that the end of the others caused come last."""
    found: list[BaseException] = []
    pending: list[BaseException] = [problems]
    while pending:
        problem = pending.pop(0)
        if isinstance(problem, BaseExceptionGroup):
            pending += problem.exceptions
        else:
            found.append(problem)
    return next((one for one in found if isinstance(one, BuildError)), found[0])
