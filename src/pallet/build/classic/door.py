"""One classic build: what ``POST /build`` asks for becomes a request, its events dockerd's lines.

Owns   the classic query's meaning; running classic builds by ``buildid``.
Runs   on the loop.
Spec   semantics "classic query", "classic output".
"""

from __future__ import annotations

import asyncio
import re
import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from pallet.build.classic.view import ClassicView, KnownSteps, arguments_of, steps_of
from pallet.build.errors import BuildError
from pallet.build.graph import CopyAction, FileOp, LocalSource
from pallet.build.ports import FrontendOptions
from pallet.build.request import BuildRequest, CacheLink, Export
from pallet.build.treeclient import TreeClient, unpacked
from pallet.errors import InvalidParameterError, NotImplementedApiError
from pallet.spec import platform as platforms
from pallet.spec import reference as references
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.parser import parse
from pallet.spec.engine.progress import ErrorDetail, ProgressMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pallet.build.graph import Plan, Vertex
    from pallet.build.request import BuildResult
    from pallet.build.service import Builder
    from pallet.build.treeclient import WorkerRunner
    from pallet.spec.engine.build import BuildOptions

_SHORT: Final = 12
_NO_STAGE: Final = re.compile(r'target stage "([^"]*)" could not be found')
_NO_FILE: Final = re.compile(r'failed to compute cache key: .*"/(.*)": not found', re.DOTALL)
_NO_FILE_OF_IMAGE: Final = re.compile(r"lstat /(.*): no such file or directory", re.DOTALL)
_NO_MATCH: Final = re.compile(r"/.* not found", re.DOTALL)
_PREDEFINED: Final = frozenset(name for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
                               for name in (upper, upper.lower()))
_SESSION: Final = "client-session"


class ClassicDoor:
    """Classic builds of one daemon."""

    def __init__(self, builder: Builder, workers: WorkerRunner) -> None:
        self._builder = builder
        self._workers = workers
        self._known = KnownSteps()
        self._running: dict[str, asyncio.Task[object]] = {}

    def cancel(self, build_id: str) -> None:
        """Cancel a build; an unknown one is no error."""
        task = self._running.get(build_id)
        if task is not None:
            task.cancel()

    async def build(self, options: BuildOptions, body: AsyncIterator[bytes],
                    progress: Callable[[ProgressMessage], None]) -> None:
        """See ``api.buildbackend.BuildBackend.classic``."""
        request = request_of(options)
        task = asyncio.current_task()
        if options.build_id and task is not None:
            self._running[options.build_id] = task
        view = ClassicView(progress, self._known, quiet=options.quiet)
        try:
            async with AsyncExitStack() as stack:
                client = await self._client(options, body, stack)
                await self._run(request, client, view, options)
        except BuildError as error:
            view.tell_all()
            self._tell_failure(error, progress)
        finally:
            self._running.pop(options.build_id, None)

    async def _client(self, options: BuildOptions, body: AsyncIterator[bytes],
                      stack: AsyncExitStack) -> TreeClient:
        """Bring the context here: the body's tar, or what ``remote`` names."""
        store = self._builder.contexts
        if options.session or options.remote == _SESSION:
            message = "a context over a session needs the builder's gRPC: use buildx"
            raise NotImplementedApiError(message)
        source = _nothing() if options.remote else body
        tree = await stack.enter_async_context(unpacked(store, self._workers, source))
        return TreeClient(store, tree, options.registries)

    async def _run(self, request: BuildRequest, client: TreeClient, view: ClassicView,
                   options: BuildOptions) -> None:
        declared: set[str] = set()

        def planned(source: bytes, plan: Plan) -> None:
            document = parse(source)
            declared.update(arguments_of(document))
            view.begin(steps_of(document, plan, request.options.target, request.options.labels))

        try:
            result = await self._builder.build(request, client, view, on_plan=planned)
        except DockerfileError as error:
            raise InvalidParameterError(_classic_words(str(error), None)) from error
        except InvalidParameterError as error:
            if "failed to read dockerfile" in str(error):
                message = f"Cannot locate specified Dockerfile: {request.options.filename}"
                raise InvalidParameterError(message) from error
            raise
        unused = sorted(set(options.build_args) - declared - _PREDEFINED)
        self._tell_result(result, view, options, unused)

    @staticmethod
    def _tell_result(result: BuildResult, view: ClassicView, options: BuildOptions, unused: list[str]) -> None:
        image_id = result.image_id or ""
        bare = image_id.removeprefix("sha256:")
        view.finish(bare)
        if not image_id:
            return
        view.aux_id(image_id)
        if options.quiet:
            view.say(f"{image_id}\n")
            return
        if unused:
            view.say(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
        view.say(f"Successfully built {bare[:_SHORT]}\n")
        for tag in options.tags:
            name = references.parse_normalized(tag).with_default_tag().familiar()
            view.say(f"Successfully tagged {name}\n")

    @staticmethod
    def _tell_failure(error: BuildError, progress: Callable[[ProgressMessage], None]) -> None:
        """A step's failure travels in the stream with the command's exit code."""
        text = _classic_words(error.classic, error.vertex)
        progress(ProgressMessage(
            error_detail=ErrorDetail(code=error.exit_code if error.exit_code is not None else UNSET, message=text),
            error=text))


async def _nothing() -> AsyncIterator[bytes]:
    """An empty archive: what is built is elsewhere."""
    yield bytes(1024)


def _classic_words(text: str, vertex: Vertex | None) -> str:
    """The classic builder's words for what BuildKit says otherwise."""
    keyword = "ADD" if vertex is not None and "] ADD " in vertex.name else "COPY"
    if found := _NO_STAGE.match(text):
        return f"failed to reach build target {found[1]} in Dockerfile"
    if _NO_MATCH.fullmatch(text):
        return f"{keyword} failed: no source files were specified"
    if found := _NO_FILE.fullmatch(text) or _NO_FILE_OF_IMAGE.fullmatch(text):
        where = "" if _of_stage(vertex) else "file not found in build context or excluded by .dockerignore: "
        return f"{keyword} failed: {where}stat {found[1]}: file does not exist"
    if text == "file with no instructions":
        return f"failed to parse Dockerfile: {text}"
    return text


def _of_stage(vertex: Vertex | None) -> bool:
    """Whether a COPY takes files of a stage or an image."""
    op = vertex.op if vertex is not None else None
    return vertex is not None and isinstance(op, FileOp) and any(
        isinstance(action, CopyAction) and not isinstance(vertex.inputs[action.input].op, LocalSource)
        for action in op.actions)


def request_of(options: BuildOptions) -> BuildRequest:
    """Turn the query into a request.

    Raises:
        InvalidParameterError: a tag, host or platform that is none.
    """
    for tag in options.tags:
        reference = references.parse_normalized(tag)
        if reference.digest is not None:
            message = "build tag cannot contain a digest"
            raise InvalidParameterError(message)
    platform = (platforms.parse(options.platform),) if options.platform else ()
    exports = _exports(options)
    resources = {name: value for name, value in (
        ("memory", options.memory_bytes), ("memswap", options.memory_swap_bytes),
        ("cpushares", options.cpu_shares), ("cpuperiod", options.cpu_period),
        ("cpuquota", options.cpu_quota)) if value}
    return BuildRequest(
        ref=options.build_id or secrets.token_hex(12), exports=exports, squash=options.squash,
        classic=options.version == "1",
        cache_imports=tuple(CacheLink(kind="registry", attributes={"ref": name}) for name in options.cache_from),
        options=FrontendOptions(
            ignore_syntax=True,
            filename=options.dockerfile or "Dockerfile", remote_context=options.remote,
            target=options.target, platforms=platform,
            build_args={name: value for name, value in options.build_args.items() if value is not None},
            labels=dict(options.labels), no_cache=options.no_cache, pull=options.pull,
            network=options.network_mode or "default",
            entitlements=frozenset({"network.host"}), cgroup_parent=options.cgroup_parent, resources=resources,
            cpuset_cpus=options.cpuset_cpus, cpuset_mems=options.cpuset_mems,
            shm_size_bytes=options.shm_size_bytes, ulimits=tuple(options.ulimits),
            extra_hosts=tuple(_extra_host(text) for text in options.extra_hosts)))


def _exports(options: BuildOptions) -> tuple[Export, ...]:
    found = [Export(kind=str(output.get("Type", "")), attributes=_attributes(output), id=str(number))  # type: ignore[arg-type]
             for number, output in enumerate(options.outputs)]
    return tuple(found) or (Export(kind="image", attributes={"name": ",".join(options.tags)}),)


def _attributes(output: object) -> dict[str, str]:
    attrs = output.get("Attrs") if isinstance(output, dict) else None
    return {str(name): str(value) for name, value in attrs.items()} if isinstance(attrs, dict) else {}


def _extra_host(text: str) -> tuple[str, str]:
    name, _, address = text.partition(":")
    if not name or not address:
        message = f"bad format for add-host: {text!r}".replace("'", '"')
        raise InvalidParameterError(message)
    return name, address
