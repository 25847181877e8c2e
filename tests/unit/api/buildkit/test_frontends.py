"""Conversations with front ends that are images: the process is a function of the test at the other end of the socket."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from pallet.api.buildkit import frontends
from pallet.api.buildkit.attrs import attributes_of, frontend_options
from pallet.api.buildkit.frontends import FrontEndImages
from pallet.api.buildkit.grpc import Client
from pallet.api.buildkit.status import GrpcError
from pallet.api.buildkit.wire import gateway_pb2 as gw
from pallet.api.buildkit.wire import llb_pb2 as pb
from pallet.api.buildkitbackend import BuildKitDoor
from pallet.build.errors import BuildError, FrontEndError
from pallet.build.graph import Plan, ScratchOp, Target, Vertex
from pallet.build.ports import FrontendOptions
from pallet.build.request import BuildRequest
from pallet.errors import InvalidParameterError, NotImplementedApiError, SystemFailureError
from pallet.spec.image import ImageConfigFile, RunConfig
from pallet.spec.platform import Platform
from tests.unit.api.buildkit.clients import PLATFORMS, FakeBuilder, _platforms
from tests.unit.api.buildkit.llbclient import Graph, mkfile
from tests.unit.api.buildkit.test_llb import DIGEST, Planning

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pallet.build.ports import FrontEndProcess, ResolvedImage

BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"


class Conversing(Planning):
    """A build whose front end is a function."""

    def __init__(self, program: Callable[[Any], Awaitable[None]], *, labels: dict[str, str] | None = None,
                 **attrs: str) -> None:
        super().__init__()
        self.request = BuildRequest(ref="r", options=FrontendOptions(), attributes=attrs, session="s")
        self.program = program
        self.processes: list[FrontEndProcess] = []
        self.told: list[Any] = []
        self.labels = labels
        self.failure: Exception | None = None

    @property
    def watch(self) -> Any:
        return self.told.append

    async def image(self, reference: str, platform: Platform, *, pull: bool = False) -> ResolvedImage:
        found = await super().image(reference, platform, pull=pull)
        return dataclasses.replace(found, config=ImageConfigFile(config=RunConfig(
            entrypoint=["/fe"], env=["A=b"], working_dir="/w", labels=self.labels)))

    async def run(self, process: FrontEndProcess, peer: socket.socket) -> None:
        self.processes.append(process)
        peer.setblocking(False)
        client = await Client.on_socket(peer)
        try:
            await self.program(client)
        finally:
            client.connection.close()
            await client.connection.closed

    async def dockerfile(self, request: BuildRequest) -> Plan:
        target = Target(platform=PLATFORMS[0], vertex=Vertex(op=ScratchOp(), name=""), config=ImageConfigFile(
            os="linux", architecture="amd64", config=RunConfig(cmd=[request.options.filename])), steps=())
        return Plan(targets=(target,))

    async def solve(self, vertices: Any, sources: Any) -> None:
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def front_ends(tmp_path: Path) -> FrontEndImages:
    """Of a daemon."""
    return FrontEndImages(BuildKitDoor(
        backend=FakeBuilder(tmp_path), worker_id="w", host_gateway=lambda: "", native=lambda: PLATFORMS,  # type: ignore[arg-type]
        platforms=_platforms, version="1", gc_rules=tuple))


async def call(client: Client, method: str, request: Any, kind: Any) -> Any:
    return await client.unary(BRIDGE + method, request, kind)


async def give_back(client: Client, **fields: Any) -> None:
    await call(client, "Return", gw.ReturnRequest(**fields), gw.ReturnResponse)


async def nothing(client: Client) -> None:
    await give_back(client, result=gw.Result(ref=gw.Ref()))


async def test_the_process_is_buildkits(front_ends: FrontEndImages) -> None:
    planning = Conversing(nothing, labels={"moby.buildkit.frontend.network.none": "true"}, target="t")
    await front_ends.planner("me/fe more")(planning)  # type: ignore[arg-type]
    (process,) = planning.processes
    assert planning.asked == [("docker.io/me/fe:latest", False)]
    assert (process.args, process.cwd, process.network) == (("/fe",), "/w", "none")
    assert process.env[:4] == ("A=b", "BUILDKIT_FRONTEND_OPT_0=cmdline=me/fe more",
                               "BUILDKIT_FRONTEND_OPT_1=source=me/fe", "BUILDKIT_FRONTEND_OPT_2=target=t")
    assert "BUILDKIT_SESSION_ID=s" in process.env
    assert list(process.files) == ["/run/config/buildkit/metadata/frontend.bin"]


async def test_what_is_asked_of_it_it_has_to_be_able_to_do(front_ends: FrontEndImages) -> None:
    planning = Conversing(nothing, **{"frontend.caps": "moby.buildkit.frontend.contexts+forward"})
    with pytest.raises(NotImplementedApiError, match=r"unsupported frontend capability moby\.buildkit\.frontend\.contexts"):
        await front_ends.planner("fe")(planning)  # type: ignore[arg-type]
    assert not planning.processes


async def silent(client: Client) -> None:
    await call(client, "Ping", gw.PingRequest(), gw.PongResponse)


async def failing(client: Client) -> None:
    message = "exit code: 1"
    raise SystemFailureError(message)


async def returning_and_failing(client: Client) -> None:
    await nothing(client)
    await failing(client)


async def returning_an_error_and_failing(client: Client) -> None:
    request = gw.ReturnRequest()
    request.error.code, request.error.message = 2, "its own words"
    await call(client, "Return", request, gw.ReturnResponse)
    await failing(client)


@pytest.mark.parametrize(("program", "words"), [
    (silent, "no result for incomplete build"), (failing, "exit code: 1"), (returning_and_failing, "exit code: 1"),
    (returning_an_error_and_failing, "its own words")])
async def test_which_failure_counts(front_ends: FrontEndImages, program: Any, words: str) -> None:
    with pytest.raises(SystemFailureError, match=words):
        await front_ends.planner("fe")(Conversing(program))  # type: ignore[arg-type]


async def test_one_that_hangs_up_and_stays_is_ended(front_ends: FrontEndImages, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def program(client: Client) -> None:
        client.connection.close()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(frontends, "_LEAVING_S", 0.05)
    with pytest.raises(FrontEndError, match="frontend grpc server closed unexpectedly"):
        await front_ends.planner("fe")(Conversing(program))  # type: ignore[arg-type]
    assert ended.is_set()


async def test_cancelling_ends_it(front_ends: FrontEndImages) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def program(client: Client) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.ensure_future(front_ends.planner("fe")(Conversing(program)))  # type: ignore[arg-type]
    await began.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_steps_failure_that_it_passes_on_is_that_failure(front_ends: FrontEndImages) -> None:
    async def program(client: Client) -> None:
        graph = Graph()
        try:
            await call(client, "Solve", gw.SolveRequest(
                Definition=graph.end(graph.file([], mkfile("/a", "b"))), Evaluate=True), gw.SolveResponse)
        except GrpcError as error:
            request = gw.ReturnRequest()
            request.error.message = error.message
            await call(client, "Return", request, gw.ReturnResponse)

    planning = Conversing(program)
    planning.failure = BuildError("the step failed")
    with pytest.raises(BuildError) as caught:
        await front_ends.planner("fe")(planning)  # type: ignore[arg-type]
    assert caught.value is planning.failure


async def test_the_built_in_front_ends_plan_keeps_its_steps_with_another_config(front_ends: FrontEndImages) -> None:
    async def program(client: Client) -> None:
        reply = await call(client, "Solve", gw.SolveRequest(
            Frontend="dockerfile.v0", FrontendOpt={"filename": "Inner"}, allowResultReturn=True), gw.SolveResponse)
        assert b"Inner" in reply.result.metadata["containerimage.config"]
        await give_back(client, result=reply.result)

    made = await front_ends.planner("fe")(Conversing(program))  # type: ignore[arg-type]
    (target,) = made.targets
    assert target.config.config is not None
    assert target.config.config.cmd == ["Inner"]
    assert made.front_end is None


async def test_what_it_asks_for_and_is_not_there(front_ends: FrontEndImages) -> None:
    async def program(client: Client) -> None:
        for method, request, kind, words in (
                ("Evaluate", gw.EvaluateRequest(Ref="made-up"), gw.EvaluateResponse, "no such ref: made-up"),
                ("ReadFile", gw.ReadFileRequest(Ref="made-up"), gw.ReadFileResponse, "no such ref: made-up"),
                ("NewContainer", gw.NewContainerRequest(), gw.NewContainerResponse, "unknown method NewContainer"),
                ("Solve", gw.SolveRequest(Frontend="magic.v1"), gw.SolveResponse, "frontend magic.v1 not found")):
            with pytest.raises(GrpcError, match=words):
                await call(client, method, request, kind)
        await nothing(client)

    await front_ends.planner("fe")(Conversing(program))  # type: ignore[arg-type]


async def test_sources_that_it_asks_about(front_ends: FrontEndImages) -> None:
    async def program(client: Client) -> None:
        async def meta(identifier: str, **attrs: str) -> Any:
            source = pb.SourceOp(identifier=identifier, attrs={key.replace("_", "."): value for key, value in attrs.items()})
            return await call(client, "ResolveSourceMeta", gw.ResolveSourceMetaRequest(Source=source),
                              gw.ResolveSourceMetaResponse)

        assert (await meta("docker-image://docker.io/a/b:1")).Image.Digest == DIGEST
        assert (await meta(f"oci-layout://n@{DIGEST}", oci_store="s")).Image.Digest == DIGEST
        assert not (await meta("local://x")).HasField("Image")
        for identifier, words in (("magic://x", "unknown scheme magic: not found"),
                                  ("nothing", "failed to parse nothing: invalid")):
            with pytest.raises(GrpcError, match=words):
                await meta(identifier)
        reply = await call(client, "ResolveImageConfig", gw.ResolveImageConfigRequest(
            Ref=f"n@{DIGEST}", ResolverType=1, StoreID="s"), gw.ResolveImageConfigResponse)
        assert reply.Digest == DIGEST
        await nothing(client)

    await front_ends.planner("fe")(Conversing(program))  # type: ignore[arg-type]


async def test_front_ends_that_ask_for_themselves_come_to_an_end(front_ends: FrontEndImages) -> None:
    async def program(client: Client) -> None:
        try:
            await call(client, "Solve", gw.SolveRequest(
                Frontend="gateway.v0", FrontendOpt={"source": "fe"}, allowResultReturn=True), gw.SolveResponse)
        except GrpcError as error:
            request = gw.ReturnRequest()
            request.error.message = error.message
            await call(client, "Return", request, gw.ReturnResponse)

    planning = Conversing(program)
    with pytest.raises((InvalidParameterError, FrontEndError), match="too many front ends that ask for one another"):
        await front_ends.planner("fe")(planning)  # type: ignore[arg-type]
    assert len(planning.processes) == 9


def test_options_and_attributes_are_two_forms_of_one_thing() -> None:
    options = FrontendOptions(
        filename="F", target="t", platforms=(Platform(os="linux", architecture="arm64"),), build_args={"A": ""},
        labels={"l": "x"}, no_cache_stages=("s",), pull=True, network="none", hostname="h", contexts={"c": "local:c"},
        resources={"memory": 5}, ulimits=(("nofile", 1, 2),), extra_hosts=(("n", "1.2.3.4"),), shm_size_bytes=7)
    assert frontend_options(attributes_of(options), ()) == options
    assert frontend_options(attributes_of(FrontendOptions(no_cache=True)), ()) == FrontendOptions(no_cache=True)
