"""LLBBridge as front ends that are images see it: every call is a part of the one build that runs them.

Owns   the references that one front end was given, and what it returned.
Runs   on the event loop, a task a call.
Spec   buildkit-wire LLBBridge. References are planned at once; containers of its own (NewContainer) are not served.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pallet.api.buildkit import attrs as attributes
from pallet.api.buildkit import capabilities, looking
from pallet.api.buildkit.failures import failure
from pallet.api.buildkit.grpc import unary
from pallet.api.buildkit.llb import results
from pallet.api.buildkit.llb.definition import Translator
from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.wire import gateway_pb2, llb_pb2
from pallet.build.graph import LintWarning, Plan, Span
from pallet.build.progress import WarningEvent
from pallet.spec import image as spec
from pallet.types import Digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pallet.api.buildkit.grpc import Handler, ServerCall
    from pallet.api.buildkitbackend import BuildKitDoor
    from pallet.build.graph import Target, Vertex
    from pallet.build.ports import Planning, ResolvedImage
    from pallet.build.request import BuildRequest

    Ask = Callable[[Mapping[str, str], Mapping[str, llb_pb2.Definition]], Awaitable[Plan]]

_SERVICE: Final = "/moby.buildkit.v1.frontend.LLBBridge"
OWN_SCHEME: Final = "pallet-build://"
_LAYOUT_SCHEME: Final = "oci-layout://"
_LAYOUTS: Final = 1
"""``ResolverType`` of images in a client's OCI layout."""


def own_definition(name: str) -> llb_pb2.Definition:
    """A definition that means one of our results, to whom hands it back."""
    source = llb_pb2.Op(source=llb_pb2.SourceOp(identifier=f"{OWN_SCHEME}{name}"))
    data = source.SerializeToString(deterministic=True)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    end = llb_pb2.Op(inputs=[llb_pb2.Input(digest=digest)])
    definition = llb_pb2.Definition()
    getattr(definition, "def").extend([data, end.SerializeToString(deterministic=True)])
    definition.metadata[digest].description["llb.customname"] = name.rpartition("/")[2]
    definition.Source.locations[digest].SetInParent()
    return definition


@dataclass(frozen=True, slots=True)
class Reference:
    """What one reference that was handed out stands for."""

    vertex: Vertex
    sources: Mapping[str, bytes]
    planned: Target | None = None


class FrontEndBridge:
    """The bridge of one front end."""

    def __init__(self, door: BuildKitDoor, planning: Planning, definitions: Mapping[str, llb_pb2.Definition],
                 ask: Ask) -> None:
        """Nothing was asked yet.

        Args:
            definitions: the front end's inputs.
            ask: has another image plan, with its attributes and inputs.
        """
        self._door = door
        self._planning = planning
        self._definitions = definitions
        self._ask = ask
        self._references: dict[str, Reference] = {}
        self._name = secrets.token_hex(8)
        self.translator = Translator(planning)
        self.returned: gateway_pb2.ReturnRequest | None = None
        self.failures: list[Exception] = []
        """What its calls failed with: it may return one of them as it is."""

    def methods(self) -> dict[str, Handler]:
        """Every method and its handler."""
        return {
            f"{_SERVICE}/Ping": unary(gateway_pb2.PingRequest, self._ping),
            f"{_SERVICE}/Solve": unary(gateway_pb2.SolveRequest, self._solve),
            f"{_SERVICE}/Return": unary(gateway_pb2.ReturnRequest, self._return),
            f"{_SERVICE}/Evaluate": unary(gateway_pb2.EvaluateRequest, self._evaluate),
            f"{_SERVICE}/Inputs": unary(gateway_pb2.InputsRequest, self._inputs),
            f"{_SERVICE}/ReadFile": unary(gateway_pb2.ReadFileRequest, self._read_file),
            f"{_SERVICE}/ReadDir": unary(gateway_pb2.ReadDirRequest, self._read_dir),
            f"{_SERVICE}/StatFile": unary(gateway_pb2.StatFileRequest, self._stat_file),
            f"{_SERVICE}/Warn": unary(gateway_pb2.WarnRequest, self._warn),
            f"{_SERVICE}/ResolveImageConfig": unary(gateway_pb2.ResolveImageConfigRequest, self._resolve_config),
            f"{_SERVICE}/ResolveSourceMeta": unary(gateway_pb2.ResolveSourceMetaRequest, self._resolve_source),
        }

    async def _ping(self, call: ServerCall, request: gateway_pb2.PingRequest) -> gateway_pb2.PongResponse:
        del call, request
        return capabilities.pong(self._door)

    async def _solve(self, call: ServerCall, request: gateway_pb2.SolveRequest) -> gateway_pb2.SolveResponse:
        del call
        try:
            result, made = await self._solved(request)
            if request.Evaluate:
                for one in made:
                    await self._planning.solve([one.vertex], one.sources)
        except Exception as problem:
            raise self._failed(problem) from problem
        if request.allowResultReturn:
            return gateway_pb2.SolveResponse(result=result)
        return gateway_pb2.SolveResponse(ref=result.ref.id)

    async def _solved(self, request: gateway_pb2.SolveRequest) -> tuple[gateway_pb2.Result, list[Reference]]:
        if not request.Frontend:
            if not getattr(request.Definition, "def"):
                return gateway_pb2.Result(ref=gateway_pb2.Ref()), []
            found = await self.translator.translate(request.Definition)
            made = Reference(found.vertex, found.sources)
            return gateway_pb2.Result(ref=self._hand_out(made, request.Definition)), [made]
        attrs = dict(request.FrontendOpt)
        plan = await self._planned(request, attrs)
        if not plan.targets:
            return gateway_pb2.Result(ref=gateway_pb2.Ref(), metadata=plan.answers), []
        return self._result_of(plan, several=len(plan.targets) > 1 or attrs.get("multi-platform") == "true")

    async def _planned(self, request: gateway_pb2.SolveRequest, attrs: Mapping[str, str]) -> Plan:
        """Let another front end plan: the built-in one, or one more image."""
        inputs = {name: plan_of([results.target(found.vertex, None, None)], found.sources)
                  for name, one in request.FrontendInputs.items()
                  for found in [await self.translator.translate(one)]}
        if attributes.image_of(request.Frontend, attrs):
            return await self._ask(attrs, dict(request.FrontendInputs))
        below = self._request(attrs, inputs)
        if subrequest := attrs.get("requestid", ""):
            return Plan(targets=(), answers=dict(await self._planning.answers(subrequest, below)))
        return await self._planning.dockerfile(below)

    def _request(self, attrs: Mapping[str, str], inputs: Mapping[str, Plan]) -> BuildRequest:
        whole = self._planning.request
        options = attributes.frontend_options(attrs, whole.options.entitlements)
        return replace(whole, options=replace(options, inputs=inputs), inputs={}, planner=None, attributes=attrs)

    def _result_of(self, plan: Plan, *, several: bool) -> tuple[gateway_pb2.Result, list[Reference]]:
        """What the built-in front end (or another image) planned, as a result on the wire."""
        result = gateway_pb2.Result()
        made = []
        for target in plan.targets:
            one = Reference(target.vertex, plan.sources, target)
            made.append(one)
            key = str(target.platform)
            reference = self._hand_out(one)
            config = results.planned_config(target)
            if several:
                result.refs.refs[key].CopyFrom(reference)
                result.metadata[f"{results.CONFIG}/{key}"] = config
            else:
                result.ref.CopyFrom(reference)
                result.metadata[results.CONFIG] = config
        result.metadata[results.PLATFORMS] = results.platforms_document([target.platform for target in plan.targets])
        return result, made

    def _hand_out(self, made: Reference, definition: llb_pb2.Definition | None = None) -> gateway_pb2.Ref:
        name = secrets.token_hex(12)
        self._references[name] = made
        if definition is None:
            definition = own_definition(f"{self._name}/{name}")
            self.translator.own[f"{OWN_SCHEME}{self._name}/{name}"] = made.vertex
        reference = gateway_pb2.Ref(id=name)
        getattr(reference, "def").CopyFrom(definition)
        return reference

    def reference(self, name: str) -> Reference:
        """What a reference stands for.

        Raises:
            GrpcError: it was never handed out.
        """
        found = self._references.get(name)
        if found is None:
            raise GrpcError(Code.NOT_FOUND, f"no such ref: {name}")
        return found

    async def _return(self, call: ServerCall, request: gateway_pb2.ReturnRequest) -> gateway_pb2.ReturnResponse:
        del call
        self.returned = request
        return gateway_pb2.ReturnResponse()

    async def _evaluate(self, call: ServerCall, request: gateway_pb2.EvaluateRequest) -> gateway_pb2.EvaluateResponse:
        del call
        if request.Ref:
            one = self.reference(request.Ref)
            try:
                await self._planning.solve([one.vertex], one.sources)
            except Exception as problem:
                raise self._failed(problem) from problem
        return gateway_pb2.EvaluateResponse()

    async def _inputs(self, call: ServerCall, request: gateway_pb2.InputsRequest) -> gateway_pb2.InputsResponse:
        del call, request
        return gateway_pb2.InputsResponse(Definitions=self._definitions)

    async def _read_file(self, call: ServerCall, request: gateway_pb2.ReadFileRequest
                         ) -> gateway_pb2.ReadFileResponse:
        del call
        one = self.reference(request.Ref)
        try:
            data = await self._planning.read(one.vertex, request.FilePath, looking.MAX_FILE_BYTES)
        except Exception as problem:
            raise self._failed(problem) from problem
        return looking.file_reply(request, data)

    async def _read_dir(self, call: ServerCall, request: gateway_pb2.ReadDirRequest) -> gateway_pb2.ReadDirResponse:
        del call
        one = self.reference(request.Ref)
        try:
            found = await self._planning.entries(one.vertex, request.DirPath)
        except Exception as problem:
            raise self._failed(problem) from problem
        return looking.directory_reply(request, found)

    async def _stat_file(self, call: ServerCall, request: gateway_pb2.StatFileRequest
                         ) -> gateway_pb2.StatFileResponse:
        del call
        one = self.reference(request.Ref)
        try:
            found = await self._planning.entries(one.vertex, request.Path)
        except Exception as problem:
            raise self._failed(problem) from problem
        return looking.stat_reply(request, found)

    async def _warn(self, call: ServerCall, request: gateway_pb2.WarnRequest) -> gateway_pb2.WarnResponse:
        del call
        span = None
        if request.ranges and request.info.filename:
            span = Span(filename=request.info.filename, start=request.ranges[0].start.line,
                        end=request.ranges[0].end.line)
        self._planning.watch(WarningEvent(vertex=Digest(request.digest), warning=LintWarning(
            rule="", message=request.short.decode("utf-8", "replace"), url=request.url, span=span,
            description=b"\n".join(request.detail).decode("utf-8", "replace"))))
        return gateway_pb2.WarnResponse()

    async def _resolve_config(self, call: ServerCall, request: gateway_pb2.ResolveImageConfigRequest
                              ) -> gateway_pb2.ResolveImageConfigResponse:
        del call
        if request.ResolverType == _LAYOUTS:
            found = await self._layout(request.Ref, request, request.StoreID)
        else:
            found = await self._image(request.Ref, request, request.ResolveMode)
        return gateway_pb2.ResolveImageConfigResponse(
            Digest=found.digest, Config=spec.encode(found.config), Ref=request.Ref)

    async def _resolve_source(self, call: ServerCall, request: gateway_pb2.ResolveSourceMetaRequest
                              ) -> gateway_pb2.ResolveSourceMetaResponse:
        del call
        source = request.Source
        if source.identifier.startswith(_LAYOUT_SCHEME):
            found = await self._layout(source.identifier.removeprefix(_LAYOUT_SCHEME), request,
                                       source.attrs.get("oci.store", ""))
        elif name := looking.image_of(request):
            found = await self._image(name, request, request.ResolveMode)
        else:
            return gateway_pb2.ResolveSourceMetaResponse(Source=source)
        return gateway_pb2.ResolveSourceMetaResponse(
            Source=request.Source, Image=gateway_pb2.ResolveSourceImageResponse(
                Digest=found.digest, Config=spec.encode(found.config)))

    async def _image(self, name: str, request: gateway_pb2.ResolveImageConfigRequest
                     | gateway_pb2.ResolveSourceMetaRequest, mode: str) -> ResolvedImage:
        try:
            return await self._planning.image(name, looking.platform_of(request), pull=mode == "pull")
        except Exception as problem:
            raise self._failed(problem) from problem

    async def _layout(self, name: str, request: gateway_pb2.ResolveImageConfigRequest
                      | gateway_pb2.ResolveSourceMetaRequest, store: str) -> ResolvedImage:
        """An image of a client's OCI layout."""
        reference, _, digest = name.rpartition("@")
        try:
            return await self._planning.layout(store or reference, digest, looking.platform_of(request))
        except Exception as problem:
            raise self._failed(problem) from problem

    def _failed(self, problem: Exception) -> GrpcError:
        self.failures.append(problem)
        return failure(problem, lambda _: None)


def plan_of(targets: list[Target], sources: Mapping[str, bytes]) -> Plan:
    """A plan of targets."""
    return Plan(targets=tuple(targets), sources=dict(sources))
