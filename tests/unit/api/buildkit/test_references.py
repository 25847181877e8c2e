"""Files of references: what bake reads out of a URL, and what any client reads of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pallet.api.buildkit.sources import source_url
from pallet.api.buildkit.status import GrpcError
from pallet.api.buildkit.wire import gateway_pb2, llb_pb2
from tests.unit.api.buildkit.clients import world
from tests.unit.api.buildkit.test_flow import Driver

if TYPE_CHECKING:
    from pathlib import Path

GIT = {"git.fullurl": "http://h/r.git", "git.keepgitdir": "true"}


def definition(identifier: str, attrs: dict[str, str] | None = None, *more: llb_pb2.Op) -> llb_pb2.Definition:
    ops = [llb_pb2.Op(source=llb_pb2.SourceOp(identifier=identifier, attrs=attrs or {})), *more, llb_pb2.Op()]
    found = llb_pb2.Definition()
    getattr(found, "def").extend([op.SerializeToString() for op in ops])
    return found


@pytest.mark.parametrize(("made", "url"), [
    (definition("git://h/r.git#main:sub", GIT), "http://h/r.git#main:sub"),
    (definition("git://github.com/a/b.git"), "https://github.com/a/b.git"),
    (definition("https://h/x.hcl", {"http.filename": "context"}), "https://h/x.hcl"),
    (definition("docker-image://docker.io/library/busybox"), ""),
    (definition("local://context"), ""),
    (definition("https://h/x", None, llb_pb2.Op(file=llb_pb2.FileOp())), ""),
])
def test_one_source_is_a_url(made: llb_pb2.Definition, url: str) -> None:
    assert source_url(made) == url


async def test_a_source_is_read_and_is_a_context(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        await found.session()
        driver = Driver(await found.client(), "r")
        source = definition("git://h/r.git#main", GIT)
        reply = await driver.solve(Frontend="", Definition=source)
        reference = reply.result.ref.id

        async def read(path: str, **fields: Any) -> bytes:
            data: bytes = (await driver.bridge("ReadFile", gateway_pb2.ReadFileRequest(
                Ref=reference, FilePath=path, **fields), gateway_pb2.ReadFileResponse)).Data
            return data

        assert await read("docker-bake.hcl") == b"docker-bake.hcl of http://h/r.git#main True"
        assert await read("docker-bake.hcl", Range=gateway_pb2.FileRange(Offset=7, Length=4)) == b"bake"
        with pytest.raises(GrpcError, match="stat absent: no such file or directory"):
            await read("absent")
        listed = await driver.bridge("ReadDir", gateway_pb2.ReadDirRequest(
            Ref=reference, DirPath="d", IncludePattern="*.hcl"), gateway_pb2.ReadDirResponse)
        (entry,) = listed.entries
        assert (entry.path, entry.mode, entry.uid, entry.gid, entry.size) == ("a.hcl", 0o640, 3, 4, 5)
        told = await driver.bridge("StatFile", gateway_pb2.StatFileRequest(Ref=reference, Path="x/d/"),
                                   gateway_pb2.StatFileResponse)
        assert (told.stat.path, told.stat.mode) == ("d", 1 << 31 | 0o755)
        with pytest.raises(GrpcError, match="no such ref"):
            await driver.bridge("StatFile", gateway_pb2.StatFileRequest(Ref="no", Path="d"), gateway_pb2.StatFileResponse)
        await driver.whole(FrontendInputs={"context": source, "dockerfile": source})
        assert found.builder.requests[-1].options.remote_context == "http://h/r.git#main"


async def test_any_definition_is_a_context(tmp_path: Path) -> None:
    async with world(tmp_path) as found:
        await found.session()
        driver = Driver(await found.client(), "r")
        await driver.whole(FrontendInputs={"context": definition("docker-image://x")})
        assert "context" in found.builder.requests[0].inputs
        assert not found.builder.requests[0].options.remote_context
