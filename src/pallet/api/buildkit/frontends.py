"""Front ends that are images: containers that plan builds over their standard input and output.

Owns   one conversation: the process, the bridge that it calls (gRPC, its end being the client), the references that
       it was given, and what it returned.
Runs   on the event loop, below the build's own task. Imported with the first build that asks for one.
Spec   BuildKit's ``gateway.v0``: environment, capabilities, LLBBridge. Containers of its own (NewContainer) are
       not served.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pallet.api.buildkit import attrs as attributes
from pallet.api.buildkit import capabilities, looking
from pallet.api.buildkit.failures import failure
from pallet.api.buildkit.grpc import Server, unary
from pallet.api.buildkit.llb import results
from pallet.api.buildkit.llb.definition import Translator
from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.wire import gateway_pb2, llb_pb2
from pallet.build.errors import FrontEndError
from pallet.build.graph import FrontEnd, ImageSource, LintWarning, Plan, ScratchOp, Span, Vertex
from pallet.build.ports import FrontEndProcess
from pallet.build.progress import WarningEvent
from pallet.errors import InvalidParameterError, NotImplementedApiError, PalletError
from pallet.spec import image as spec
from pallet.spec import reference as references
from pallet.spec.platform import host
from pallet.types import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.api.buildkit.grpc import Handler, ServerCall
    from pallet.api.buildkitbackend import BuildKitDoor
    from pallet.build.graph import Target
    from pallet.build.ports import Planner, Planning, ResolvedImage
    from pallet.build.request import BuildRequest

_SERVICE: Final = "/moby.buildkit.v1.frontend.LLBBridge"
OWN_SCHEME: Final = "pallet-build://"
_INPUTS: Final = "moby.buildkit.frontend.inputs"
_CAPS_LABEL: Final = "moby.buildkit.frontend.caps"
_NO_NETWORK_LABEL: Final = "moby.buildkit.frontend.network.none"
_DEFINITION: Final = "/run/config/buildkit/metadata/frontend.bin"
_LEAVING_S: Final = 5.0
_MAX_DEPTH: Final = 8
"""Of front ends that ask for front ends."""


class FrontEndImages:
    """``build.ports.FrontEnds`` of one daemon."""

    def __init__(self, door: BuildKitDoor) -> None:
        self._door = door

    def planner(self, cmdline: str) -> Planner:
        """See ``build.ports.FrontEnds``."""
        async def plan(planning: Planning) -> Plan:
            request = planning.request
            attrs = dict(request.attributes)
            if not attrs.keys() - {"requestid"}:  # a client that does not speak so
                attrs |= attributes.attributes_of(request.options)
            attrs |= {"cmdline": cmdline, "source": cmdline.partition(" ")[0]}
            return await _Conversation(self._door, planning, attrs, await _definitions(planning), 0).plan()

        return plan


async def _definitions(planning: Planning) -> dict[str, llb_pb2.Definition]:
    """What the build's inputs are as definitions; those that the client did not give so, as results of ours."""
    request = planning.request
    found = {name: llb_pb2.Definition.FromString(raw) for name, raw in request.definitions.items()}
    for name in request.inputs:
        if name not in found:
            found[name] = own_definition(f"input/{name}")
    return found


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
class _Reference:
    """What one reference that was handed out stands for."""

    vertex: Vertex
    sources: Mapping[str, bytes]
    planned: Target | None = None


class _Conversation:
    """One front end at work."""

    def __init__(self, door: BuildKitDoor, planning: Planning, attrs: Mapping[str, str],
                 definitions: Mapping[str, llb_pb2.Definition], depth: int) -> None:
        self._door = door
        self._planning = planning
        self._attrs = dict(attrs)
        self._definitions = definitions
        self._depth = depth
        self._references: dict[str, _Reference] = {}
        self._translator = Translator(planning)
        self._name = secrets.token_hex(8)
        self._own_image: ImageSource | None = None
        self._returned: gateway_pb2.ReturnRequest | None = None
        self._failures: list[Exception] = []
        """What its calls failed with: it may return one of them as it is."""

    async def plan(self) -> Plan:
        """Run the front end, and make of what it returned a plan.

        Raises:
            FrontEndError: what it returned instead.
            PalletError: it could not be run, or ended without a word.
        """
        if self._depth > _MAX_DEPTH:
            message = "too many front ends that ask for one another"
            raise InvalidParameterError(message)
        problem: PalletError | None = None
        process = await self._process()
        await self._learn_inputs()
        try:
            await self._converse(process)
        except PalletError as error:
            problem = error
        returned = self._returned
        if returned is not None and returned.HasField("error"):
            raise self._error(returned)
        if problem is not None:
            raise problem
        if returned is None:
            message = "no result for incomplete build"
            raise FrontEndError(message)
        return self._plan_of(returned.result)

    async def _converse(self, process: FrontEndProcess) -> None:
        """Run the process to its end, and answer it meanwhile. One that hangs up has a moment to go.

        Raises:
            FrontEndError: it did not go.
            PalletError: it could not be run, or failed.
        """
        here, there = socket.socketpair()
        here.setblocking(False)
        server = Server(self._methods())
        running = asyncio.ensure_future(self._planning.run(process, there))
        try:
            connection = await server.serve(here)
            await asyncio.wait((running, connection.closed), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((running,), timeout=_LEAVING_S)
            if not running.done():
                message = "frontend grpc server closed unexpectedly"
                raise FrontEndError(message)
            running.result()
        finally:
            running.cancel()
            await asyncio.wait((running,))
            await server.close()

    # --- the process

    async def _process(self) -> FrontEndProcess:
        source = self._attrs["source"]
        reference = references.parse_normalized(source)
        if reference.digest is None:
            reference = reference.with_default_tag()
        platform = host()
        image = await self._planning.image(str(reference), platform)
        self._own_image = ImageSource(reference=image.reference, digest=image.digest, platform=platform)
        config = image.config.config or spec.RunConfig()
        labels = config.labels or {}
        self._check_capabilities(labels.get(_CAPS_LABEL, ""))
        alone = labels.get(_NO_NETWORK_LABEL, "").lower() in {"1", "t", "true"}
        options = [f"BUILDKIT_FRONTEND_OPT_{number}={key}={value}"
                   for number, (key, value) in enumerate(sorted(self._attrs.items()))]
        return FrontEndProcess(
            image=image, platform=platform, args=tuple(config.entrypoint or ("/run",)),
            env=(*(config.env or ()), *options, f"BUILDKIT_SESSION_ID={self._planning.request.session}",
                 f"BUILDKIT_WORKERS={_workers(self._door)}", "BUILDKIT_EXPORTEDPRODUCT=docker"),
            cwd=config.working_dir or "/", network="none" if alone else "default",
            files={_DEFINITION: _image_definition(image).SerializeToString(deterministic=True)})

    def _check_capabilities(self, given: str) -> None:
        """See that the front end can do what is asked of it.

        Raises:
            NotImplementedApiError: BuildKit's words.
        """
        asked = _capabilities(self._attrs.get("frontend.caps", ""))
        if self._definitions:
            asked.add(_INPUTS)
        for capability in sorted(asked - _capabilities(given)):
            message = f"unsupported frontend capability {capability}"
            raise NotImplementedApiError(message)

    async def _learn_inputs(self) -> None:
        """Know what the inputs that are results of ours stand for."""
        own = {name: identifier for name, one in self._definitions.items() if (identifier := _own_identifier(one))}
        if not own:
            return
        plans = await self._planning.inputs()
        for name, identifier in own.items():
            if name in plans and plans[name].targets:
                self._translator.own[identifier] = plans[name].targets[0].vertex

    # --- the bridge

    def _methods(self) -> dict[str, Handler]:
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

    async def _solved(self, request: gateway_pb2.SolveRequest) -> tuple[gateway_pb2.Result, list[_Reference]]:
        if not request.Frontend:
            if not getattr(request.Definition, "def"):
                return gateway_pb2.Result(ref=gateway_pb2.Ref()), []
            found = await self._translator.translate(request.Definition)
            made = _Reference(found.vertex, found.sources)
            return gateway_pb2.Result(ref=self._hand_out(made, request.Definition)), [made]
        attrs = dict(request.FrontendOpt)
        plan = await self._planned(request, attrs)
        if not plan.targets:
            return gateway_pb2.Result(ref=gateway_pb2.Ref(), metadata=plan.answers), []
        return self._result_of(plan, several=len(plan.targets) > 1 or attrs.get("multi-platform") == "true")

    async def _planned(self, request: gateway_pb2.SolveRequest, attrs: Mapping[str, str]) -> Plan:
        """Let another front end plan: the built-in one, or one more image."""
        inputs = {name: _plan([results.target(found.vertex, None, None)], found.sources)
                  for name, one in request.FrontendInputs.items()
                  for found in [await self._translator.translate(one)]}
        if attributes.image_of(request.Frontend, attrs):
            definitions = dict(request.FrontendInputs)
            inner = _Conversation(self._door, self._planning, attrs, definitions, self._depth + 1)
            inner._translator.own |= self._translator.own
            return await inner.plan()
        below = self._request(attrs, inputs)
        if subrequest := attrs.get("requestid", ""):
            return Plan(targets=(), answers=dict(await self._planning.answers(subrequest, below)))
        return await self._planning.dockerfile(below)

    def _request(self, attrs: Mapping[str, str], inputs: Mapping[str, Plan]) -> BuildRequest:
        whole = self._planning.request
        options = attributes.frontend_options(attrs, whole.options.entitlements)
        return replace(whole, options=replace(options, inputs=inputs), inputs={}, planner=None, attributes=attrs)

    def _result_of(self, plan: Plan, *, several: bool) -> tuple[gateway_pb2.Result, list[_Reference]]:
        """What the built-in front end (or another image) planned, as a result on the wire."""
        result = gateway_pb2.Result()
        made = []
        for target in plan.targets:
            one = _Reference(target.vertex, plan.sources, target)
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

    def _hand_out(self, made: _Reference, definition: llb_pb2.Definition | None = None) -> gateway_pb2.Ref:
        name = secrets.token_hex(12)
        self._references[name] = made
        if definition is None:
            definition = own_definition(f"{self._name}/{name}")
            self._translator.own[f"{OWN_SCHEME}{self._name}/{name}"] = made.vertex
        reference = gateway_pb2.Ref(id=name)
        getattr(reference, "def").CopyFrom(definition)
        return reference

    def _reference(self, name: str) -> _Reference:
        found = self._references.get(name)
        if found is None:
            raise GrpcError(Code.NOT_FOUND, f"no such ref: {name}")
        return found

    async def _return(self, call: ServerCall, request: gateway_pb2.ReturnRequest) -> gateway_pb2.ReturnResponse:
        del call
        self._returned = request
        return gateway_pb2.ReturnResponse()

    async def _evaluate(self, call: ServerCall, request: gateway_pb2.EvaluateRequest) -> gateway_pb2.EvaluateResponse:
        del call
        if request.Ref:
            one = self._reference(request.Ref)
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
        one = self._reference(request.Ref)
        try:
            data = await self._planning.read(one.vertex, request.FilePath, looking.MAX_FILE_BYTES)
        except Exception as problem:
            raise self._failed(problem) from problem
        return looking.file_reply(request, data)

    async def _read_dir(self, call: ServerCall, request: gateway_pb2.ReadDirRequest) -> gateway_pb2.ReadDirResponse:
        del call
        one = self._reference(request.Ref)
        try:
            found = await self._planning.entries(one.vertex, request.DirPath)
        except Exception as problem:
            raise self._failed(problem) from problem
        return looking.directory_reply(request, found)

    async def _stat_file(self, call: ServerCall, request: gateway_pb2.StatFileRequest
                         ) -> gateway_pb2.StatFileResponse:
        del call
        one = self._reference(request.Ref)
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
        found = await self._image(request.Ref, request, request.ResolveMode)
        return gateway_pb2.ResolveImageConfigResponse(
            Digest=found.digest, Config=spec.encode(found.config), Ref=request.Ref)

    async def _resolve_source(self, call: ServerCall, request: gateway_pb2.ResolveSourceMetaRequest
                              ) -> gateway_pb2.ResolveSourceMetaResponse:
        del call
        name = looking.image_of(request)
        found = await self._image(name, request, request.ResolveMode)
        return gateway_pb2.ResolveSourceMetaResponse(
            Source=request.Source, Image=gateway_pb2.ResolveSourceImageResponse(
                Digest=found.digest, Config=spec.encode(found.config)))

    async def _image(self, name: str, request: gateway_pb2.ResolveImageConfigRequest
                     | gateway_pb2.ResolveSourceMetaRequest, mode: str) -> ResolvedImage:
        try:
            return await self._planning.image(name, looking.platform_of(request), pull=mode == "pull")
        except Exception as problem:
            raise self._failed(problem) from problem

    # --- what comes of it

    def _failed(self, problem: Exception) -> GrpcError:
        self._failures.append(problem)
        return failure(problem, lambda _: None)

    def _error(self, returned: gateway_pb2.ReturnRequest) -> Exception:
        """What it returned instead of a result: where it is a failure of a call of its own, that itself."""
        message = returned.error.message
        for problem in reversed(self._failures):
            if isinstance(problem, PalletError) and str(problem) == message:
                return problem
        return FrontEndError(message, [(one.type_url, one.value) for one in returned.error.details])

    def _plan_of(self, result: gateway_pb2.Result) -> Plan:
        kind = result.WhichOneof("result")
        metadata = dict(result.metadata)
        names = {"": result.ref.id if kind == "ref" else result.refDeprecated}
        if kind == "refs":
            names = {key: ref.id for key, ref in result.refs.refs.items()}
        elif kind == "refsDeprecated":
            names = dict(result.refsDeprecated.refs)
        platforms = results.platforms_of(metadata)
        if not any(names.values()) and results.CONFIG not in metadata:
            return Plan(targets=(), answers=metadata)
        targets: list[Target] = []
        sources: dict[str, bytes] = {}
        for key in results.in_order(names, platforms):
            name = names[key]
            one = self._reference(name) if name else _Reference(Vertex(op=ScratchOp(), name=""), {})
            sources.update(one.sources)
            targets.append(results.target(one.vertex, results.config_of(metadata, key),
                                          results.platform_of(key, platforms), one.planned))
        whole = _plan(targets, sources)
        if any(name and self._reference(name).planned is not None for name in names.values()):
            return whole  # the built-in front end's, as it is told of
        return replace(whole, front_end=FrontEnd(name="gateway.v0", attributes=self._attrs, image=self._own_image))


def _plan(targets: list[Target], sources: Mapping[str, bytes]) -> Plan:
    return Plan(targets=tuple(targets), sources=dict(sources))


def _workers(door: BuildKitDoor) -> str:
    """The one worker, as BuildKit's library writes it."""
    worker = capabilities.worker(door, door.native())
    return json.dumps([{
        "id": worker.ID, "labels": dict(worker.Labels),
        "platforms": [{"architecture": one.Architecture, "os": one.OS,
                       **({"variant": one.Variant} if one.Variant else {})} for one in worker.platforms],
        "gcPolicy": None, "cdiDevices": None,
        "buildkitVersion": {"package": worker.BuildkitVersion.package, "version": worker.BuildkitVersion.version,
                            "revision": worker.BuildkitVersion.revision}}], separators=(",", ":"))


def _capabilities(text: str) -> set[str]:
    return {name for part in text.split(",") if (name := part.partition("+")[0].strip())}


def _own_identifier(definition: llb_pb2.Definition) -> str:
    """The source that a definition is, if it is one of our results; else ""."""
    for data in getattr(definition, "def"):
        identifier = llb_pb2.Op.FromString(data).source.identifier
        if identifier.startswith(OWN_SCHEME):
            return str(identifier)
    return ""


def _image_definition(image: ResolvedImage) -> llb_pb2.Definition:
    """The front end's own image, as it is told of it."""
    name = image.reference if "@" in image.reference else f"{image.reference}@{image.digest}"
    data = llb_pb2.Op(source=llb_pb2.SourceOp(identifier=f"docker-image://{name}")).SerializeToString(
        deterministic=True)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    definition = llb_pb2.Definition()
    getattr(definition, "def").extend(
        [data, llb_pb2.Op(inputs=[llb_pb2.Input(digest=digest)]).SerializeToString(deterministic=True)])
    return definition
