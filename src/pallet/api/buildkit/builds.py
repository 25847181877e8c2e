"""The builds that clients drive: from their solve to their return.

Owns   ``ActiveBuild`` and the ``Builds`` by the client's reference.
Runs   on the event loop.
Spec   buildkit-wire "flow": a solve without a front end blocks until the client, which drives the
       build over the bridge, returns a result.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from pallet.api.buildkit import attrs as attributes
from pallet.api.buildkit.llb import planners
from pallet.api.buildkit.sessionclient import SessionClient
from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.trace import Trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pallet.api.buildkit.session import Sessions
    from pallet.api.buildkit.wire import control_pb2, gateway_pb2, llb_pb2
    from pallet.api.buildkitbackend import BuildKitBackend
    from pallet.build.ports import FrontEnds, Planner
    from pallet.build.request import BuildRequest, BuildResult

_LATE_S: Final = 3.0
_STATUS_LATE_S: Final = 6.0
_UPLOAD_WANTED_S: Final = 60.0
_HANDED_KEPT: Final = 200
_ENDED_KEPT: Final = 16
"""Builds of no record whose progress may still be asked for."""
_DOCKERFILE_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What one reference that the bridge handed out stands for."""

    attrs: Mapping[str, str]
    imports: Sequence[gateway_pb2.CacheOptionsEntry] = ()
    inputs: Mapping[str, Handed] = field(default_factory=dict)
    """Results of other builds that this one builds on, by name."""
    source: bool = False
    """The remote context alone: a definition of one source."""
    definition: llb_pb2.Definition | None = None
    """LLB instead of a front end."""
    image: str = ""
    """The image that is the front end, with its arguments; "" for the built-in one."""
    definitions: Mapping[str, llb_pb2.Definition] = field(default_factory=dict)
    """``inputs`` as they came."""
    parts: Mapping[str, Wanted | None] = field(default_factory=dict)
    """Of a result that the client put together: references by their ids."""
    metadata: Mapping[str, bytes] = field(default_factory=dict)
    """Of such a result: configs, platforms."""


@dataclass(frozen=True, slots=True)
class Handed:
    """A result that was handed out, for builds that name it as an input: perhaps after its own has ended."""

    request: BuildRequest
    client: SessionClient


class ActiveBuild:
    """One build while its client drives it."""

    def __init__(self, request: control_pb2.SolveRequest, sessions: Sessions, uploads: Uploads,
                 backend: BuildKitBackend, front_ends: FrontEnds) -> None:
        self.request = request
        self._front_ends = front_ends
        self._uploads = uploads
        self.created_ns = time.time_ns()
        self.returned: asyncio.Future[gateway_pb2.ReturnRequest] = asyncio.get_running_loop().create_future()
        self.attrs: Mapping[str, str] = dict(request.FrontendAttrs)
        self.results: dict[str, Wanted] = {}
        self.task: asyncio.Task[object] | None = None
        """That carries it out."""
        self._sessions = sessions
        self._backend = backend
        self.client = SessionClient(sessions, request.Session, self.attrs, backend.contexts, uploads.take)
        self.trace = Trace(self.client.source_text)

    def use(self, attrs: Mapping[str, str]) -> None:
        """The bridge's solve has the attributes that count."""
        self.attrs = attrs
        self.client = SessionClient(self._sessions, self.request.Session, attrs, self._backend.contexts,
                                    self._uploads.take)
        self.trace.source_of = self.client.source_text

    def build_request(self, wanted: Wanted) -> BuildRequest:
        """The builder's own request for what a reference stands for."""
        options = attributes.frontend_options(wanted.attrs, self.request.Entitlements)
        inputs = {name: (handed.request, handed.client) for name, handed in wanted.inputs.items()}
        self.client.inputs = {name: handed.client for name, handed in wanted.inputs.items()}
        request = attributes.build_request(self.request, wanted.attrs, wanted.imports, options, inputs)
        return replace(request, planner=self._planner(wanted), definitions={
            name: definition.SerializeToString() for name, definition in wanted.definitions.items()})

    def _planner(self, wanted: Wanted) -> Planner | None:
        """What plans it; None: it is a Dockerfile."""
        if wanted.parts:
            return planners.of_parts({key: self._part(part) for key, part in wanted.parts.items()}, wanted.metadata)
        if wanted.definition is not None:
            return planners.of_definition(wanted.definition)
        return self._front_ends.planner(wanted.image) if wanted.image else None

    def _part(self, part: Wanted | None) -> llb_pb2.Definition | BuildRequest | None:
        return None if part is None else part.definition or attributes.without_outputs(self.build_request(part))

    def input(self, definition: llb_pb2.Definition) -> Handed:
        """A definition as what another front end builds on."""
        return Handed(attributes.without_outputs(self.build_request(Wanted(attrs={}, definition=definition))),
                      self.client)

    async def run(self, wanted: Wanted, *, exporting: bool) -> BuildResult:
        """Build what a reference stands for; with the solve's exporters, or nothing but the cache."""
        request = self.build_request(wanted)
        if not exporting:
            request = attributes.without_outputs(request)
        return await self._backend.build(request, self.client, self.trace)


@dataclass(slots=True)
class _Upload:
    """A body and those who wait for one another over it."""

    body: asyncio.Future[AsyncIterator[bytes]]
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    read: asyncio.Event = field(default_factory=asyncio.Event)

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self.body.result():
                yield piece
        finally:
            self.read.set()


class Uploads:
    """Contexts that come in the body of a request (``POST /build``), by the URL that stands for them."""

    def __init__(self) -> None:
        self._uploads: dict[str, _Upload] = {}

    def offer(self, url: str, body: AsyncIterator[bytes]) -> _Upload:
        """Have a body there for who asks for it.

        Raises:
            GrpcError: there is one already.
        """
        upload = self._at(url)
        if upload.body.done():
            raise GrpcError(Code.ALREADY_EXISTS, f"{url} is being uploaded already")
        upload.body.set_result(body)
        return upload

    async def give(self, url: str, body: AsyncIterator[bytes]) -> None:
        """Offer a body, and wait until it has been read or it is clear that nobody wants it."""
        upload = self.offer(url, body)
        try:
            async with asyncio.timeout(_UPLOAD_WANTED_S):
                await upload.taken.wait()
            await upload.read.wait()
        except TimeoutError:
            pass
        finally:
            self.drop(url)

    async def take(self, url: str) -> AsyncIterator[bytes] | None:
        """Return a body, waiting a little for one that is on its way; None if it does not come."""
        upload = self._at(url)
        try:
            async with asyncio.timeout(_STATUS_LATE_S):
                await asyncio.shield(upload.body)
        except TimeoutError:
            return None
        finally:
            self.drop(url)
        upload.taken.set()
        return upload.pieces()

    def drop(self, url: str) -> None:
        """Nobody comes for it any more. Idempotent."""
        self._uploads.pop(url, None)

    def _at(self, url: str) -> _Upload:
        if (upload := self._uploads.get(url)) is None:
            upload = self._uploads[url] = _Upload(asyncio.get_running_loop().create_future())
        return upload


class Builds:
    """Every build that runs now, and who waits for one that is about to."""

    def __init__(self, sessions: Sessions, uploads: Uploads, backend: BuildKitBackend, front_ends: FrontEnds) -> None:
        self._front_ends = front_ends
        self._sessions = sessions
        self._uploads = uploads
        self._backend = backend
        self._active: dict[str, ActiveBuild] = {}
        self._ended: OrderedDict[str, ActiveBuild] = OrderedDict()
        self._handed: OrderedDict[str, Handed] = OrderedDict()
        self._arrivals: set[asyncio.Future[None]] = set()

    def begin(self, request: control_pb2.SolveRequest) -> ActiveBuild:
        """Register a build.

        Raises:
            GrpcError: the reference is in use, or there is none.
        """
        if not request.Ref or request.Ref in self._active:
            raise GrpcError(Code.UNKNOWN, f"job ID {request.Ref} exists" if request.Ref else "no build reference")
        build = ActiveBuild(request, self._sessions, self._uploads, self._backend, self._front_ends)
        self._active[request.Ref] = build
        for arrival in self._arrivals:
            if not arrival.done():
                arrival.set_result(None)
        return build

    def end(self, build: ActiveBuild) -> None:
        """The solve is over, however it ended."""
        self._active.pop(build.request.Ref, None)
        if build.request.Internal:
            self._ended[build.request.Ref] = build
            while len(self._ended) > _ENDED_KEPT:
                self._ended.popitem(last=False)
        if url := build.request.FrontendAttrs.get("context", ""):
            self._uploads.drop(url)
        build.trace.finish()
        if not build.returned.done():
            build.returned.cancel()

    def hand_out(self, build: ActiveBuild, wanted: Wanted) -> str:
        """Name a result that can be returned, or be another build's input.

        Raises:
            InvalidParameterError: the request cannot be.
        """
        reference = secrets.token_hex(12)
        build.results[reference] = wanted
        request = attributes.without_outputs(build.build_request(wanted))
        if wanted.definition is not None:
            return reference  # it comes back as it is
        self._handed[f"{build.request.Ref}/{reference}"] = Handed(request, build.client)
        while len(self._handed) > _HANDED_KEPT:
            self._handed.popitem(last=False)
        return reference

    async def input(self, name: str) -> Handed:
        """Find a result of another build by what its definition said.

        Its Dockerfile is read now: the session that has it may end before it is needed.

        Raises:
            GrpcError: there is no such result any more.
        """
        handed = self._handed.get(name)
        if handed is None:
            raise GrpcError(Code.NOT_FOUND, f"no such result: {name}")
        await handed.client.read_file("dockerfile", handed.request.options.filename, _DOCKERFILE_BYTES)
        return handed

    def cancel(self, reference: str) -> None:
        """Cancel a build that runs; an unknown one is no error."""
        build = self._active.get(reference)
        if build is not None and build.task is not None:
            build.task.cancel()

    def running(self) -> list[ActiveBuild]:
        """What runs now, oldest first."""
        return list(self._active.values())

    def find(self, reference: str) -> ActiveBuild | None:
        """A build that runs, or None."""
        return self._active.get(reference)

    async def get(self, reference: str, patience_s: float | None = None) -> ActiveBuild | None:
        """Return a build, waiting a little for one that is about to begin; None if it does not."""
        try:
            async with asyncio.timeout(_LATE_S if patience_s is None else patience_s):
                while (found := self._active.get(reference)) is None:
                    arrival: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._arrivals.add(arrival)
                    try:
                        await arrival
                    finally:
                        self._arrivals.discard(arrival)
                return found
        except TimeoutError:
            return None

    async def for_status(self, reference: str) -> ActiveBuild | None:
        """The same for a reader of a build's progress, who may come well before it, or after its end.

        Clients call for both at once, and give the reader three seconds after the build.
        """
        ended = self._ended.get(reference)
        if ended is not None and reference not in self._active:
            return ended
        return await self.get(reference, _STATUS_LATE_S)
