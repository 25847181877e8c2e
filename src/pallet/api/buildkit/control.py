"""BuildKit's Control service and the content that records of builds name.

Owns   the solves' life: from the request to the exporters' response.
Runs   on the event loop, a task a call.
Spec   buildkit-wire "flow", Control, containerd's Content.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from typing import TYPE_CHECKING, Final

from google.protobuf.empty_pb2 import Empty

from pallet.api.buildkit import attrs as attributes
from pallet.api.buildkit import capabilities
from pallet.api.buildkit.builds import Wanted
from pallet.api.buildkit.failures import failure
from pallet.api.buildkit.grpc import streaming, unary
from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.trace import stamp
from pallet.api.buildkit.wire import content_pb2, control_pb2, gateway_pb2
from pallet.build.usage import CachePrune

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pallet.api.buildkit.builds import ActiveBuild, Builds
    from pallet.api.buildkit.grpc import Handler, ServerCall
    from pallet.api.buildkit.history import History
    from pallet.api.buildkitbackend import BuildKitDoor
    from pallet.build.request import BuildResult
    from pallet.build.usage import CacheUsage

_CONTROL: Final = "/moby.buildkit.v1.Control"
_CONTENT: Final = "/containerd.services.content.v1.Content"
_TRACES: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_READ_BYTES: Final = 1024 * 1024


class Control:
    """The service that clients begin with."""

    def __init__(self, door: BuildKitDoor, builds: Builds, history: History) -> None:
        self._door = door
        self._builds = builds
        self._history = history

    def methods(self) -> dict[str, Handler]:
        """Every method and its handler."""
        return {
            f"{_CONTROL}/Solve": unary(control_pb2.SolveRequest, self.solve),
            f"{_CONTROL}/Status": streaming(control_pb2.StatusRequest, self.status),
            f"{_CONTROL}/ListWorkers": unary(control_pb2.ListWorkersRequest, self.list_workers),
            f"{_CONTROL}/Info": unary(control_pb2.InfoRequest, self.info),
            f"{_CONTROL}/DiskUsage": unary(control_pb2.DiskUsageRequest, self.disk_usage),
            f"{_CONTROL}/Prune": streaming(control_pb2.PruneRequest, self.prune),
            f"{_CONTROL}/ListenBuildHistory": streaming(control_pb2.BuildHistoryRequest, self.listen_history),
            f"{_CONTROL}/UpdateBuildHistory": unary(control_pb2.UpdateBuildHistoryRequest, self.update_history),
            f"{_CONTENT}/Info": unary(content_pb2.InfoRequest, self.content_info),
            f"{_CONTENT}/Read": streaming(content_pb2.ReadContentRequest, self.content_read),
            _TRACES: unary(Empty, self.traces),
        }

    # --- builds

    async def solve(self, call: ServerCall, request: control_pb2.SolveRequest) -> control_pb2.SolveResponse:
        """Control.Solve: do one build; without a front end the client says over the bridge what."""
        del call
        result = await self.carry_out(self._builds.begin(request))
        return control_pb2.SolveResponse(ExporterResponse=dict(result.response) if result is not None else {})

    async def carry_out(self, build: ActiveBuild) -> BuildResult | None:
        """Do a build to its end; None for one that only asked.

        Raises:
            GrpcError: it failed.
        """
        build.task = asyncio.current_task()
        entry = None if build.request.Internal else self._history.begin(build)
        result: BuildResult | None = None
        error: GrpcError | None = None
        try:
            result = await self._drive(build)
            return result
        except asyncio.CancelledError:
            error = GrpcError(Code.CANCELLED, "context canceled")
            raise
        except Exception as problem:
            error = failure(problem, build.client.source_text)
            raise error from problem
        finally:
            self._builds.end(build)
            if entry is not None:
                entry.record.FrontendAttrs.update(build.attrs)
                config = None
                if result is not None and result.image_id is not None:
                    config = self._door.backend.image_config(result.image_id)
                self._history.end(entry, result, error, config)

    async def _drive(self, build: ActiveBuild) -> BuildResult | None:
        request = build.request
        if request.Frontend:
            image = attributes.image_of(request.Frontend, build.attrs)
            return await build.run(Wanted(
                attrs=build.attrs, image=image, definitions=request.FrontendInputs,
                inputs={name: build.input(one) for name, one in request.FrontendInputs.items()}), exporting=True)
        if request.HasField("Definition") and getattr(request.Definition, "def"):
            return await build.run(Wanted(attrs=build.attrs, definition=request.Definition), exporting=True)
        returned = await build.returned
        if returned.HasField("error"):
            raise GrpcError(_code(returned.error.code), returned.error.message, returned.error.details)
        wanted = _returned(build, returned.result)
        return None if wanted is None else await build.run(wanted, exporting=True)

    async def status(self, call: ServerCall, request: control_pb2.StatusRequest) -> None:
        """Control.Status: everything a build has told and tells, until its end."""
        call.start([("buildkit-current-timestamp", _now())])
        build = await self._builds.for_status(request.Ref) if self._history.find(request.Ref) is None else (
            self._builds.find(request.Ref))
        if build is not None:
            async for response in build.trace.read():
                await call.send(response)
        elif (entry := self._history.find(request.Ref)) is not None:
            for response in entry.replay():
                await call.send(response)
        else:
            raise GrpcError(Code.NOT_FOUND, f"no such job {request.Ref}")

    # --- the worker

    async def list_workers(self, call: ServerCall, request: control_pb2.ListWorkersRequest
                           ) -> control_pb2.ListWorkersResponse:
        """Control.ListWorkers: the one there is."""
        del call, request
        return control_pb2.ListWorkersResponse(record=[capabilities.worker(
            self._door, await self._door.platforms(), await self._door.devices())])

    async def info(self, call: ServerCall, request: control_pb2.InfoRequest) -> control_pb2.InfoResponse:
        """Control.Info: the version."""
        del call, request
        return control_pb2.InfoResponse(buildkitVersion=capabilities.version(self._door, moby_suffix=False))

    # --- the cache

    async def disk_usage(self, call: ServerCall, request: control_pb2.DiskUsageRequest
                         ) -> control_pb2.DiskUsageResponse:
        """Control.DiskUsage: what the cache keeps."""
        del call
        prune = CachePrune(filters=_filters(request.filter))
        found = [record for record in await self._door.backend.usage(prune.filters)
                 if not request.ageLimit or time.time_ns() - record.last_used_ns >= request.ageLimit]
        return control_pb2.DiskUsageResponse(record=[_usage_record(record) for record in found])

    async def prune(self, call: ServerCall, request: control_pb2.PruneRequest) -> None:
        """Control.Prune: remove, and tell each thing that went."""
        removed = await self._door.backend.prune_cache(CachePrune(
            all=request.all, filters=_filters(request.filter), keep_duration_ns=request.keepDuration,
            reserved_bytes=request.reservedSpace, max_used_bytes=request.maxUsedSpace,
            min_free_bytes=request.minFreeSpace))
        call.start()
        for record in removed:
            await call.send(_usage_record(record))

    # --- records of builds

    async def listen_history(self, call: ServerCall, request: control_pb2.BuildHistoryRequest) -> None:
        """Control.ListenBuildHistory: the records, and what becomes of them."""
        call.start([("buildkit-current-timestamp", _now())])
        async for event in self._history.listen(request):
            await call.send(event)

    async def update_history(self, call: ServerCall, request: control_pb2.UpdateBuildHistoryRequest
                             ) -> control_pb2.UpdateBuildHistoryResponse:
        """Control.UpdateBuildHistory: pin or delete a record."""
        del call
        if not request.Finalize:
            self._history.update(request.Ref, pinned=request.Pinned, delete=request.Delete)
        return control_pb2.UpdateBuildHistoryResponse()

    async def content_info(self, call: ServerCall, request: content_pb2.InfoRequest) -> content_pb2.InfoResponse:
        """Content.Info of a document that a record names."""
        del call
        blob = self._history.blob(request.digest)
        if blob is None:
            raise GrpcError(Code.NOT_FOUND, f"content {request.digest}: not found")
        reply = content_pb2.InfoResponse()
        reply.info.digest, reply.info.size = request.digest, blob.size
        stamp(reply.info.created_at, blob.created_ns)
        stamp(reply.info.updated_at, blob.created_ns)
        return reply

    async def content_read(self, call: ServerCall, request: content_pb2.ReadContentRequest) -> None:
        """Content.Read of a document that a record names."""
        blob = self._history.blob(request.digest)
        if blob is None:
            raise GrpcError(Code.NOT_FOUND, f"content {request.digest}: not found")
        data = blob.data
        stop = request.offset + request.size if request.size else len(data)
        call.start()
        for at in range(request.offset, min(stop, len(data)), _READ_BYTES):
            piece = data[at:min(at + _READ_BYTES, stop)]
            await call.send(content_pb2.ReadContentResponse(offset=at, data=piece))

    async def traces(self, call: ServerCall, request: Empty) -> Empty:
        """Take OpenTelemetry's spans of a client; nobody here wants them."""
        del call, request
        return Empty()


def _returned(build: ActiveBuild, result: gateway_pb2.Result) -> Wanted | None:
    """What the client returned, of what the bridge handed out; None for nothing to build.

    Raises:
        GrpcError: a reference that was never handed out.
    """
    kind = result.WhichOneof("result")
    names = {"": result.ref.id if kind == "ref" else result.refDeprecated}
    if kind == "refs":
        names = {key: ref.id for key, ref in sorted(result.refs.refs.items())}
    elif kind == "refsDeprecated":
        names = dict(result.refsDeprecated.refs)
    configured = any(key.startswith("containerimage.config") for key in result.metadata)
    if not any(names.values()) and not configured:
        return None
    parts: dict[str, Wanted | None] = {}
    for key, name in names.items():
        parts[key] = build.results.get(name) if name else None
        if name and parts[key] is None:
            raise GrpcError(Code.UNKNOWN, f"reference {name} not found")
    first = next(iter(parts.values()))
    if first is not None and first.definition is None and len(set(names.values())) == 1:
        return first  # what the built-in front end made, as it was handed out
    return Wanted(attrs=build.attrs, parts=parts, metadata=dict(result.metadata))


def _code(number: int) -> Code:
    try:
        return Code(number)
    except ValueError:
        return Code.UNKNOWN


def _filters(filters: Iterable[str]) -> tuple[str, ...]:
    return tuple(text for text in filters if text)


def _usage_record(record: CacheUsage) -> control_pb2.UsageRecord:
    found = control_pb2.UsageRecord(
        ID=record.id, Mutable=record.mutable, InUse=record.in_use, Size=record.size_bytes,
        UsageCount=record.usage_count, Description=record.description, RecordType=record.kind,
        Shared=record.shared, Parents=record.parents)
    stamp(found.CreatedAt, record.created_ns)
    if record.last_used_ns:
        stamp(found.LastUsedAt, record.last_used_ns)
    return found


def _now() -> str:
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"
