"""The builder: one build from its request to its outputs, whoever asks.

Owns   the order of the work (Dockerfile, plan, solve, export) and the builds that run.
Runs   on the loop.
Needs  the solver's parts (``assembly.py``), the front end, the context store.
Spec   ``docs/dev/build.md``.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pallet.aio import run_blocking
from pallet.build.compose import solved_target
from pallet.build.devices import check_devices
from pallet.build.errors import BuildError, FrontEndError
from pallet.build.export import attest
from pallet.build.export.documents import read_annotations
from pallet.build.export.image import export_image
from pallet.build.export.model import ExportJob, Progress
from pallet.build.export.values import flag, names_of
from pallet.build.inputs import foreign
from pallet.build.job import Job
from pallet.build.plans import Plans
from pallet.build.progress import WarningEvent
from pallet.build.remote import RemoteContext
from pallet.build.remotecache.links import check_caches, open_caches, with_inline_cache, write_caches
from pallet.build.request import BuildResult
from pallet.errors import InvalidParameterError, NotFoundError, NotImplementedApiError, PalletError, UnavailableError
from pallet.image.lazyblobs import LazyBlobs
from pallet.layer.remove import discard
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.syntax import detect_syntax, is_builtin, syntax_line
from pallet.spec.ignore import read_patterns
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from pallet.build.assembly import SolverParts
    from pallet.build.collector import CacheCollector
    from pallet.build.context import ContextStore
    from pallet.build.export.model import Notes, Pushes, Scanned
    from pallet.build.graph import LintWarning, Plan, Target
    from pallet.build.planning import Planning
    from pallet.build.ports import BuildClient, FrontendOptions, FrontEnds, ResolvedImage, SolvedTarget
    from pallet.build.progress import Watch
    from pallet.build.request import BuildRequest, Export
    from pallet.build.scanning import Scanner
    from pallet.build.treeclient import WorkerRunner
    from pallet.image.store import ImageStore
    from pallet.spec.image import Descriptor
    from pallet.spec.platform import Platform

T = TypeVar("T")

_MAX_DOCKERFILE_BYTES = 16 << 20
_TELLING_S = 1.0
_LOG_BYTES = 2 << 20
"""Of a step's output, as BuildKit's ``BUILDKIT_STEP_LOG_MAX_SIZE``."""
_CLASSIC_LOG_BYTES = 64 << 20
"""The classic builder has no limit; what a client does not read has to be kept for it."""


class Builder:
    """Builds of one daemon."""

    def __init__(self, parts: SolverParts, *, images: ImageStore, contexts: ContextStore, workers: WorkerRunner,
                 scratch: Path, pushes: Pushes, notes: Notes, collector: CacheCollector) -> None:
        """``scratch`` is a directory that nobody else uses; what an earlier daemon left there goes in ``sweep``."""
        self.parts = parts
        self.contexts = contexts
        self._images = images
        self._workers = workers
        self._blobs = LazyBlobs(images, workers)
        self._scratch = os.fspath(scratch)
        self._pushes = pushes
        self._notes = notes
        self._collector = collector
        self._plans = Plans(parts.images)
        self.front_ends: FrontEnds | None = None
        """What plans with images; None: nothing does."""
        self._running: set[asyncio.Task[Any]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    def collect_soon(self) -> None:
        """Look whether the cache is over its limits, which may have changed since an earlier daemon's builds."""
        if not self._closed:
            self._collector.kick()

    async def end_steps(self) -> None:
        """End the steps of all builds, and give these a moment to tell their clients. No build begins any more."""
        self._closed = True
        await self.parts.solver.close()
        await self.parts.front_ends.close(UnavailableError("the daemon is shutting down"))
        if self._running:
            await asyncio.wait(self._running, timeout=_TELLING_S)

    async def close(self) -> None:
        """Cancel what still builds, and wait until it has let go of everything."""
        self._closed = True
        await self.parts.solver.close()
        for task in self._running:
            task.cancel()
        while tasks := self._running | self._ending:
            await asyncio.wait(tasks)
        await self._collector.close()

    def sweep(self) -> None:
        """Drop what an earlier daemon's builds left. At start-up only; blocking."""
        self.contexts.sweep()
        discard(self._scratch)

    async def build(self, request: BuildRequest, client: BuildClient, watch: Watch, *,
                    on_plan: Callable[[bytes, Plan], None] | None = None) -> BuildResult:
        """Plan, solve and export one build. Cancelling stops it and what runs for it.

        Args:
            on_plan: is told the Dockerfile and the plan before anything is solved.

        Raises:
            BuildError: a vertex failed.
            DockerfileError: the Dockerfile cannot be understood.
            PalletError: anything else.
        """
        if self._closed:
            message = "the daemon is shutting down"
            raise UnavailableError(message)
        _check(request)
        task = asyncio.current_task()
        assert task is not None
        if task in self._running:  # a build that another one is made from
            return await self._build(request, client, watch, on_plan)
        self._running.add(task)
        try:
            return await self._build(request, client, watch, on_plan)
        finally:
            self._running.discard(task)
            self._collector.kick()

    async def _build(self, request: BuildRequest, client: BuildClient, watch: Watch,
                     on_plan: Callable[[bytes, Plan], None] | None) -> BuildResult:
        started_ns, whole = time.time_ns(), False
        progress = Progress(watch, request.ref)
        lease = self._images.lease()
        job = Job(client=client, watch=watch, options=request.options, lease=lease, debug=request.debug,
                  log_limit_bytes=_CLASSIC_LOG_BYTES if request.classic else _LOG_BYTES)
        try:
            source, made = await self._plan(request, job, progress)
            if on_plan is not None:
                on_plan(source, made)
            added: dict[DiffID, Descriptor] = {}
            await open_caches(self.parts.importer, request, job, progress)
            scanner = await self._scanner(request, job)
            targets = await self._solve(request, made, job, added)
            result = await self._export(request, made, ExportJob(
                request=request, targets=targets, client=client, progress=progress, images=self._images,
                workers=self._workers, blobs=self._blobs, scratch=self._scratch, lease=job.lease,
                pushes=self._pushes, notes=self._notes, epoch_s=epoch_of(request), added=added,
                scanned=await self._scan(scanner, made, job)), started_ns)
            whole = True
            cached = await write_caches(self.parts.exporter, request, job, progress, targets,
                                        [target.vertex for target in made.targets])
            return replace(result, response={**result.response, **cached}) if cached else result
        finally:
            end = asyncio.get_running_loop().create_task(self._end(job, request, whole=whole))
            self._ending.add(end)
            end.add_done_callback(self._ending.discard)
            await asyncio.shield(end)

    async def _end(self, job: Job, request: BuildRequest, *, whole: bool) -> None:
        """Let go of what the build held, and of documents that outputs wrote for a client alone.

        One that was broken off may have committed what nothing names.
        """
        await self.parts.solver.end(job, None if whole else partial(run_blocking, self._images.collect))
        wrote = request.cache_imports or request.cache_exports or any(
            export.kind in {"oci", "docker"} or {"push", "rewrite-timestamp", "compression"} & export.attributes.keys()
            for export in request.exports)
        if wrote:
            await run_blocking(self._images.collect)

    async def _plan(self, request: BuildRequest, job: Job, progress: Progress) -> tuple[bytes, Plan]:
        """Read the Dockerfile and say what there is to do."""
        if request.planner is not None:
            return b"", await request.planner(self._planning(request, job, progress))
        source, exclude = await self._read(request, job, progress)
        if cmdline := self._image_of(source, request.options):
            return source, await self._plan_by_image(cmdline, source, self._planning(request, job, progress))
        warnings: Sequence[LintWarning] = ()
        try:
            made, job.names = await self._plans.plan(source, await self._with_inputs(request, job, progress),
                                                     client=job.client, watch=progress.watch, exclude=exclude)
            warnings = made.warnings
        except DockerfileError as error:
            warnings = error.warnings
            raise
        finally:
            for warning in warnings:
                progress.watch(WarningEvent(vertex=progress.definition, warning=warning))
        return source, made

    def _image_of(self, source: bytes, options: FrontendOptions) -> str:
        """The image that is the front end of a file, with its arguments; "" for the built-in one."""
        if options.ignore_syntax or options.cmdline or self.front_ends is None:
            return ""
        wanted = options.build_args.get("BUILDKIT_SYNTAX") or detect_syntax(source)
        return "" if not wanted or is_builtin(wanted) else wanted

    async def _plan_by_image(self, cmdline: str, source: bytes, planning: Planning) -> Plan:
        """Let an image plan; where it does not say what is wrong where, the line that named it is shown."""
        assert self.front_ends is not None
        options = planning.request.options
        try:
            return await self.front_ends.planner(cmdline)(planning)
        except PalletError as error:
            if _has_source(error):
                raise
            problem = error
        if options.build_args.get("BUILDKIT_SYNTAX"):
            message = f"failed with build-arg:BUILDKIT_SYNTAX = {cmdline}: {problem}"
            raise DockerfileError(message) from problem
        line = syntax_line(source)
        failure = DockerfileError(str(problem), (line, line))
        failure.filename, failure.source = options.filename, source
        raise failure from problem

    def _planning(self, request: BuildRequest, job: Job, progress: Progress) -> Planning:
        from pallet.build.planning import Means, Planning  # few builds are planned by others

        async def dockerfile(below: BuildRequest) -> Plan:
            options = replace(below.options, cmdline=below.options.cmdline or "dockerfile.v0")
            _, made = await self._plan(replace(below, options=options, planner=None), job, progress)
            return made

        async def answers(subrequest: str, below: BuildRequest) -> Mapping[str, bytes]:
            return await self._answer(subrequest, below, job, progress)

        async def inputs() -> Mapping[str, Plan]:
            return (await self._with_inputs(request, job, progress)).inputs

        return Planning(request, job, self.parts, Means(dockerfile=dockerfile, inputs=inputs, answers=answers,
                                                        tree=lambda: self._remote(request)))

    async def _with_inputs(self, request: BuildRequest, job: Job, progress: Progress) -> FrontendOptions:
        """The request's options, with the plans of the builds that it builds on."""
        if not request.inputs:
            return request.options
        inputs: dict[str, Plan] = {}
        for name, (below, client) in request.inputs.items():
            inner = replace(job, client=client, options=below.options)  # what it holds is the job's
            _, made = await self._plan(below, inner, Progress(progress.watch, f"{request.ref}/{name}"))
            inputs[name] = foreign(made, f"input:{name}")
        return replace(request.options, inputs=inputs)

    async def _solve(self, request: BuildRequest, made: Plan, job: Job,
                     added: dict[DiffID, Descriptor]) -> list[SolvedTarget]:
        await check_devices([target.vertex for target in made.targets], job, self.parts.devices)
        try:
            await self.parts.solver.solve([target.vertex for target in made.targets], job)
        except BuildError as error:
            error.sources = made.sources
            raise
        epoch_s = epoch_of(request)
        targets = [solved_target(target, job.results, epoch_s=epoch_s, classic=request.classic)
                   for target in made.targets]
        if request.classic and not request.options.labels:
            targets = [self._base_itself(solved, target) for solved, target in zip(targets, made.targets, strict=True)]
        if not request.squash:
            return with_inline_cache(self.parts.exporter, request, job, targets)
        from pallet.build.export.reshape import Reshaper  # few builds ask for it

        reshaper = Reshaper(self._images, self._workers, self._blobs, job.lease, added)
        return [await reshaper.squashed(
            solved, target.base_config.rootfs.diff_ids if target.base_config is not None else (), epoch_s)
            for solved, target in zip(targets, made.targets, strict=True)]

    def _base_itself(self, solved: SolvedTarget, target: Target) -> SolvedTarget:
        """The base's own image where nothing is done to it, as the classic builder has it."""
        base = target.base_config
        if target.steps or base is None:
            return solved
        image = next((image for image in self._images.list() if image.config == base), None)
        return replace(solved, config=image.raw_config) if image is not None else solved

    async def _scanner(self, request: BuildRequest, job: Job) -> Scanner | None:
        """The scanner that is an image, looked up before there is anything to scan."""
        fields = attest.wanted(request).get("sbom", {})
        if not fields.get("generator"):
            return None
        from pallet.build.scanning import Scanner  # few builds have one

        return await Scanner.find(fields, self.parts.images, job)

    async def _scan(self, scanner: Scanner | None, made: Plan, job: Job) -> Scanned | None:
        """Have it look at what was built."""
        if scanner is None:
            return None
        from pallet.build.scanning import scan

        return await scan(scanner, made.targets, job, self.parts.solver, self._tree)

    async def _read(self, request: BuildRequest, job: Job, progress: Progress) -> tuple[bytes, tuple[str, ...]]:
        """The Dockerfile and the patterns of the ignore file that counts."""
        options = request.options
        name = options.filename
        remote: RemoteContext | None = None
        given = await self._given(request, job, progress)

        async def read(source: str, path: str) -> bytes | None:
            if source in given:
                return await given[source].read(path, _MAX_DOCKERFILE_BYTES)
            with suppress(NotFoundError):
                found = await job.client.read_file(source, path, _MAX_DOCKERFILE_BYTES)
                if found is not None or remote is None:
                    return found
            return await remote.read(path, _MAX_DOCKERFILE_BYTES) if remote is not None else None

        with progress.vertex(f"[internal] load build definition from {name.rpartition('/')[2]}") as vertex:
            progress.definition = vertex.digest
            source = await read("dockerfile", name)
            if source is None and name.rpartition("/")[2] == "Dockerfile":
                source = await read("dockerfile", f"{name.removesuffix('Dockerfile')}dockerfile")
            vertex.transferred("transferring dockerfile:", len(source or b""))
        if options.remote_context and source is None:
            remote = self._remote(request)
            await remote.load(job, _MAX_DOCKERFILE_BYTES)
            source = await read("dockerfile", name)
        if source is None:
            message = f"failed to read dockerfile: open {name}: no such file or directory"
            raise InvalidParameterError(message)
        if not source:
            shown = f" ({name})" if request.classic else ""
            message = f"the Dockerfile{shown} cannot be empty"
            raise InvalidParameterError(message)
        with progress.vertex("[internal] load .dockerignore") as vertex:
            ignore = await read("dockerfile", f"{name}.dockerignore")
            if ignore is None:
                ignore = await read("context", ".dockerignore")
            vertex.transferred("transferring context:", len(ignore or b""))
        return source, tuple(read_patterns(ignore)) if ignore else ()

    async def _given(self, request: BuildRequest, job: Job, progress: Progress) -> dict[str, RemoteContext]:
        """Contexts that are results of other builds."""
        names = {"context", "dockerfile"} & {*request.inputs, *request.options.inputs}
        if not names:
            return {}
        inputs = (await self._with_inputs(request, job, progress)).inputs
        found: dict[str, RemoteContext] = {}
        for name in names:
            (solved,) = await self.parts.solver.solve([inputs[name].targets[0].vertex], job)
            found[name] = self._remote(request)
            found[name].show(solved.layers)
        return found

    async def _export(self, request: BuildRequest, made: Plan, job: ExportJob, started_ns: int) -> BuildResult:
        attestations = attest.wanted(request)
        mode = attestations.get("provenance", {}).get("mode", "min")
        predicates = {str(target.platform): attest.provenance(request, made, target, mode=mode, started_ns=started_ns,
                                                                scanner=job.scanned.image if job.scanned else None)
                      for target in made.targets}
        job.attestations, job.provenance = attestations, predicates
        response: dict[str, str] = {}
        for export in request.exports:
            response |= await self._exporter(export)(job, export)
        return BuildResult(image_id=job.image_id, digest=job.digest, response=response,
                           warnings=made.warnings, provenance=attest.predicates(predicates))

    def _exporter(self, export: Export) -> Callable[[ExportJob, Export], Awaitable[dict[str, str]]]:
        if export.kind == "image":
            return export_image
        if export.kind == "cacheonly":
            return _nothing
        # Their modules are needed by few builds.
        if export.kind in {"oci", "docker"}:
            from pallet.build.export.archives import export_archive

            return export_archive
        if export.kind in {"local", "tar"}:
            from pallet.build.export import trees

            return trees.export_local if export.kind == "local" else trees.export_tar
        message = f"exporter {export.kind} could not be found"
        raise NotImplementedApiError(message)

    async def describe(self, subrequest: str, request: BuildRequest, client: BuildClient,
                       watch: Watch) -> Mapping[str, bytes]:
        """Answer what a client asks of a Dockerfile: ``result.json``, ``result.txt``, ``version``.

        Raises:
            DockerfileError: the Dockerfile cannot be understood.
            NotImplementedApiError: an unknown subrequest.
        """
        progress = Progress(watch, request.ref)
        job = Job(client=client, watch=watch, options=request.options, lease=self._images.lease())
        try:
            return await self._answer(subrequest, request, job, progress)
        finally:
            await asyncio.shield(self.parts.solver.end(job))

    async def _answer(self, subrequest: str, request: BuildRequest, job: Job, progress: Progress
                      ) -> Mapping[str, bytes]:
        from pallet.build.dockerfile.subrequests import Asked  # few builds ask

        if request.planner is not None:
            return (await request.planner(self._planning(request, job, progress))).answers
        source, exclude = await self._read(request, job, progress)
        if cmdline := self._image_of(source, request.options):
            asking = replace(request, attributes={**request.attributes, "requestid": subrequest})
            return (await self._plan_by_image(cmdline, source, self._planning(asking, job, progress))).answers
        options = await self._with_inputs(request, job, progress)
        return await Asked(source, options, resolver=self.parts.images, client=job.client, watch=job.watch,
                           exclude=exclude).answer(subrequest)

    async def files(self, request: BuildRequest, client: BuildClient, watch: Watch, look: Callable[
            [RemoteContext], Awaitable[T]], *, source: bool) -> T:
        """Look at files of a build's result, or (``source``) of its remote context alone.

        Raises:
            BuildError: a vertex failed.
            PalletError: anything else.
        """
        progress = Progress(watch, request.ref)
        job = Job(client=client, watch=watch, options=request.options, lease=self._images.lease())
        try:
            tree = self._remote(request)
            if source:
                await tree.load(job, _MAX_DOCKERFILE_BYTES)
            else:
                _, made = await self._plan(request, job, progress)
                solved = await self._solve(request, made, job, {})
                tree.show([DiffID(layer) for layer in solved[0].layers])
            return await look(tree)
        finally:
            await asyncio.shield(self.parts.solver.end(job))

    def _remote(self, request: BuildRequest) -> RemoteContext:
        return self._tree(request.options.remote_context)

    def _tree(self, url: str = "") -> RemoteContext:
        return RemoteContext(url, solver=self.parts.solver, workers=self._workers,
                             snapshotter=self._images.snapshotter, scratch=self._scratch)

    async def resolve_image(self, reference: str, platform: Platform, *, pull: bool, client: BuildClient,
                            watch: Watch) -> ResolvedImage:
        """Find an image's config."""
        return await self.parts.images.resolve(reference, platform, pull=pull, client=client, watch=watch)


async def _nothing(job: ExportJob, export: Export) -> dict[str, str]:
    """Output ``cacheonly``: the build was for the cache."""
    del job, export
    return {}


def _has_source(error: PalletError) -> bool:
    """Whether a failure says where it stands in a source."""
    if isinstance(error, BuildError):
        return error.span is not None
    if isinstance(error, DockerfileError):
        return error.lines is not None
    return isinstance(error, FrontEndError) and error.has_source


def _check(request: BuildRequest) -> None:
    """See what outputs ask for before anything runs.

    Raises:
        InvalidParameterError: a name, annotation, attestation or cache that cannot be.
    """
    attest.wanted(request)
    check_caches(request)
    for export in request.exports:
        read_annotations(export.attributes)
        names = names_of(export.attributes)
        if flag(export.attributes, "push") and not names:
            message = "tag is needed when pushing to registry"
            raise InvalidParameterError(message)


def epoch_of(request: BuildRequest) -> int | None:
    """SOURCE_DATE_EPOCH of a build; None where it is not given.

    Raises:
        InvalidParameterError: it is no number.
    """
    text = request.options.build_args.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        message = f"invalid SOURCE_DATE_EPOCH: {text}"
        raise InvalidParameterError(message) from error
