"""What a build has told so far, as BuildKit's status stream: any number of readers, each from the start.

Owns   ``Trace``: a ``Watch`` that keeps everything it is told.
Runs   on the event loop.
Spec   buildkit-wire "status".
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pallet.api.buildkit.wire import control_pb2, llb_pb2
from pallet.build.progress import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from google.protobuf.timestamp_pb2 import Timestamp

_LOG_LIMIT_BYTES: Final = 2 * 1024 * 1024
"""That are kept of one step's output, as BuildKit does."""
_PIECE_BYTES: Final = 512 * 1024
_RESPONSE_BYTES: Final = 1024 * 1024
_CLIPPED: Final = b"\n[output clipped, log limit 2MiB reached]\n"


def stamp(target: Timestamp, time_ns: int) -> None:
    """Set a timestamp."""
    target.seconds, target.nanos = divmod(time_ns, 1_000_000_000)


class Trace:
    """Events of one build."""

    def __init__(self, source_of: Callable[[str], bytes | None] = lambda _: None) -> None:
        """Begin.

        Args:
            source_of: text of a file by the name that spans use; None for an unknown one.
        """
        self.source_of = source_of
        self.vertices: dict[str, VertexEvent] = {}
        """The latest event of each vertex."""
        self.warnings = 0
        self._responses: list[control_pb2.StatusResponse] = []
        self._open: control_pb2.StatusResponse | None = None
        self._logged: dict[str, int] = {}
        self._finished = False
        self._waiters: set[asyncio.Future[None]] = set()

    def __call__(self, event: Event) -> None:
        """Take one event."""
        response = self._current()
        if isinstance(event, VertexEvent):
            self._add_vertex(response, event)
        elif isinstance(event, StatusEvent):
            _add_status(response, event)
        elif isinstance(event, LogEvent):
            self._add_log(event)
        else:
            self._add_warning(response, event)

    def add_raw_warning(self, warning: control_pb2.VertexWarning) -> None:
        """Take a warning that is in the wire's form already."""
        self.warnings += 1
        self._current().warnings.append(warning)

    def finish(self) -> None:
        """Nothing more comes."""
        self._close_response()
        self._finished = True
        self._wake()

    def all(self) -> control_pb2.StatusResponse:
        """Everything in one message, for the record of the build."""
        whole = control_pb2.StatusResponse()
        for response in self._responses:
            whole.MergeFrom(response)
        return whole

    async def read(self) -> AsyncIterator[control_pb2.StatusResponse]:
        """Yield everything from the start, until the build has ended."""
        at = 0
        while True:
            while at < len(self._responses):
                yield self._responses[at]
                at += 1
            if self._finished:
                return
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    # --- the response that is being filled

    def _current(self) -> control_pb2.StatusResponse:
        if self._open is None:
            self._open = control_pb2.StatusResponse()
            asyncio.get_running_loop().call_soon(self._close_response)
        return self._open

    def _close_response(self) -> None:
        if self._open is not None:
            self._responses.append(self._open)
            self._open = None
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _add_vertex(self, response: control_pb2.StatusResponse, event: VertexEvent) -> None:
        self.vertices[event.digest] = event
        vertex = response.vertexes.add(digest=event.digest, inputs=event.inputs, name=event.name,
                                       cached=event.cached, error=event.error)
        if event.started_ns:
            stamp(vertex.started, event.started_ns)
        if event.completed_ns:
            stamp(vertex.completed, event.completed_ns)

    def _add_log(self, event: LogEvent) -> None:
        logged = self._logged.get(event.vertex, 0)
        if logged > _LOG_LIMIT_BYTES:
            return
        self._logged[event.vertex] = logged + len(event.data)
        data = event.data
        if logged + len(data) > _LOG_LIMIT_BYTES:
            data = data[:_LOG_LIMIT_BYTES - logged] + _CLIPPED
        for at in range(0, len(data), _PIECE_BYTES):
            response = self._current()
            log = response.logs.add(vertex=event.vertex, stream=event.stream, msg=data[at:at + _PIECE_BYTES])
            stamp(log.timestamp, event.timestamp_ns)
            if sum(len(entry.msg) for entry in response.logs) > _RESPONSE_BYTES:
                self._close_response()

    def _add_warning(self, response: control_pb2.StatusResponse, event: WarningEvent) -> None:
        self.warnings += 1
        found = event.warning
        short = f"{found.rule}: {found.message}" if found.rule else found.message
        warning = response.warnings.add(vertex=event.vertex, level=1, url=found.url)
        if found.description:
            warning.detail.append(found.description.encode())
        if (span := found.span) is not None:
            short += f" (line {span.start})"
            warning.info.CopyFrom(llb_pb2.SourceInfo(
                filename=span.filename, data=self.source_of(span.filename) or b"", language="Dockerfile"))
            for line in range(span.start, span.end + 1):
                place = warning.ranges.add()
                place.start.line = place.end.line = line
        warning.short = short.encode()


def _add_status(response: control_pb2.StatusResponse, event: StatusEvent) -> None:
    status = response.statuses.add(ID=event.id, vertex=event.vertex, name=event.name, current=event.current,
                                   total=event.total)
    for target, time_ns in ((status.timestamp, event.timestamp_ns), (status.started, event.started_ns),
                            (status.completed, event.completed_ns)):
        if time_ns:
            stamp(target, time_ns)

