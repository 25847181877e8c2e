"""Definitions that clients hand in are built as dockerd 28.5.2's BuildKit builds them: files, and errors to the letter."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from pallet.api.buildkit.wire import control_pb2, gateway_pb2
from pallet.api.buildkit.wire import llb_pb2 as pb
from tests.unit.api.buildkit.llbcases import BUSYBOX, CASES, GOLDEN, OUT, outcome, root
from tests.unit.api.buildkit.llbclient import Driver, Graph, LlbClient, mkfile

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay")

WANTED: dict[str, Any] = json.loads(GOLDEN.read_text())


def test_all_definitions(engine: Daemon) -> None:
    async def all_of_them() -> dict[str, Any]:
        return {name: await outcome(engine.socket, case) for name, case in CASES.items()}

    assert asyncio.run(all_of_them()) == WANTED


def test_what_was_made_is_cached_by_content(engine: Daemon) -> None:
    """Two commands that make the same files lead to one and the same next step."""
    async def twice() -> list[Any]:
        found = []
        async with LlbClient(engine.socket) as client:
            for comment in ("one", "two"):
                graph = Graph()
                base = graph.source(BUSYBOX)
                first = graph.run(f"echo same > /out/f; touch -d @86400 /out/f; : {comment}", [base], [root(), OUT],
                                  index=1)
                second = graph.run("head -c 8 /dev/urandom | md5sum > /out/r", [base, first], [
                    root(), OUT, pb.Mount(input=1, dest="/in", readonly=True, output=-1)], index=1)
                found.append((await client.tree(graph.end(second)))["r"])
        return found

    one, two = asyncio.run(twice())
    assert one == two



def test_a_client_that_drives_its_build_returns_graphs_with_configs(engine: Daemon) -> None:
    """As programs with BuildKit's client library do: solve, look, return; two platforms in one index."""
    async def drive(client: LlbClient) -> tuple[bytes, list[str], dict[str, str]]:
        driver = Driver(client, [control_pb2.Exporter(Type="image", Attrs={"name": "llb-driven"})])
        graph = Graph()
        step = graph.run("echo x > /out/f", [graph.source(BUSYBOX)], [root(), OUT], index=1)
        references = [await driver.solve(graph.end(one)) for one in (
            step, graph.file([step], mkfile("/g", "more", base=0)))]
        data = await driver.call("ReadFile", gateway_pb2.ReadFileRequest(Ref=references[1], FilePath="/g"),
                                 gateway_pb2.ReadFileResponse)
        names = await driver.call("ReadDir", gateway_pb2.ReadDirRequest(Ref=references[1], DirPath="/"),
                                  gateway_pb2.ReadDirResponse)
        platforms = ["linux/amd64", "linux/arm64"]
        result = gateway_pb2.Result(metadata={"refs.platforms": json.dumps({"Platforms": [
            {"ID": name, "Platform": {"os": "linux", "architecture": name[6:]}} for name in platforms]}).encode()})
        for name, reference in zip(platforms, references, strict=True):
            result.refs.refs[name].id = reference
            result.metadata[f"containerimage.config/{name}"] = json.dumps(
                {"os": "linux", "architecture": name[6:], "config": {"Cmd": [name]}}).encode()
        response = await driver.give_back(result)
        return data.Data, [entry.path for entry in names.entries], dict(response.ExporterResponse)

    async def run() -> tuple[bytes, list[str], dict[str, str]]:
        async with LlbClient(engine.socket) as client:
            return await drive(client)

    data, names, response = asyncio.run(run())
    assert (data, names) == (b"more", ["f", "g"])
    assert response["image.name"] == "docker.io/library/llb-driven:latest"
    image = engine.api.call("GET", "/images/llb-driven/json").json
    assert (image["Architecture"], image["Config"]["Cmd"]) == ("amd64", ["linux/amd64"])
    assert len(image["RootFS"]["Layers"]) == 1
    engine.api.call("DELETE", "/images/llb-driven?force=1")
