"""LLBBridge: how a client drives the build that its solve began.

Owns   nothing: every call finds its build by ``buildkit-controlapi-buildid`` and adds to it.
Runs   on the event loop, a task a call.
Spec   buildkit-wire "flow", LLBBridge. Containers (NewContainer, ExecProcess) are not served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pallet.api.buildkit import attrs as attributes
from pallet.api.buildkit import capabilities, looking
from pallet.api.buildkit.builds import Wanted
from pallet.api.buildkit.failures import failure
from pallet.api.buildkit.frontendbridge import OWN_SCHEME, own_definition
from pallet.api.buildkit.grpc import decode, unary
from pallet.api.buildkit.sources import remote_inputs, source_url
from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.wire import control_pb2, gateway_pb2, llb_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.api.buildkit.builds import ActiveBuild, Builds, Handed
    from pallet.api.buildkit.grpc import Handler, ServerCall
    from pallet.api.buildkitbackend import BuildKitDoor
    from pallet.build.entries import Entry

_SERVICE: Final = "/moby.buildkit.v1.frontend.LLBBridge"
_CONTEXTS: Final = ("context", "dockerfile")


class Bridge:
    """The service of one daemon; builds by the id in a call's metadata."""

    def __init__(self, door: BuildKitDoor, builds: Builds) -> None:
        self._door = door
        self._builds = builds

    def methods(self) -> dict[str, Handler]:
        """Every method and its handler."""
        found: dict[str, Handler] = {
            f"{_SERVICE}/Ping": unary(gateway_pb2.PingRequest, self.ping),
            f"{_SERVICE}/Solve": unary(gateway_pb2.SolveRequest, self.solve),
            f"{_SERVICE}/Return": unary(gateway_pb2.ReturnRequest, self.give_back),
            f"{_SERVICE}/Evaluate": unary(gateway_pb2.EvaluateRequest, self.evaluate),
            f"{_SERVICE}/Inputs": unary(gateway_pb2.InputsRequest, self.inputs),
            f"{_SERVICE}/ReadFile": unary(gateway_pb2.ReadFileRequest, self.read_file),
            f"{_SERVICE}/ReadDir": unary(gateway_pb2.ReadDirRequest, self.read_dir),
            f"{_SERVICE}/StatFile": unary(gateway_pb2.StatFileRequest, self.stat_file),
            f"{_SERVICE}/Warn": unary(gateway_pb2.WarnRequest, self.warn),
            f"{_SERVICE}/ResolveImageConfig": unary(gateway_pb2.ResolveImageConfigRequest, self.resolve_config),
            f"{_SERVICE}/ResolveSourceMeta": unary(gateway_pb2.ResolveSourceMetaRequest, self.resolve_source),
        }
        return found

    async def _build(self, call: ServerCall) -> ActiveBuild:
        reference = call.first("buildkit-controlapi-buildid")
        if not reference:
            raise GrpcError(Code.INVALID_ARGUMENT, "no buildid found in context")
        build = await self._builds.get(reference)
        if build is None:
            raise GrpcError(Code.UNAVAILABLE, f"no such job {reference}")
        return build

    async def ping(self, call: ServerCall, request: gateway_pb2.PingRequest) -> gateway_pb2.PongResponse:
        """What this builder can do."""
        del request
        await self._build(call)
        return capabilities.pong(self._door)

    async def solve(self, call: ServerCall, request: gateway_pb2.SolveRequest) -> gateway_pb2.SolveResponse:
        """Take what is to be built. It is built when the client returns it, or asks for its evaluation."""
        build = await self._build(call)
        if not request.Frontend:
            if request.HasField("Definition") and getattr(request.Definition, "def"):
                return await self._definition(build, request)
            return gateway_pb2.SolveResponse(result=gateway_pb2.Result(ref=gateway_pb2.Ref()))
        attrs = dict(request.FrontendOpt)
        image = attributes.image_of(request.Frontend, attrs)
        sources = {} if image else remote_inputs(request.FrontendInputs)
        if url := sources.get("context", ""):
            attrs["context"] = url
        build.use(attrs)
        try:
            inputs = {name: await self._input(build, definition)
                      for name, definition in request.FrontendInputs.items()
                      if not (name in _CONTEXTS and sources.get(name) and sources[name] == url)}
            wanted = Wanted(attrs=attrs, imports=tuple(request.CacheImports), inputs=inputs, image=image,
                            definitions=request.FrontendInputs if image else {})
            if subrequest := attrs.get("requestid", ""):
                return await self._describe(build, subrequest, wanted)
            reference = self._builds.hand_out(build, wanted)
            if request.Evaluate:
                await build.run(wanted, exporting=False)
        except Exception as problem:
            raise failure(problem, build.client.source_text) from problem
        if not request.allowResultReturn:
            return gateway_pb2.SolveResponse(ref=reference)
        result = gateway_pb2.Result(ref=gateway_pb2.Ref(id=reference))
        getattr(result.ref, "def").CopyFrom(own_definition(f"{build.request.Ref}/{reference}"))
        return gateway_pb2.SolveResponse(result=result)

    async def _definition(self, build: ActiveBuild, request: gateway_pb2.SolveRequest) -> gateway_pb2.SolveResponse:
        """Hand out a definition; files of one remote source (bake files at a URL) are looked at as they are."""
        url = source_url(request.Definition)
        wanted = Wanted(attrs={"context": url} if url else {}, source=bool(url), definition=request.Definition)
        reference = self._builds.hand_out(build, wanted)
        if request.Evaluate:
            try:
                await build.run(wanted, exporting=False)
            except Exception as problem:
                raise failure(problem, build.client.source_text) from problem
        if not request.allowResultReturn:
            return gateway_pb2.SolveResponse(ref=reference)
        result = gateway_pb2.Result(ref=gateway_pb2.Ref(id=reference))
        getattr(result.ref, "def").CopyFrom(request.Definition)
        return gateway_pb2.SolveResponse(result=result)

    async def _input(self, build: ActiveBuild, definition: llb_pb2.Definition) -> Handed:
        """What a front end is to build on: a result that was handed out, or any other definition."""
        own = _own_name(definition)
        return await self._builds.input(own) if own else build.input(definition)

    def _wanted(self, build: ActiveBuild, reference: str) -> Wanted:
        wanted = build.results.get(reference)
        if wanted is None:
            raise GrpcError(Code.NOT_FOUND, f"no such ref: {reference}")
        return wanted

    async def read_file(self, call: ServerCall, request: gateway_pb2.ReadFileRequest) -> gateway_pb2.ReadFileResponse:
        """A file, or a part of one, of a reference."""
        build = await self._build(call)
        wanted = self._wanted(build, request.Ref)
        try:
            data = await self._door.backend.read_file(
                attributes.without_outputs(build.build_request(wanted)), request.FilePath, looking.MAX_FILE_BYTES,
                build.client, build.trace, source=wanted.source)
        except Exception as problem:
            raise failure(problem, build.client.source_text) from problem
        return looking.file_reply(request, data)

    async def stat_file(self, call: ServerCall, request: gateway_pb2.StatFileRequest) -> gateway_pb2.StatFileResponse:
        """What a file or directory of a reference is."""
        return looking.stat_reply(request, await self._entries(await self._build(call), request.Ref, request.Path))

    async def read_dir(self, call: ServerCall, request: gateway_pb2.ReadDirRequest) -> gateway_pb2.ReadDirResponse:
        """What is in a directory of a reference."""
        return looking.directory_reply(
            request, await self._entries(await self._build(call), request.Ref, request.DirPath))

    async def _entries(self, build: ActiveBuild, reference: str, path: str) -> Sequence[Entry] | None:
        wanted = self._wanted(build, reference)
        try:
            return await self._door.backend.entries(attributes.without_outputs(build.build_request(wanted)), path,
                                                    build.client, build.trace, source=wanted.source)
        except Exception as problem:
            raise failure(problem, build.client.source_text) from problem
    async def _describe(self, build: ActiveBuild, subrequest: str, wanted: Wanted) -> gateway_pb2.SolveResponse:
        found = await self._door.backend.describe(subrequest, build.build_request(wanted), build.client, build.trace)
        result = gateway_pb2.Result(ref=gateway_pb2.Ref())
        for key, value in found.items():
            result.metadata[key] = value
        return gateway_pb2.SolveResponse(result=result)

    async def give_back(self, call: ServerCall, request: gateway_pb2.ReturnRequest) -> gateway_pb2.ReturnResponse:
        """LLBBridge.Return: the solve goes on with this result, or fails with this error."""
        build = await self._build(call)
        if not build.returned.done():
            build.returned.set_result(request)
        return gateway_pb2.ReturnResponse()

    async def evaluate(self, call: ServerCall, request: gateway_pb2.EvaluateRequest) -> gateway_pb2.EvaluateResponse:
        """Build a reference that was handed out, into the cache."""
        build = await self._build(call)
        if request.Ref:
            wanted = build.results.get(request.Ref)
            if wanted is None:
                raise GrpcError(Code.NOT_FOUND, f"no such ref: {request.Ref}")
            try:
                await build.run(wanted, exporting=False)
            except Exception as problem:
                raise failure(problem, build.client.source_text) from problem
        return gateway_pb2.EvaluateResponse()

    async def inputs(self, call: ServerCall, request: gateway_pb2.InputsRequest) -> gateway_pb2.InputsResponse:
        """The solve's own inputs."""
        del request
        build = await self._build(call)
        return gateway_pb2.InputsResponse(Definitions=dict(build.request.FrontendInputs))

    async def warn(self, call: ServerCall, request: gateway_pb2.WarnRequest) -> gateway_pb2.WarnResponse:
        """Pass a client's warning on into the progress."""
        build = await self._build(call)
        build.trace.add_raw_warning(control_pb2.VertexWarning(
            vertex=request.digest, level=request.level, short=request.short, detail=request.detail, url=request.url,
            info=request.info, ranges=request.ranges))
        return gateway_pb2.WarnResponse()

    async def resolve_config(self, call: ServerCall, request: gateway_pb2.ResolveImageConfigRequest
                             ) -> gateway_pb2.ResolveImageConfigResponse:
        """The config of an image, by name."""
        digest, config = await self._resolve(await self._build(call), request.Ref, request, request.ResolveMode)
        return gateway_pb2.ResolveImageConfigResponse(Digest=digest, Config=config, Ref=request.Ref)

    async def resolve_source(self, call: ServerCall, request: gateway_pb2.ResolveSourceMetaRequest
                             ) -> gateway_pb2.ResolveSourceMetaResponse:
        """The same for an image given as a source; other sources are not resolved ahead."""
        build = await self._build(call)
        name = looking.image_of(request)
        if not name:
            return gateway_pb2.ResolveSourceMetaResponse(Source=request.Source)
        digest, config = await self._resolve(build, name, request, request.ResolveMode)
        return gateway_pb2.ResolveSourceMetaResponse(
            Source=request.Source, Image=gateway_pb2.ResolveSourceImageResponse(Digest=digest, Config=config))

    async def _resolve(self, build: ActiveBuild, reference: str, request: gateway_pb2.ResolveImageConfigRequest
                       | gateway_pb2.ResolveSourceMetaRequest, mode: str) -> tuple[str, bytes]:
        try:
            found = await self._door.backend.resolve_image(
                reference, looking.platform_of(request), pull=mode == "pull", client=build.client, watch=build.trace)
        except Exception as problem:
            raise failure(problem, build.client.source_text) from problem
        return found.digest, msgspec.json.encode(found.config)


def _own_name(definition: llb_pb2.Definition) -> str:
    """Which result that was handed out a definition means; "" for anything else."""
    operations = [decode(llb_pb2.Op, data) for data in getattr(definition, "def")]
    own = [op.source.identifier for op in operations if op.source.identifier.startswith(OWN_SCHEME)]
    return own[0].removeprefix(OWN_SCHEME) if len(own) == 1 else ""
