"""Pushes to a registry that behaves, to one that does not, and over connections that break."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pallet.engine.imagepush import push_request
from pallet.errors import NotFoundError, SystemFailureError
from pallet.image.store import ImageStore
from pallet.spec import platform as platforms
from pallet.spec.reference import parse_normalized
from pallet.transfer import upload as uploads
from pallet.transfer.auth import LoginCredentials
from tests.support.access import token_access
from tests.support.cuttingproxy import CuttingProxy
from tests.support.faultyregistry import Fault, FaultyRegistry
from tests.support.registry import BuiltImage, DebianRegistry, build_image, digest
from tests.support.transfers import Site, layer_tar, site, upload
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pallet.spec.image import StoredManifest
    from pallet.spec.platform import Platform

pytestmark = pytest.mark.needs("root", "overlay")

INDEX = "application/vnd.oci.image.index.v1+json"
BASE = layer_tar({"base": random.Random(2).randbytes(5_000_000)})
TOP = layer_tar({"etc/top": b"top" * 1000})
IMAGE = build_image([BASE, TOP], Cmd=["sh"])
DERIVED = build_image([BASE, layer_tar({"new": b"new"})])
PLAIN = build_image([BASE, TOP], compression="none", Env=["A=b"])
NOBODY = LoginCredentials()


@dataclass
class Pusher:
    """A site with an image store, as the engine has it."""

    here: Site
    images: ImageStore

    async def pull(self, name: str) -> None:
        """Pull and record as the engine does."""
        await self.here.pull(name)
        pulled = self.here.pulled[-1]
        self.images.put(pulled.config_digest, manifest_digest=pulled.manifest.digest,
                        reference=pulled.reference, target_digest=pulled.target.digest)

    def tag(self, name: str, new: str) -> None:
        """``docker tag``."""
        self.images.tag(self.images.resolve(name).id, parse_normalized(new))

    async def push(self, name: str, *, platform: Platform | None = None,
                   credentials: LoginCredentials = NOBODY) -> list[StoredManifest]:
        """``docker push``; messages in ``here.messages``."""
        self.here.messages.clear()
        reference = parse_normalized(name)
        request = push_request(self.images, self.here.content, reference, credentials, {},
                               platform=platform)
        pushed = await self.here.transfers.pusher.push(request, self.here.messages.append)
        for picture, manifest in zip(request.images, pushed, strict=True):
            self.here.content.put(manifest.raw, manifest.digest)
            self.images.add_digest(self.images.resolve(picture.reference.familiar()).id,
                                   reference.repository().with_digest(manifest.digest))
        return pushed

    def aux(self) -> dict[str, Any]:
        """The last message's result for programs."""
        found = self.here.messages[-1].aux
        assert isinstance(found, msgspec.Raw)
        document: dict[str, Any] = json.loads(bytes(found))
        return document

    def statuses(self, layer: bytes) -> list[str]:
        """What was said of a layer, byte counts left out."""
        head = digest(layer)[7:19] + ": "
        return [text.removeprefix(head) for text in self.here.texts() if text.startswith(head)]


@asynccontextmanager
async def pusher(root: Path) -> AsyncIterator[Pusher]:
    """A site; afterwards nothing is half made."""
    async with site(root) as here:
        yield Pusher(here, ImageStore(here.content, here.snapshotter, here.metadata,
                                      users=lambda _image: ()))
        here.assert_nothing_half_made()


@pytest.fixture
def name(registry: FaultyRegistry) -> str:
    upload(registry.authority, "a/b", "1", IMAGE)
    registry.requests.clear()
    return f"{registry.authority}/a/b:1"


async def test_words_and_bytes(tmp_path: Path, registry: FaultyRegistry, name: str) -> None:
    """Mounted where the registry has it, existing the second time; the manifest as it was."""
    async with pusher(tmp_path / "data") as one:
        await one.pull(name)
        one.tag(name, f"{registry.authority}/c/d:2")
        pushed = await one.push(f"{registry.authority}/c/d:2")
        assert [manifest.raw for manifest in pushed] == [IMAGE.manifest]
        assert one.statuses(BASE) == ["Preparing", "Mounted from a/b"]
        size = len(IMAGE.manifest)
        assert f"2: digest: {IMAGE.digest} size: {size}" in one.here.texts()
        assert one.aux() == {"Tag": "2", "Digest": IMAGE.digest, "Size": size}
        await one.push(f"{registry.authority}/c/d:2")
        assert one.statuses(BASE) == ["Preparing", "Layer already exists"]
        one.tag(name, "127.0.0.1:1/x:1")
        with pytest.raises(SystemFailureError, match="connection refused"):
            await one.push("127.0.0.1:1/x:1")


async def test_mount_source_of_each_layer(
    tmp_path: Path, registry: FaultyRegistry, name: str
) -> None:
    """A layer that another image shares is mounted from there, its own layers are sent."""
    with FaultyRegistry(tmp_path / "other") as other:
        upload(other.authority, "x", "1", DERIVED)
        async with pusher(tmp_path / "data") as one:
            await one.pull(name)
            await one.pull(f"{other.authority}/x:1")
            one.tag(f"{other.authority}/x:1", f"{registry.authority}/new:1")
            await one.push(f"{registry.authority}/new:1")
            assert one.statuses(BASE)[-1] == "Mounted from a/b"
            assert one.statuses(layer_tar({"new": b"new"}))[-1] == "Pushed"


async def test_mount_that_is_refused(tmp_path: Path, registry: FaultyRegistry, name: str) -> None:
    """The blob is sent instead."""
    async with pusher(tmp_path / "data") as one:
        await one.pull(name)
        one.tag(name, f"{registry.authority}/c:1")
        registry.faults.append(Fault("mount=", times=9, status=403))
        await one.push(f"{registry.authority}/c:1")
        assert one.statuses(BASE)[-1] == "Pushed"


async def test_scope_of_a_mount(tmp_path: Path) -> None:
    """One token for both repositories."""
    with FaultyRegistry(tmp_path / "registry", access=token_access()) as server:
        joe = LoginCredentials(username="joe", password="secret")
        async with pusher(tmp_path / "data") as one:
            with FaultyRegistry(tmp_path / "open") as other:
                upload(other.authority, "x", "1", IMAGE)
                await one.pull(f"{other.authority}/x:1")
                one.tag(f"{other.authority}/x:1", f"{server.authority}/first:1")
                one.tag(f"{other.authority}/x:1", f"{server.authority}/second:1")
            with pytest.raises(SystemFailureError, match=r"authentication required|denied"):
                await one.push(f"{server.authority}/first:1")
            await one.push(f"{server.authority}/first:1", credentials=joe)
            await one.push(f"{server.authority}/second:1", credentials=joe)
            assert one.statuses(BASE)[-1] == "Mounted from first"


@pytest.mark.parametrize("times", [1, 2])
async def test_broken_transfer_goes_on(
    tmp_path: Path, registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """After a broken connection the session is asked, and the rest goes in chunks."""
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 1 << 20)
    with FaultyRegistry(tmp_path / "other") as other, CuttingProxy(
            int(registry.authority.rpartition(":")[2]), 2_500_000, times) as proxy:
        upload(other.authority, "x", "1", IMAGE)
        async with pusher(tmp_path / "data") as one:
            await one.pull(f"{other.authority}/x:1")
            one.tag(f"{other.authority}/x:1", f"{proxy.authority}/y:1")
            await one.push(f"{proxy.authority}/y:1")
            assert one.statuses(BASE)[-1] == "Pushed"
            assert proxy.cuts == times
            asked = [line for line in registry.requests if line.startswith("PATCH")]
            assert asked
            await one.pull(f"{registry.authority}/y:1")


@pytest.mark.needs("registry")
async def test_broken_transfer_to_docker_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's cannot say how far a broken piece came: a new session, chunk by chunk."""
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 1 << 20)
    with DebianRegistry(tmp_path / "debian") as debian, FaultyRegistry(
            tmp_path / "other") as other, CuttingProxy(debian.port, 3_500_000, 2) as proxy:
        upload(other.authority, "x", "1", IMAGE)
        upload(other.authority, "plain", "1", PLAIN)
        async with pusher(tmp_path / "data") as one:
            for source in ("x", "plain"):
                await one.pull(f"{other.authority}/{source}:1")
                one.tag(f"{other.authority}/{source}:1", f"{proxy.authority}/{source}:1")
                await one.push(f"{proxy.authority}/{source}:1")
                assert one.statuses(BASE)[-1] in {"Pushed", "Mounted from x"}
        assert proxy.cuts == 2
        assert debian.status("GET", f"/v2/x/blobs/{digest(gzip.compress(BASE, 1, mtime=0))}") == 200


async def test_made_here_is_compressed(tmp_path: Path, registry: FaultyRegistry) -> None:
    """Layers stored as plain tars go out as gzip, the same every time; what was pulled does not."""
    async with pusher(tmp_path / "data") as one:
        upload(registry.authority, "plain", "1", PLAIN)
        await one.pull(f"{registry.authority}/plain:1")
        image = one.images.resolve(f"{registry.authority}/plain:1")
        one.tag(image.id, f"{registry.authority}/again:1")
        assert [m.raw for m in await one.push(f"{registry.authority}/again:1")] == [PLAIN.manifest]
        one.tag(image.id, f"{registry.authority}/packed:1")
        for found in one.images.references(image.id):
            if found.digest is not None:  # as if it had been loaded: no registry has its manifest
                one.images.untag(found)
        pushed = (await one.push(f"{registry.authority}/packed:1"))[0]
        assert one.statuses(BASE)[-1] == "Pushed"
        layers = pushed.manifest().layers
        assert {layer.media_type for layer in layers} == {
            "application/vnd.oci.image.layer.v1.tar+gzip"}
        assert pushed.manifest().config.digest == image.id  # type: ignore[comparison-overlap]
        one.tag(image.id, f"{registry.authority}/more:1")
        again = (await one.push(f"{registry.authority}/more:1"))[0]
        assert again.raw == pushed.raw
        assert one.statuses(BASE)[-1] == "Mounted from packed"
    async with pusher(tmp_path / "fresh") as two:
        await two.pull(f"{registry.authority}/packed:1")
        assert two.here.file(digest(TOP), "etc/top") == b"top" * 1000


async def test_cancelled(tmp_path: Path, registry: FaultyRegistry) -> None:
    """A client that leaves while a layer is compressed and sent: nothing stays behind."""
    go_on = threading.Event()
    with FaultyRegistry(tmp_path / "other") as other:
        upload(other.authority, "plain", "1", PLAIN)
        async with pusher(tmp_path / "data") as one:
            await one.pull(f"{other.authority}/plain:1")
            image = one.images.resolve(f"{other.authority}/plain:1")
            one.tag(image.id, f"{registry.authority}/x:1")
            for found in one.images.references(image.id):
                if found.digest is not None:
                    one.images.untag(found)
            registry.faults.append(Fault("PATCH", times=9, wait=go_on))
            pushing = asyncio.create_task(one.push(f"{registry.authority}/x:1"))
            await asyncio.to_thread(eventually, lambda: any(
                line.startswith("PATCH") for line in registry.requests))
            pushing.cancel()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await pushing
        assert list((tmp_path / "data").rglob("ingest/*")) == []


def index_of(*images: tuple[str, BuiltImage]) -> BuiltImage:
    entries = [{"mediaType": image.media_type, "digest": image.digest,
                "size": len(image.manifest), "platform": {"os": "linux", "architecture": name}}
               for name, image in images]
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    return BuiltImage(manifest=raw, blobs={}, media_type=INDEX)


async def test_index(tmp_path: Path, registry: FaultyRegistry) -> None:
    """Whole where all of it is here, byte for byte; else the one image, and a note of that."""
    arm = build_image([layer_tar({"arm": b"arm"})], architecture="arm64")
    whole, part = index_of(("amd64", IMAGE)), index_of(("amd64", IMAGE), ("arm64", arm))
    with FaultyRegistry(tmp_path / "other") as other:
        for tag, image in (("amd", IMAGE), ("arm", arm), ("whole", whole), ("part", part)):
            upload(other.authority, "x", tag, image)
        async with pusher(tmp_path / "data") as one:
            await one.pull(f"{other.authority}/x:whole")
            one.tag(f"{other.authority}/x:whole", f"{registry.authority}/y:whole")
            assert [m.raw for m in await one.push(f"{registry.authority}/y:whole")] == [
                whole.manifest]
            alone = platforms.parse("linux/amd64")
            assert [m.raw for m in await one.push(
                f"{registry.authority}/y:whole", platform=alone)] == [IMAGE.manifest]
            with pytest.raises(NotFoundError, match="does not provide the specified platform"):
                await one.push(f"{registry.authority}/y:whole",
                               platform=platforms.parse("linux/s390x"))
            await one.pull(f"{registry.authority}/y:whole")
    async with pusher(tmp_path / "second") as two:
        upload(registry.authority, "z", "arm", arm)
        upload(registry.authority, "z", "amd", IMAGE)
        upload(registry.authority, "z", "part", part)
        await two.pull(f"{registry.authority}/z:part")
        assert [m.raw for m in await two.push(f"{registry.authority}/z:part")] == [IMAGE.manifest]
        note = two.aux()
        assert note["manifestPushedInsteadOfIndex"] is True
        assert note["originalIndex"]["digest"] == part.digest
