"""What has been built: records for ``buildx history``, and the documents that they name.

Owns   ``History``: the newest builds, in memory; a restart forgets them.
Runs   on the event loop.
Spec   buildkit-wire ListenBuildHistory; containerd's Content API for what records refer to.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.trace import stamp
from pallet.api.buildkit.wire import control_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pallet.api.buildkit.builds import ActiveBuild
    from pallet.api.buildkit.trace import Trace
    from pallet.build.request import BuildResult

_KEPT: Final = 50
_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Of documents, packed."""
_LEVEL: Final = 1
_REPLAY_BYTES: Final = 512 * 1024
_STATUS_TYPE: Final = "application/vnd.buildkit.status.v0"
_ERROR_TYPE: Final = "application/vnd.googeapis.google.rpc.status+proto"  # BuildKit's spelling
_CONFIG_TYPE: Final = "application/vnd.docker.container.image.v1+json"
_PROVENANCE_TYPE: Final = "application/vnd.in-toto+json"


@dataclass(slots=True)
class Blob:
    """A document that a record names."""

    packed: bytes
    size: int
    created_ns: int = field(default_factory=time.time_ns)

    @property
    def data(self) -> bytes:
        """The document."""
        return zlib.decompress(self.packed)


@dataclass(slots=True)
class Entry:
    """One build."""

    record: control_pb2.BuildHistoryRecord
    trace: Trace | None
    """While it runs; afterwards the record's logs have everything."""
    blobs: dict[str, Blob] = field(default_factory=dict)
    finished: bool = False

    def attach(self, data: bytes, media_type: str, annotations: dict[str, str] | None = None) -> control_pb2.Descriptor:
        """Keep a document and describe it."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = Blob(zlib.compress(data, _LEVEL), len(data))
        return control_pb2.Descriptor(media_type=media_type, digest=digest, size=len(data),
                                      annotations=annotations or {})


    def replay(self) -> Iterator[control_pb2.StatusResponse]:
        """What a build that has ended told, in messages of a size that clients take."""
        blob = self.blobs.get(self.record.logs.digest)
        if blob is None:
            return
        whole = control_pb2.StatusResponse.FromString(blob.data)
        ended = [vertex for vertex in whole.vertexes if vertex.HasField("completed")]
        running = [vertex for vertex in whole.vertexes if not vertex.HasField("completed")]
        response, size = control_pb2.StatusResponse(vertexes=running), 0
        for log in whole.logs:
            response.logs.append(log)
            size += len(log.msg)
            if size > _REPLAY_BYTES:
                yield response
                response, size = control_pb2.StatusResponse(), 0
        yield response
        # Ends come last: clients print what a step said before it, and drop what one says they have not heard of.
        yield control_pb2.StatusResponse(vertexes=ended, statuses=whole.statuses, warnings=whole.warnings)


class History:
    """The newest builds by reference, oldest first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._listeners: set[asyncio.Queue[control_pb2.BuildHistoryEvent]] = set()

    def begin(self, build: ActiveBuild) -> Entry:
        """A build has begun."""
        request = build.request
        record = control_pb2.BuildHistoryRecord(
            Ref=request.Ref, Frontend=request.Frontend, FrontendAttrs=build.attrs, Exporters=request.Exporters)
        stamp(record.CreatedAt, build.created_ns)
        entry = Entry(record=record, trace=build.trace)
        self._entries[request.Ref] = entry
        self._shrink()
        self._tell(control_pb2.STARTED, record)
        return entry

    def end(self, entry: Entry, result: BuildResult | None, error: GrpcError | None,
            config: bytes | None = None) -> None:
        """A build has ended, one way or the other; ``config`` is that of the image it made."""
        record, trace = entry.record, entry.trace
        assert trace is not None
        trace.finish()
        entry.trace = None
        stamp(record.CompletedAt, time.time_ns())
        steps = list(trace.vertices.values())
        record.numTotalSteps = len(steps)
        record.numCompletedSteps = sum(1 for step in steps if step.completed_ns)
        record.numCachedSteps = sum(1 for step in steps if step.cached)
        record.numWarnings = trace.warnings
        record.logs.CopyFrom(entry.attach(trace.all().SerializeToString(), _STATUS_TYPE))
        if error is not None:
            record.error.CopyFrom(status_pb2.Status(code=int(error.code), message=error.message))
            whole = status_pb2.Status(code=int(error.code), message=error.message, details=error.details)
            record.externalError.CopyFrom(entry.attach(whole.SerializeToString(), _ERROR_TYPE))
        if result is not None:
            record.ExporterResponse.update(result.response)
            self._add_result(entry, result, config)
        entry.finished = True
        record.Generation += 1
        self._tell(control_pb2.COMPLETE, record)
        self._shrink()

    def _add_result(self, entry: Entry, result: BuildResult, config: bytes | None) -> None:
        found = control_pb2.BuildResultInfo()
        if config is not None:
            found.ResultDeprecated.CopyFrom(entry.attach(config, _CONFIG_TYPE))
            found.Results[0].CopyFrom(found.ResultDeprecated)
        for predicate, data in result.provenance.items():
            found.Attestations.append(entry.attach(data, _PROVENANCE_TYPE, {"in-toto.io/predicate-type": predicate}))
        entry.record.Result.CopyFrom(found)

    def find(self, reference: str) -> Entry | None:
        """One build, or None."""
        return self._entries.get(reference)

    def blob(self, digest: str) -> Blob | None:
        """A document of any record, or None."""
        return next((entry.blobs[digest] for entry in self._entries.values() if digest in entry.blobs), None)

    def update(self, reference: str, *, pinned: bool, delete: bool) -> None:
        """Pin a record, or delete it.

        Raises:
            GrpcError: there is none.
        """
        entry = self._entries.get(reference)
        if entry is None:
            raise GrpcError(Code.UNKNOWN, f'lease "ref_{reference}": not found')  # BuildKit's
        if delete:
            del self._entries[reference]
            self._tell(control_pb2.DELETED, entry.record)
        else:
            entry.record.pinned = pinned

    async def listen(self, request: control_pb2.BuildHistoryRequest) -> AsyncIterator[control_pb2.BuildHistoryEvent]:
        """Yield the records there are, newest first, and then (unless the client leaves early) what happens."""
        queue: asyncio.Queue[control_pb2.BuildHistoryEvent] = asyncio.Queue(1000)
        self._listeners.add(queue)
        try:
            count = 0
            for entry in reversed(list(self._entries.values())):
                if (request.Ref and entry.record.Ref != request.Ref) or (request.ActiveOnly and entry.finished):
                    continue
                kind = control_pb2.COMPLETE if entry.finished else control_pb2.STARTED
                yield control_pb2.BuildHistoryEvent(type=kind, record=entry.record)
                count += 1
                if request.Limit and count >= request.Limit:
                    break
            while not request.EarlyExit:
                event = await queue.get()
                if not request.Ref or event.record.Ref == request.Ref:
                    yield event
        finally:
            self._listeners.discard(queue)

    def _tell(self, kind: control_pb2.BuildHistoryEventType, record: control_pb2.BuildHistoryRecord) -> None:
        event = control_pb2.BuildHistoryEvent(type=kind)
        event.record.CopyFrom(record)
        for queue in self._listeners:
            if not queue.full():
                queue.put_nowait(event)

    def _shrink(self) -> None:
        def size() -> int:
            return sum(len(blob.packed) for entry in self._entries.values() for blob in entry.blobs.values())

        while len(self._entries) > _KEPT or size() > _KEPT_BYTES:
            oldest = next((ref for ref, entry in self._entries.items() if entry.finished and not entry.record.pinned),
                          None)
            if oldest is None:
                return
            del self._entries[oldest]
