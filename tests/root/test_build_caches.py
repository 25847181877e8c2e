"""Build caches elsewhere: written by one daemon, used by another that has nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pallet.build import graph
from pallet.build.remotecache import document
from pallet.build.request import CacheLink
from pallet.errors import InvalidParameterError, NotFoundError
from pallet.spec import platform as platforms
from tests.root.buildlab import BuildLab, Client, build_lab, copy, run
from tests.support.faultyregistry import FaultyRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pallet.build.job import Job

pytestmark = pytest.mark.needs("root", "overlay")


class Layouts(Client):
    """A client with layouts: blobs by store and digest."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[tuple[str, str], bytes] = {}

    async def put_blob(self, store: str, digest: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> None:
        data = b"".join([chunk async for chunk in chunks])
        assert len(data) == size_bytes
        self.blobs[store, digest] = data

    async def blob(self, store: str, digest: str) -> AsyncIterator[bytes]:
        data = self.blobs.get((store, digest))
        if data is None:
            raise NotFoundError(digest)

        async def pieces() -> AsyncIterator[bytes]:
            yield data

        return pieces()


def target(lab: BuildLab) -> graph.Vertex:
    """Two stages; what the first one makes does not come out the same twice."""
    stage = run(lab.image(), "cat /proc/sys/kernel/random/uuid > /out; mkdir -p /opaque/x; rm -r /srv; mkdir /srv; ln /out /out2", name="stage")
    return run(copy(lab.image(), stage, "/out", dest="/"), "cat /out > /end; rm /etc/notexec", name="end")


async def write(lab: BuildLab, link: CacheLink, client: Client) -> tuple[tuple[str, ...], dict[str, str]]:
    """Build and export; return the layers and the response."""
    async with lab.job(client) as job:
        (solved,) = await lab.solver.solve([target(lab)], job)
        response = await lab.daemon.solving.exporter.export(link, job, [solved.layers])
    lab.daemon.images.collect()
    return solved.layers, response


async def use(lab: BuildLab, link: CacheLink, client: Client) -> tuple[str, ...]:
    """Build with a cache from elsewhere."""
    async def solve(job: Job) -> tuple[str, ...]:
        cache = await lab.daemon.solving.importer.open(link, job)
        assert cache is not None
        job.caches.append(cache)
        return (await lab.solver.solve([target(lab)], job))[0].layers

    async with lab.job(client) as job:
        return await solve(job)


@pytest.mark.parametrize("mode", ["min", "max"])
async def test_registry(tmp_path: Path, mode: str) -> None:
    """The other daemon runs nothing, has the same layers, and keeps them as its own records."""
    with FaultyRegistry(tmp_path / "registry") as registry:
        link = CacheLink(kind="registry", attributes={"ref": f"{registry.authority}/cache:1", "mode": mode})
        async with build_lab(tmp_path / "a") as one:
            layers, response = await write(one, link, Client())
            assert json.loads(response["cache.manifest"])["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
        async with build_lab(tmp_path / "b") as other:
            assert await use(other, link, Client()) == layers
            assert other.told.ran() == []
            descriptions = {record.description for record in other.daemon.solving.cache.all()}
            assert descriptions == {"end"}
            assert other.read(layers, "end") == other.read(layers, "out")
            await other.solve(target(other))
            assert other.told.ran() == []
            if mode == "max":
                async with other.job() as job:
                    stage = target(other).inputs[0].inputs[1]
                    cache = await other.daemon.solving.importer.open(link, job)
                    assert cache is not None
                    job.caches.append(cache)
                    await other.solver.solve([stage], job)
                    assert other.told.ran() == []


async def test_local(tmp_path: Path) -> None:
    """A layout at the client's; the digest names what to read."""
    client = Layouts()
    async with build_lab(tmp_path / "a") as one:
        layers, response = await write(one, CacheLink(kind="local", attributes={"dest": "d"}), client)
    digest = json.loads(response["cache.manifest"])["digest"]
    client.blobs = {("local:s", name): data for (_, name), data in client.blobs.items()}
    async with build_lab(tmp_path / "b") as other:
        assert await use(other, CacheLink(kind="local", attributes={"src": "s", "digest": digest}), client) == layers
        assert other.told.ran() == []


async def test_a_client_without_its_own_index(tmp_path: Path) -> None:
    """A client that takes documents by name gets the layout's index, and is asked for it."""
    client = Layouts()
    client.writes_index = True  # type: ignore[attr-defined]
    async with build_lab(tmp_path / "a") as one:
        layers, _ = await write(one, CacheLink(kind="local", attributes={"dest": "d", "tag": "t"}), client)
    assert ("local:d", "oci-layout") in client.blobs
    async with build_lab(tmp_path / "b") as other:
        assert await use(other, CacheLink(kind="local", attributes={"src": "d", "tag": "t"}), client) == layers
        async with other.job(client) as job:
            importer = other.daemon.solving.importer
            assert await importer.open(CacheLink(kind="local", attributes={"src": "d"}), job) is None


async def test_layout_as_a_base(tmp_path: Path) -> None:
    """An image of a layout at the client's is brought here once, and what is built on it can be recorded."""
    client = Layouts()
    async with build_lab(tmp_path / "a") as one:
        digest, manifest = one.daemon.images.manifest(one.base.id)
        for blob in (digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)):
            client.blobs["oci:base", blob] = one.daemon.content.read(blob)
    async with build_lab(tmp_path / "b", import_base=False) as other:
        op = graph.OciLayoutSource(store="base", reference="x", digest=digest, platform=platforms.host())
        base = graph.Vertex(op=op, name="FROM layout")
        for told in (["FROM layout", "RUN echo x > /x"], []):
            async with other.job(client) as job:
                (solved,) = await other.solver.solve([run(base, "echo x > /x")], job)
            assert other.told.ran() == told
            assert solved.layers[0] == one.base.diff_ids[0]


async def test_inline(tmp_path: Path) -> None:
    """The records of an image's own layers, in its config; BuildKit's field."""
    async with build_lab(tmp_path) as lab, lab.job() as job:
        (solved,) = await lab.solver.solve([target(lab)], job)
        config = lab.daemon.solving.exporter.inline(lab.base.raw_config, job, solved.layers)
        assert json.loads(config)["rootfs"] == json.loads(lab.base.raw_config)["rootfs"]
        raw = document.inlined(config)
        assert raw is not None
        entries = document.decode(raw, ()).entries
        assert {entry.description for entry in entries.values()} == {"end", "COPY /out /"}
        assert document.inlined(lab.base.raw_config) is None


async def test_what_is_not_there_or_wrong(tmp_path: Path) -> None:
    """A cache that is absent is told as such; unknown kinds and lacking attributes are refused."""
    with FaultyRegistry(tmp_path / "registry") as registry:
        async with build_lab(tmp_path / "a") as lab, lab.job() as job:
            importer, exporter = lab.daemon.solving.importer, lab.daemon.solving.exporter
            with pytest.raises(NotFoundError):
                await importer.open(CacheLink(kind="registry", attributes={"ref": f"{registry.authority}/no:1"}), job)
            for kind in ("registry", "local", "gha"):
                with pytest.raises(InvalidParameterError):
                    await importer.open(CacheLink(kind=kind), job)
                with pytest.raises(InvalidParameterError):
                    await exporter.export(CacheLink(kind=kind), job, [])
            with pytest.raises(InvalidParameterError, match="unsupported cache export mode"):
                await exporter.export(CacheLink(kind="local", attributes={"mode": "x"}), job, [])
