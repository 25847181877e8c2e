"""Definitions, BuildKit's graphs on the wire, to vertices of the builder's own.

Owns   the walk: which operation stands on which, names, places in sources, outputs of operations.
Runs   on the event loop; images are asked for on the way. Without recursion, as graphs may be deep.
Spec   BuildKit's ``pb.Definition``: operations as bytes, known by the SHA-256 of these; the last one names the result.

A ``build`` operation is a definition that another operation's files hold: these are made while it is translated.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from pallet.api.buildkit.grpc import decode
from pallet.api.buildkit.llb import execs, files, names, sources
from pallet.api.buildkit.wire import llb_pb2
from pallet.build.graph import CopyAction, DiffOp, FileOp, LocalSource, MergeOp, ScratchOp, Span, Vertex
from pallet.errors import InvalidParameterError, NotImplementedApiError
from pallet.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.build.ports import Planning

_MAX_OPERATIONS: Final = 100_000
_MAX_OUTPUTS: Final = 64
_MAX_NESTED_BYTES: Final = 16 << 20
_MAX_DEPTH: Final = 16
_NESTED: Final = "buildkit.llb.definition"
_LLB_BUILDER: Final = -1


@dataclass(frozen=True, slots=True)
class Translated:
    """What a definition came to."""

    vertex: Vertex
    sources: Mapping[str, bytes]
    """Texts that spans are of, by name."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of an operation besides itself."""

    name: str
    platform: Platform | None
    ignore_cache: bool
    span: Span | None


@dataclass(slots=True)
class Translator:
    """Translates the definitions of one client; what they share is one vertex."""

    planning: Planning
    own: dict[str, Vertex] = field(default_factory=dict)
    """Sources that stand for results of this builder, by their identifiers."""
    depth: int = 0
    """Of definitions that lie in files of others."""
    _made: dict[tuple[str, int, bool], Vertex] = field(default_factory=dict)

    async def translate(self, definition: llb_pb2.Definition) -> Translated:
        """Translate a definition.

        Raises:
            InvalidParameterError: it contradicts itself.
            NotImplementedApiError: it asks for what this builder has not.
            PalletError: an image cannot be had.
        """
        found = _Reading(definition)
        head = found.head
        if head is None:
            return Translated(Vertex(op=ScratchOp(), name=""), {})
        order = found.order(head.digest)
        for digest in order:
            self._check(found.ops[digest])
        for digest in order:
            await self._make(found, digest)
        return Translated(in_layers(self._output(found, head)), found.texts)

    def _check(self, op: llb_pb2.Op) -> None:
        """Refuse what the client has not allowed, before anything is asked for."""
        given = self.planning.request.options.entitlements
        for name, needed in (("network.host", op.exec.network == llb_pb2.HOST),
                             ("security.insecure", op.exec.security == llb_pb2.INSECURE)):
            if needed and name not in given:
                message = f"failed to load LLB: {name} is not allowed"
                raise InvalidParameterError(message)

    async def _make(self, found: _Reading, digest: str) -> None:
        """Make the vertices of one operation's outputs; its inputs' are there."""
        op, place = found.ops[digest], found.place(digest)
        if (digest, -1, place.ignore_cache) in self._made:
            return
        inputs = [self._output(found, one) for one in op.inputs]
        kind = op.WhichOneof("op")
        if kind == "source":
            outputs = {0: await self._source(op, place)}
        elif kind == "exec":
            outputs = execs.vertices(op.exec, [in_layers(one) if number in execs.roots(op.exec) else one
                                               for number, one in enumerate(inputs)], place)
        elif kind == "file":
            outputs = files.vertices(op.file, inputs, place)
        elif kind == "merge":
            outputs = {0: _merge([in_layers(inputs[_valid(one.input, inputs)]) for one in op.merge.inputs], place)}
        elif kind == "diff":
            outputs = {0: _diff(op.diff, inputs, place)}
        elif kind == "build":
            outputs = {0: await self._nested(op.build, inputs)}
        elif kind == "passthrough":
            outputs = dict(enumerate(inputs))
        else:
            message = f"this builder has no operation {kind or 'of that kind'} in its definitions"
            raise NotImplementedApiError(message)
        for index, vertex in outputs.items():
            self._made[digest, index, place.ignore_cache] = vertex
        self._made[digest, -1, place.ignore_cache] = next(iter(outputs.values()), Vertex(op=ScratchOp(), name=""))

    def _output(self, found: _Reading, wanted: llb_pb2.Input) -> Vertex:
        ignore_cache = found.place(wanted.digest).ignore_cache
        vertex = self._made.get((wanted.digest, wanted.index, ignore_cache)) if wanted.index >= 0 else None
        if vertex is None:
            number = sum((wanted.digest, index, ignore_cache) in self._made for index in range(_MAX_OUTPUTS))
            message = f"invalid response from exec need {wanted.index} index but {number} results received"
            raise InvalidParameterError(message)
        return vertex

    async def _nested(self, op: llb_pb2.BuildOp, inputs: Sequence[Vertex]) -> Vertex:
        """The result of a definition that lies in a file.

        Raises:
            InvalidParameterError: there is none, or it is none.
        """
        given = op.inputs.get(_NESTED)
        if op.builder != _LLB_BUILDER or given is None:
            message = ("only LLB builder is currently allowed" if op.builder != _LLB_BUILDER
                       else f"no {_NESTED} input")
            raise InvalidParameterError(message)
        if self.depth >= _MAX_DEPTH:
            message = "definitions are nested too deeply"
            raise InvalidParameterError(message)
        path = op.attrs.get("llb.definition.filename", "") or _NESTED
        data = await self.planning.read(in_layers(inputs[_valid(given.input, inputs)]), path, _MAX_NESTED_BYTES)
        if data is None:
            message = f"failed to read definition: open {path}: no such file or directory"
            raise InvalidParameterError(message)
        try:
            definition = llb_pb2.Definition.FromString(data)
        except DecodeError as error:
            message = f"failed to parse the definition in {path}: {error}"
            raise InvalidParameterError(message) from error
        inner = Translator(self.planning, self.own, depth=self.depth + 1)
        return (await inner.translate(definition)).vertex

    async def _source(self, op: llb_pb2.Op, place: Place) -> Vertex:
        identifier = op.source.identifier
        if identifier in self.own:
            return self.own[identifier]
        return await sources.vertex(op.source, place, self.planning)


class _Reading:
    """One definition, decoded."""

    def __init__(self, definition: llb_pb2.Definition) -> None:
        raw: Sequence[bytes] = getattr(definition, "def")
        if len(raw) > _MAX_OPERATIONS:
            message = f"a definition of {len(raw)} operations"
            raise InvalidParameterError(message)
        self._definition = definition
        self.ops: dict[str, llb_pb2.Op] = {}
        digest = ""
        for data in raw:
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            self.ops[digest] = decode(llb_pb2.Op, data)
        self.head: llb_pb2.Input | None = None
        last = self.ops.get(digest)
        if last is not None and last.WhichOneof("op"):
            self.head = llb_pb2.Input(digest=digest)
        elif last is not None and last.inputs:
            self.head = last.inputs[0]
        infos = definition.Source.infos
        self.texts = {info.filename: info.data for info in infos}

    def order(self, top: str) -> list[str]:
        """What an operation needs, inputs first, and itself.

        Raises:
            InvalidParameterError: an input is missing.
        """
        done: dict[str, None] = {}
        pending = [(top, False)]
        while pending:
            digest, ready = pending.pop()
            if digest in done:
                continue
            if ready:
                done[digest] = None
                continue
            op = self.ops.get(digest)
            if op is None:
                message = f"failed to load LLB: invalid missing input digest {digest}"
                raise InvalidParameterError(message)
            pending.append((digest, True))
            pending += [(below.digest, False) for below in reversed(op.inputs) if below.digest not in done]
        return list(done)

    def place(self, digest: str) -> Place:
        """Name, platform and source of an operation."""
        op, metadata = self.ops[digest], self._definition.metadata
        described = metadata[digest] if digest in metadata else llb_pb2.OpMetadata()
        platform = None
        if op.HasField("platform"):
            asked = op.platform
            platform = Platform(os=asked.OS, architecture=asked.Architecture, variant=asked.Variant,
                                os_version=asked.OSVersion)
        return Place(name=described.description.get("llb.customname", "") or names.of(op), platform=platform,
                     ignore_cache=described.ignore_cache, span=self._span(digest))

    def _span(self, digest: str) -> Span | None:
        source = self._definition.Source
        if digest not in source.locations:
            return None
        for location in source.locations[digest].locations:
            if location.ranges and 0 <= location.sourceIndex < len(source.infos):
                return Span(filename=source.infos[location.sourceIndex].filename,
                            start=min(one.start.line for one in location.ranges),
                            end=max(one.end.line or one.start.line for one in location.ranges))
        return None


def in_layers(vertex: Vertex) -> Vertex:
    """A client's tree as the layer that something can be built on; everything else is one already."""
    if not isinstance(vertex.op, LocalSource):
        return vertex
    action = CopyAction(input=0, paths=("/",), dest="/", wildcards=False)
    return Vertex(op=FileOp(actions=(action,), has_base=False), inputs=(vertex,), name="")


def _valid(number: int, inputs: Sequence[Vertex]) -> int:
    if not 0 <= number < len(inputs):
        message = f"invalid input index {number}: there are {len(inputs)}"
        raise InvalidParameterError(message)
    return number


def _merge(inputs: Sequence[Vertex], place: Place) -> Vertex:
    return Vertex(op=MergeOp(), inputs=tuple(inputs), name=place.name, span=place.span, platform=place.platform)


def _diff(op: llb_pb2.DiffOp, inputs: Sequence[Vertex], place: Place) -> Vertex:
    lower, upper = (in_layers(inputs[_valid(one.input, inputs)]) if one.input != -1 else Vertex(op=ScratchOp(), name="")
                    for one in (op.lower, op.upper))
    return Vertex(op=DiffOp(), inputs=(lower, upper), name=place.name, span=place.span, platform=place.platform)
