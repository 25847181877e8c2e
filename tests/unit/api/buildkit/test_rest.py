"""``POST /build?version=2``: JSON lines, contexts in bodies, cancelling."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from pallet.api.buildkit.rest import exporters, frontend_attrs
from pallet.api.buildkit.status import GrpcError
from pallet.api.buildkit.wire import control_pb2
from pallet.errors import InvalidParameterError
from pallet.spec.engine.build import BuildOptions
from tests.unit.api.buildkit.clients import IMAGE, World, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


async def body(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def carry_out(found: World, options: BuildOptions, *pieces: bytes) -> list[Any]:
    rest = found.service.rest
    return [json.loads(line) async for line in rest.lines(rest.begin(options, body(*pieces))) if line]


async def test_lines_are_traces_and_then_the_image(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        await found.session()
        *traces, image = await carry_out(found, BuildOptions(remote="client-session", session="s", build_id="b",
                                                             tags=["x:1", "y"]))
        assert image == {"id": "moby.image.id", "aux": {"ID": IMAGE}}
        assert {line["id"] for line in traces} == {"moby.buildkit.trace"}
        status = control_pb2.StatusResponse()
        for line in traces:
            status.MergeFromString(base64.b64decode(line["aux"]))
        assert status.vertexes[-1].name == "[1/1] X"
        [request] = found.builder.requests
        assert [(export.kind, export.attributes) for export in request.exports] == [("image", {"name": "x:1,y"})]
        assert request.options.remote_context == ""
        assert not found.service.builds.running()


async def test_a_failure_is_the_last_line(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        async def fail(*_: Any) -> None:
            raise InvalidParameterError("no good")

        found.builder.work = fail
        lines = await carry_out(found, BuildOptions(remote="https://example.test/x.git", build_id="b"))
        assert lines[-1] == {"errorDetail": {"message": "no good"}, "error": "no good"}
        assert found.builder.requests[0].options.remote_context == "https://example.test/x.git"


@pytest.mark.parametrize("how", ["own", "second", "second first"])
async def test_the_context_may_come_in_a_body(tmp_path: Path, how: str) -> None:
    async with world(tmp_path) as found:
        async def read(request: Any, client: Any, watch: Any) -> None:
            pieces = [piece async for piece in await client.upload(request.options.remote_context)]
            assert pieces == [b"tar", b"ball"]

        found.builder.work = read
        rest = found.service.rest
        remote = "" if how == "own" else "upload-request"
        options = BuildOptions(remote=remote, build_id="b")
        upload = rest.upload(BuildOptions(build_id="upload-request:b"), body(b"tar", b"ball"))
        if how == "own":
            upload.close()
            lines = await carry_out(found, options, b"tar", b"ball")
        elif how == "second":
            build = asyncio.ensure_future(carry_out(found, options))
            await asyncio.sleep(0)
            assert await upload
            lines = await build
        else:
            given = asyncio.ensure_future(upload)
            await asyncio.sleep(0)
            lines = await carry_out(found, options)
            assert await given
        assert lines[-1]["id"] == "moby.image.id"


async def test_an_upload_that_nobody_wants_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pallet.api.buildkit.builds._UPLOAD_WANTED_S", 0.01)
    async with world(tmp_path) as found:
        assert await found.service.rest.upload(BuildOptions(build_id="upload-request:b"), body(b"x"))
        assert not await found.service.rest.upload(BuildOptions(build_id="b"), body(b"x"))


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_a_build_ends_with_its_client_or_by_its_id(tmp_path: Path, how: str) -> None:
    async with world(tmp_path) as found:
        cancelled = asyncio.Event()

        async def hang(*_: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        found.builder.work = hang
        rest = found.service.rest
        lines = rest.lines(rest.begin(BuildOptions(build_id="b", remote="http://x"), body()))
        await anext(lines)
        if how == "close":
            await lines.aclose()
        else:
            found.service.builds.cancel("b")
            found.service.builds.cancel("unknown")
            rest_of_it = [json.loads(line) async for line in lines]
            assert rest_of_it[-1]["error"] == "context canceled"
        await cancelled.wait()
        assert not found.service.builds.running()


async def test_an_id_is_used_by_one_build_at_a_time(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        rest = found.service.rest
        build = rest.begin(BuildOptions(build_id="b", remote="http://x"), body())
        with pytest.raises(GrpcError, match="job ID b exists"):
            rest.begin(BuildOptions(build_id="b", remote="http://x"), body())
        found.service.builds.end(build)


def test_the_query_becomes_attributes() -> None:
    options = BuildOptions(
        dockerfile="D", target="t", platform="linux/arm64", network_mode="none", pull=True, no_cache=True,
        cache_from=["a", "b"], build_args={"A": "1", "B": None}, labels={"l": "2"}, extra_hosts=["h:1.2.3.4"],
        ulimits=[("nofile", 1, 2)], memory_bytes=5, memory_swap_bytes=-1, cpu_shares=2, shm_size_bytes=64,
        cpuset_cpus="0", cgroup_parent="/x")
    assert frontend_attrs(options) == {
        "filename": "D", "target": "t", "platform": "linux/arm64", "force-network-mode": "none",
        "image-resolve-mode": "pull", "no-cache": "", "cache-from": "a,b", "build-arg:A": "1", "label:l": "2",
        "add-hosts": "h=1.2.3.4", "ulimit": "nofile=1:2", "memory": "5", "memswap": "-1", "cpushares": "2",
        "shm-size": "64", "cpusetcpus": "0", "cgroup-parent": "/x"}
    assert frontend_attrs(BuildOptions(network_mode="default")) == {"image-resolve-mode": "local"}


def test_outputs_become_exporters() -> None:
    def of(*outputs: dict[str, object]) -> list[tuple[str, dict[str, str]]]:
        found = exporters(BuildOptions(tags=["n"], outputs=list(outputs)))
        return [(exporter.Type, dict(exporter.Attrs)) for exporter in found]

    assert of() == [("moby", {"name": "n"})]
    assert of({"Type": "local", "Attrs": {}}) == [("local", {})]
    assert of({"Type": "image", "Attrs": {"push": "true"}}) == [("image", {"push": "true", "name": "n"})]
    assert of({"Type": "cacheonly"}) == []
    with pytest.raises(InvalidParameterError, match="multiple outputs not supported"):
        of({"Type": "local"}, {"Type": "tar"})
