"""Builds driven as buildx drives them: solve, status, the bridge, the return, the record."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.wire import content_pb2, control_pb2, gateway_pb2, llb_pb2, status_pb2
from pallet.build.errors import BuildError
from pallet.build.graph import LintWarning, LocalSource, ScratchOp, Span, Vertex
from pallet.build.progress import LogEvent, WarningEvent
from pallet.spec.dockerfile.errors import DockerfileError
from tests.unit.api.buildkit.clients import IMAGE, world

if TYPE_CHECKING:
    from pallet.api.buildkit.grpc import Client

CONTROL = "/moby.buildkit.v1.Control"
BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge"
CONTENT = "/containerd.services.content.v1.Content"


class Driver:
    """buildx's part of one build."""

    def __init__(self, client: Client, reference: str, **request: Any) -> None:
        self.client = client
        self.metadata = [("buildkit-controlapi-buildid", reference)]
        self.request = control_pb2.SolveRequest(Ref=reference, Session="s", **request)
        self.solved = asyncio.ensure_future(
            client.unary(f"{CONTROL}/Solve", self.request, control_pb2.SolveResponse))

    async def bridge(self, method: str, request: Any, kind: Any) -> Any:
        return await self.client.unary(f"{BRIDGE}/{method}", request, kind, metadata=self.metadata)

    async def solve(self, **fields: Any) -> gateway_pb2.SolveResponse:
        fields = {"Frontend": "dockerfile.v0", "allowResultReturn": True, **fields}
        reply: gateway_pb2.SolveResponse = await self.bridge(
            "Solve", gateway_pb2.SolveRequest(**fields), gateway_pb2.SolveResponse)
        return reply

    async def give_back(self, result: gateway_pb2.Result | None = None, **fields: Any) -> None:
        await self.bridge("Return", gateway_pb2.ReturnRequest(result=result, **fields), gateway_pb2.ReturnResponse)

    async def whole(self, **fields: Any) -> control_pb2.SolveResponse:
        reply = await self.solve(**fields)
        await self.give_back(reply.result)
        return await self.solved


async def status(client: Client, reference: str) -> list[control_pb2.StatusResponse]:
    found = []
    async with client.call(f"{CONTROL}/Status") as call:
        await call.send(control_pb2.StatusRequest(Ref=reference))
        call.end()
        while (response := await call.read(control_pb2.StatusResponse)) is not None:
            found.append(response)
    return found


async def history(client: Client, **fields: Any) -> list[control_pb2.BuildHistoryEvent]:
    found = []
    async with client.call(f"{CONTROL}/ListenBuildHistory") as call:
        await call.send(control_pb2.BuildHistoryRequest(EarlyExit=True, **fields))
        call.end()
        while (event := await call.read(control_pb2.BuildHistoryEvent)) is not None:
            found.append(event)
    return found


async def content(client: Client, digest: str) -> bytes:
    data = b""
    async with client.call(f"{CONTENT}/Read") as call:
        await call.send(content_pb2.ReadContentRequest(digest=digest))
        call.end()
        while (piece := await call.read(content_pb2.ReadContentResponse)) is not None:
            data += piece.data
    return data


async def test_the_probe_ends_with_its_empty_return(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        driver = Driver(await found.client(), "probe", Internal=True)
        pong = await driver.bridge("Ping", gateway_pb2.PingRequest(), gateway_pb2.PongResponse)
        caps = {cap.ID for cap in pong.FrontendAPICaps if cap.Enabled}
        assert {"solve.base", "return", "returnmap", "proto.refarray", "frontend.caps", "importcaches"} <= caps
        assert pong.Workers[0].ID == "worker"
        await driver.give_back(gateway_pb2.Result(ref=gateway_pb2.Ref()))
        assert not (await driver.solved).ExporterResponse
        assert not found.builder.requests
        assert not await history(driver.client)


async def test_a_build_is_what_the_bridge_was_asked_and_the_solve_exports(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        driver = Driver(await found.client(), "one", Entitlements=["network.host"], Exporters=[
            control_pb2.Exporter(Type="moby", Attrs={"name": "x"}), control_pb2.Exporter(Type="local")])
        response = await driver.whole(FrontendOpt={
            "filename": "D", "target": "t", "platform": "linux/arm64,linux/amd64", "build-arg:A": "1", "label:l": "2",
            "no-cache": "s1,s2", "image-resolve-mode": "pull", "force-network-mode": "none", "context:n": "local:n",
            "add-hosts": "a=1.2.3.4", "ulimit": "nofile=1:2", "shm-size": "64", "memory": "5",
            "attest:provenance": "mode=min", "cache-imports": json.dumps([{"Type": "registry", "Attrs": {"ref": "c"}}])})
        assert response.ExporterResponse["containerimage.digest"] == IMAGE
        [request] = found.builder.requests
        options = request.options
        assert (options.filename, options.target, options.build_args, options.labels) == (
            "D", "t", {"A": "1"}, {"l": "2"})
        assert [str(platform) for platform in options.platforms] == ["linux/arm64", "linux/amd64"]
        assert (options.no_cache, options.no_cache_stages, options.pull) == (False, ("s1", "s2"), True)
        assert (options.network, options.contexts, options.extra_hosts) == (
            "none", {"n": "local:n"}, (("a", "1.2.3.4"),))
        assert (options.ulimits, options.shm_size_bytes, options.resources) == ((("nofile", 1, 2),), 64, {"memory": 5})
        assert options.entitlements == {"network.host"}
        assert [(export.kind, export.attributes, export.id) for export in request.exports] == [
            ("image", {"name": "x"}, "0"), ("local", {}, "1")]
        assert request.attestations == {"provenance": "mode=min"}
        assert [(link.kind, link.attributes) for link in request.cache_imports] == [("registry", {"ref": "c"})]


async def test_a_direct_frontend_needs_no_bridge(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        driver = Driver(await found.client(), "direct", Frontend="dockerfile.v0", FrontendAttrs={"no-cache": ""},
                        ExporterDeprecated="image", ExporterAttrsDeprecated={"name": "y"})
        await driver.solved
        [request] = found.builder.requests
        assert request.options.no_cache
        assert [(export.kind, export.attributes) for export in request.exports] == [("image", {"name": "y"})]


async def test_an_evaluation_builds_without_outputs(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        driver = Driver(await found.client(), "one", Exporters=[control_pb2.Exporter(Type="moby")])
        reply = await driver.solve(Evaluate=True)
        await driver.bridge("Evaluate", gateway_pb2.EvaluateRequest(Ref=reply.result.ref.id),
                            gateway_pb2.EvaluateResponse)
        await driver.give_back(reply.result)
        await driver.solved
        assert [len(request.exports) for request in found.builder.requests] == [0, 0, 1]


@pytest.mark.parametrize("early", [True, False])
async def test_every_reader_of_the_progress_sees_it_from_the_start(tmp_path: Path, *, early: bool) -> None:
    async with world(tmp_path) as found:
        client = await found.client()
        reader = asyncio.ensure_future(status(client, "one")) if early else None
        await asyncio.sleep(0)
        await Driver(client, "one").whole()
        responses = await (reader or status(client, "one"))
        vertices = [vertex for response in responses for vertex in response.vertexes]
        assert [bool(vertex.completed.seconds) for vertex in vertices] == [False, True]
        assert [log.msg for response in responses for log in response.logs] == [b"hello\n"]


async def test_progress_of_an_unknown_build_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pallet.api.buildkit.builds._STATUS_LATE_S", 0.01)
    async with world(tmp_path) as found:
        with pytest.raises(GrpcError, match="no such job nothing") as caught:
            await status(await found.client(), "nothing")
        assert caught.value.code is Code.NOT_FOUND


async def test_endless_output_of_a_step_is_clipped(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        async def talk(request: Any, client: Any, watch: Any) -> None:
            for _ in range(40):
                watch(LogEvent(vertex="sha256:talk", stream=1, data=b"x" * 100_000, timestamp_ns=1))  # type: ignore[arg-type]

        found.builder.work = talk
        client = await found.client()
        await Driver(client, "one").whole()
        logs = [log.msg for response in await status(client, "one") for log in response.logs
                if log.vertex == "sha256:talk"]
        assert sum(map(len, logs)) < 2_200_000
        assert b"output clipped, log limit 2MiB reached" in logs[-1]


async def test_a_warning_shows_its_lines(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        served = await found.session()
        served.trees["dockerfile"] = {"Dockerfile": b"FROM X\nRUN y\n"}

        async def lint(request: Any, client: Any, watch: Any) -> None:
            await client.read_file("dockerfile", "Dockerfile", 1000)
            watch(WarningEvent(vertex="sha256:x", warning=LintWarning(  # type: ignore[arg-type]
                rule="R", message="m", description="d", url="u", span=Span(filename="Dockerfile", start=1, end=2))))

        found.builder.work = lint
        client = await found.client()
        await Driver(client, "one").whole()
        [warning] = [warning for response in await status(client, "one") for warning in response.warnings]
        assert (warning.short, list(warning.detail), warning.url) == (b"R: m (line 1)", [b"d"], "u")
        assert (warning.info.filename, warning.info.data) == ("Dockerfile", b"FROM X\nRUN y\n")
        assert [place.start.line for place in warning.ranges] == [1, 2]


def details(error: GrpcError) -> dict[str, Any]:
    """Typed details by their short name, decoded."""
    return {detail.type_url.rpartition(".")[2]: json.loads(detail.value) for detail in error.details}


async def test_a_failed_step_brings_its_lines_as_a_typed_detail(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        async def fail(request: Any, client: Any, watch: Any) -> None:
            vertex = Vertex(op=ScratchOp(), name="[2/2] RUN", span=Span(filename="Dockerfile", start=2, end=3))
            error = BuildError("exit code: 1", vertex=vertex, digest="sha256:v", exit_code=1)  # type: ignore[arg-type]
            error.sources = {"Dockerfile": b"FROM x\nRUN \\\n y\n"}
            raise error

        found.builder.work = fail
        client = await found.client()
        driver = Driver(client, "one")
        await driver.give_back((await driver.solve()).result)
        with pytest.raises(GrpcError, match="exit code: 1") as caught:
            await driver.solved
        assert caught.value.code is Code.UNKNOWN
        [event] = await history(client)
        whole = status_pb2.Status.FromString(await content(client, event.record.externalError.digest))
        found_details = details(GrpcError(Code.UNKNOWN, "", whole.details))
        assert found_details["Vertex+json"] == {"digest": "sha256:v"}
        assert found_details["Source+json"]["ranges"] == [
            {"start": {"line": 2}, "end": {"line": 2}}, {"start": {"line": 3}, "end": {"line": 3}}]
        assert event.record.error.message == "exit code: 1"


async def test_a_broken_dockerfile_brings_its_lines(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        async def fail(request: Any, client: Any, watch: Any) -> None:
            error = DockerfileError("dockerfile parse error on line 1: x", (1, 1))
            error.filename, error.source = "D", b"FOO\n"
            raise error

        found.builder.work = fail
        driver = Driver(await found.client(), "one", Frontend="dockerfile.v0")
        with pytest.raises(GrpcError, match="parse error on line 1") as caught:
            await driver.solved
        assert caught.value.code is Code.UNKNOWN
        source = details(caught.value)["Source+json"]
        assert (source["info"]["filename"], source["ranges"]) == ("D", [{"start": {"line": 1}, "end": {"line": 1}}])


async def test_the_clients_own_error_ends_its_solve(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        driver = Driver(await found.client(), "one")
        await driver.give_back(error=status_pb2.Status(code=2, message="changed my mind"))
        with pytest.raises(GrpcError, match="changed my mind"):
            await driver.solved


async def test_a_result_that_was_never_handed_out_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        driver = Driver(await found.client(), "one")
        await driver.give_back(gateway_pb2.Result(ref=gateway_pb2.Ref(id="made-up")))
        with pytest.raises(GrpcError, match="reference made-up not found"):
            await driver.solved
        assert not found.builder.requests


@pytest.mark.parametrize(("frontend", "attrs", "words"), [
    ("gateway.v0", {}, "no source specified for gateway"),
    ("magic.v1", {}, "frontend magic.v1 not found")])
async def test_other_frontends_are_refused(tmp_path: Path, frontend: str, attrs: dict[str, str], words: str) -> None:
    async with world(tmp_path) as found:
        driver = Driver(await found.client(), "one")
        with pytest.raises(GrpcError, match=words):
            await driver.solve(Frontend=frontend, FrontendOpt=attrs)
        driver.solved.cancel()


async def test_the_syntax_image_of_dockerfiles_is_the_front_end_here(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        await Driver(await found.client(), "one").whole(
            Frontend="gateway.v0", FrontendOpt={"source": "docker/dockerfile:1.7-labs"})
        assert len(found.builder.requests) == 1
        assert found.builder.requests[0].planner is None


async def test_other_images_plan_by_themselves(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        await Driver(await found.client(), "one").whole(
            Frontend="gateway.v0", FrontendOpt={"source": "example/other:1", "cmdline": "example/other:1 more"})
        assert [request.planner is None for request in found.builder.requests] == [False]
        assert found.builder.requests[0].attributes["cmdline"] == "example/other:1 more"


@pytest.mark.parametrize("over_the_bridge", [False, True])
async def test_definitions_plan_by_themselves(tmp_path: Path, *, over_the_bridge: bool) -> None:
    async with world(tmp_path) as found:
        definition = llb_pb2.Definition()
        operation = llb_pb2.Op(source=llb_pb2.SourceOp(identifier="local://x"))
        getattr(definition, "def").append(operation.SerializeToString())
        if over_the_bridge:
            await Driver(await found.client(), "one").whole(Frontend="", Definition=definition)
        else:
            await Driver(await found.client(), "one", Definition=definition).solved
        assert [request.planner is None for request in found.builder.requests] == [False]


async def test_subrequests_are_answered_and_nothing_is_built(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        driver = Driver(await found.client(), "one", Internal=True)
        reply = await driver.solve(FrontendOpt={"requestid": "frontend.lint"})
        assert reply.result.metadata["result.txt"] == b"frontend.lint"
        await driver.give_back(reply.result)
        await driver.solved
        assert len(found.builder.requests) == 1


async def test_the_progress_of_a_build_without_a_record_is_there_after_its_end(tmp_path: Path) -> None:
    """Clients call Solve and Status at once and give up on the second three seconds after the first."""
    async with world(tmp_path) as found:
        driver = Driver(await found.client(), "late", Internal=True)
        await driver.give_back(gateway_pb2.Result(ref=gateway_pb2.Ref()))
        await driver.solved
        async with asyncio.timeout(2):
            assert await status(driver.client, "late") == []


async def test_a_result_may_be_the_input_of_another_build(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        served = await found.session()
        served.trees["dockerfile"] = {"Base": b"FROM x\n"}
        served.trees["context"] = {"of-base": b"1"}
        client = await found.client()
        base = Driver(client, "base")
        reply = await base.solve(FrontendOpt={"filename": "Base"})
        definition = getattr(reply.result.ref, "def")
        dependent = Driver(client, "dependent")
        second = await dependent.solve(FrontendOpt={"context:b": "input:0-b"}, FrontendInputs={"0-b": definition})
        await base.give_back(reply.result)
        await base.solved

        async def look(request: Any, client: Any, watch: Any) -> None:
            below, below_client = request.inputs["0-b"]
            assert (below.options.filename, below.exports) == ("Base", ())
            assert await below_client.read_file("dockerfile", "Base", 100) == b"FROM x\n"
            tree = await client.tree(LocalSource(name="input:0-b/context"), watch, "sha256:v")
            assert (Path(tree.root) / "of-base").read_bytes() == b"1"
            await client.release(tree)

        found.builder.work = look
        await dependent.give_back(second.result)
        await dependent.solved


async def test_inputs_are_results_or_definitions(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        definition = llb_pb2.Definition()
        getattr(definition, "def").append(llb_pb2.Op(source=llb_pb2.SourceOp(
            identifier="docker-image://x")).SerializeToString())
        await Driver(await found.client(), "one").whole(FrontendInputs={"n": definition})
        below, _ = found.builder.requests[0].inputs["n"]
        assert below.planner is not None
        del getattr(definition, "def")[:]
        getattr(definition, "def").append(llb_pb2.Op(source=llb_pb2.SourceOp(
            identifier="pallet-build://a/b")).SerializeToString())
        driver = Driver(await found.client(), "two")
        with pytest.raises(GrpcError, match="no such result"):
            await driver.solve(FrontendInputs={"n": definition})
        driver.solved.cancel()


async def test_a_reference_is_used_by_one_build_at_a_time(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        client = await found.client()
        first = Driver(client, "one")
        await first.bridge("Ping", gateway_pb2.PingRequest(), gateway_pb2.PongResponse)
        with pytest.raises(GrpcError, match="job ID one exists"):
            await Driver(client, "one").solved
        await first.whole()


@pytest.mark.parametrize("how", ["call", "connection"])
async def test_a_client_that_goes_cancels_its_build(tmp_path: Path, how: str) -> None:
    async with world(tmp_path) as found:
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def hang(request: Any, client: Any, watch: Any) -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        found.builder.work = hang
        client = await found.client()
        driver = Driver(client, "one", Frontend="dockerfile.v0")
        await entered.wait()
        if how == "call":
            driver.solved.cancel()
        else:
            client.connection.abort()
        await cancelled.wait()
        while found.service.builds.running():
            await asyncio.sleep(0)
        with pytest.raises((GrpcError, asyncio.CancelledError)):
            await driver.solved
        [event] = await history(await found.client())
        assert event.record.error.code == Code.CANCELLED


async def test_records_name_logs_and_provenance(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        client = await found.client()
        await Driver(client, "one", Exporters=[control_pb2.Exporter(Type="moby")]).whole(FrontendOpt={"target": "t"})
        [event] = await history(client, Ref="one")
        record = event.record
        assert event.type == control_pb2.COMPLETE
        assert (record.FrontendAttrs["target"], record.numTotalSteps, record.numCompletedSteps) == ("t", 1, 1)
        assert record.ExporterResponse["containerimage.digest"] == IMAGE
        logs = control_pb2.StatusResponse.FromString(await content(client, record.logs.digest))
        assert logs.logs[0].msg == b"hello\n"
        assert await content(client, record.Result.ResultDeprecated.digest) == b"{}"
        [attestation] = record.Result.Attestations
        assert attestation.annotations["in-toto.io/predicate-type"] == "https://slsa.dev/provenance/v0.2"
        info = await client.unary(f"{CONTENT}/Info", content_pb2.InfoRequest(digest=attestation.digest),
                                  content_pb2.InfoResponse)
        assert info.info.size == 2
        for method, request, kind in (("Info", content_pb2.InfoRequest(digest="x"), content_pb2.InfoResponse),
                                      ("Read", content_pb2.ReadContentRequest(digest="x"),
                                       content_pb2.ReadContentResponse)):
            with pytest.raises(GrpcError, match="not found"):
                await client.unary(f"{CONTENT}/{method}", request, kind)


async def test_records_are_pinned_deleted_and_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pallet.api.buildkit.history._KEPT", 3)
    async with world(tmp_path) as found:
        client = await found.client()

        async def update(**fields: Any) -> None:
            await client.unary(f"{CONTROL}/UpdateBuildHistory", control_pb2.UpdateBuildHistoryRequest(**fields),
                               control_pb2.UpdateBuildHistoryResponse)

        await Driver(client, "0").whole()
        await update(Ref="0", Pinned=True)
        for number in range(1, 5):
            await Driver(client, str(number)).whole()
        assert [event.record.Ref for event in await history(client)] == ["4", "3", "0"]
        assert [event.record.Ref for event in await history(client, Limit=1)] == ["4"]
        await update(Ref="4", Delete=True)
        assert [event.record.Ref for event in await history(client)] == ["3", "0"]
        with pytest.raises(GrpcError, match="not found"):
            await update(Ref="4", Delete=True)


async def test_records_are_kept_small_and_told_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pallet.api.buildkit.history._KEPT_BYTES", 3_500_000)
    async with world(tmp_path) as found:
        async def talk(request: Any, client: Any, watch: Any) -> None:
            for number in range(20):
                watch(LogEvent(vertex="sha256:talk", stream=1, timestamp_ns=1,  # type: ignore[arg-type]
                               data=os.urandom(100_000) + b"%d" % number))

        found.builder.work = talk
        client = await found.client()
        for number in range(3):
            await Driver(client, str(number)).whole()
        assert [event.record.Ref for event in await history(client)] == ["2"]
        responses = await status(client, "2")
        assert len(responses) > 3
        logs = [log for response in responses for log in response.logs if log.vertex == "sha256:talk"]
        assert logs[-1].msg.endswith(b"19")
        assert sum(len(log.msg) for log in logs) > 2_000_000


async def test_the_cache_is_shown_and_pruned(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        client = await found.client()
        usage = await client.unary(f"{CONTROL}/DiskUsage", control_pb2.DiskUsageRequest(),
                                   control_pb2.DiskUsageResponse)
        assert [(record.ID, record.Size, record.CreatedAt.seconds) for record in usage.record] == [("one", 10, 1)]
        gone = []
        async with client.call(f"{CONTROL}/Prune") as call:
            await call.send(control_pb2.PruneRequest(filter=["", "type==regular"], keepDuration=5, all=True))
            call.end()
            while (record := await call.read(control_pb2.UsageRecord)) is not None:
                gone.append(record.ID)
        assert gone == ["one"]
        [prune] = found.builder.pruned
        assert (prune.all, prune.filters, prune.keep_duration_ns) == (True, ("type==regular",), 5)


async def test_the_worker_says_what_it_is(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        client = await found.client()
        [record] = (await client.unary(f"{CONTROL}/ListWorkers", control_pb2.ListWorkersRequest(),
                                       control_pb2.ListWorkersResponse)).record
        assert record.BuildkitVersion.version == "v1.2-moby"
        assert record.Labels["org.mobyproject.buildkit.worker.moby.host-gateway-ip"] == "172.17.0.1"
        info = await client.unary(f"{CONTROL}/Info", control_pb2.InfoRequest(), control_pb2.InfoResponse)
        assert info.buildkitVersion.version == "v1.2"


async def test_containers_over_the_bridge_are_unimplemented(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        driver = Driver(await found.client(), "one")
        with pytest.raises(GrpcError) as caught:
            await driver.bridge("NewContainer", gateway_pb2.NewContainerRequest(), gateway_pb2.NewContainerResponse)
        assert caught.value.code is Code.UNIMPLEMENTED
        await driver.whole()


async def test_the_bridge_wants_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pallet.api.buildkit.builds._LATE_S", 0.01)
    async with world(tmp_path) as found:
        client = await found.client()
        with pytest.raises(GrpcError, match="no buildid"):
            await client.unary(f"{BRIDGE}/Ping", gateway_pb2.PingRequest(), gateway_pb2.PongResponse)
        with pytest.raises(GrpcError, match="no such job x"):
            await client.unary(f"{BRIDGE}/Ping", gateway_pb2.PingRequest(), gateway_pb2.PongResponse,
                               metadata=[("buildkit-controlapi-buildid", "x")])


