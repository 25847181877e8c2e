"""Front ends that are images: containers that plan builds over their standard input and output.

Owns   one conversation: the process, which speaks gRPC as the client, and the plan of what it returned.
Runs   on the event loop, below the build's own task.
Spec   BuildKit's ``gateway.v0``: environment, capabilities. What it can call is ``frontendbridge.py``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pallet.api.buildkit import attrs as attributes
from pallet.api.buildkit import capabilities
from pallet.api.buildkit.frontendbridge import OWN_SCHEME, FrontEndBridge, Reference, own_definition, plan_of
from pallet.api.buildkit.grpc import Server
from pallet.api.buildkit.llb import results
from pallet.api.buildkit.wire import gateway_pb2, llb_pb2
from pallet.build.errors import FrontEndError
from pallet.build.graph import FrontEnd, ImageSource, Plan, ScratchOp, Vertex
from pallet.build.ports import FrontEndProcess
from pallet.errors import InvalidParameterError, NotImplementedApiError, PalletError
from pallet.spec import image as spec
from pallet.spec import reference as references
from pallet.spec.platform import host

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.api.buildkitbackend import BuildKitDoor
    from pallet.build.graph import Target
    from pallet.build.ports import Planner, Planning, ResolvedImage

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


class _Conversation:
    """One front end at work."""

    def __init__(self, door: BuildKitDoor, planning: Planning, attrs: Mapping[str, str],
                 definitions: Mapping[str, llb_pb2.Definition], depth: int) -> None:
        self._door = door
        self._planning = planning
        self._attrs = dict(attrs)
        self._definitions = definitions
        self._depth = depth
        self._bridge = FrontEndBridge(door, planning, definitions, self._ask)
        self._own_image: ImageSource | None = None

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
        returned = self._bridge.returned
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
        server = Server(self._bridge.methods())
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
                self._bridge.translator.own[identifier] = plans[name].targets[0].vertex

    async def _ask(self, attrs: Mapping[str, str], definitions: Mapping[str, llb_pb2.Definition]) -> Plan:
        """Have another image plan."""
        inner = _Conversation(self._door, self._planning, attrs, definitions, self._depth + 1)
        inner._bridge.translator.own |= self._bridge.translator.own
        return await inner.plan()

    # --- what comes of it

    def _error(self, returned: gateway_pb2.ReturnRequest) -> Exception:
        """What it returned instead of a result: where it is a failure of a call of its own, that itself."""
        message = returned.error.message
        for problem in reversed(self._bridge.failures):
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
            one = self._bridge.reference(name) if name else Reference(Vertex(op=ScratchOp(), name=""), {})
            sources.update(one.sources)
            targets.append(results.target(one.vertex, results.config_of(metadata, key),
                                          results.platform_of(key, platforms), one.planned))
        whole = plan_of(targets, sources)
        if any(name and self._bridge.reference(name).planned is not None for name in names.values()):
            return whole  # the built-in front end's, as it is told of
        return replace(whole, front_end=FrontEnd(name="gateway.v0", attributes=self._attrs, image=self._own_image))


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
