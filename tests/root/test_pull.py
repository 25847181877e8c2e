"""Pulls from a registry that behaves and from one that does not."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import random
import tarfile
import threading
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from pallet.errors import DataLossError, NotFoundError, PalletError, SystemFailureError
from pallet.spec import image as documents
from pallet.spec.platform import Platform
from pallet.transfer.auth import LoginCredentials
from tests.support.access import basic_access, token_access
from tests.support.faultyregistry import Fault, FaultyRegistry
from tests.support.registry import MANIFEST, BuiltImage, basic, build_image, digest
from tests.support.transfers import layer_tar, site, upload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pallet.registry.auth.guard import GuardedAccess

pytestmark = pytest.mark.needs("root", "overlay")

NOISE = random.Random(1).randbytes(3_000_000)
BASE, TOP = layer_tar({"base": NOISE}), layer_tar({"etc/top": b"top"})
IMAGE = build_image([BASE, TOP], Cmd=["sh"])
BIG, SMALL = (entry["digest"] for entry in json.loads(IMAGE.manifest)["layers"])
JOE = LoginCredentials(username="joe", password="secret")


def flip(data: bytes) -> bytes:
    return data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]


def short(value: str) -> str:
    return value.removeprefix("sha256:")[:12]


@pytest.fixture
def name(registry: FaultyRegistry) -> str:
    upload(registry.authority, "a/b", "1", IMAGE)
    registry.requests.clear()
    return f"{registry.authority}/a/b:1"


async def test_pull(tmp_path: Path, registry: FaultyRegistry, name: str) -> None:
    """Messages in Docker's words and order; blobs kept as they came; layers unpacked."""
    async with site(tmp_path / "data") as here:
        texts = await here.pull(name)
        assert texts[0] == "1: Pulling from a/b"
        assert texts[1:3] == [f"{short(BIG)}: Pulling fs layer", f"{short(SMALL)}: Pulling fs layer"]
        for layer in (BIG, SMALL):
            own = [text.partition(": ")[2] for text in texts if text.startswith(short(layer))]
            assert own == ["Pulling fs layer", "Verifying Checksum", "Download complete",
                           "Pull complete"]
        assert texts[-2:] == [f"Digest: {IMAGE.digest}",
                              f"Status: Downloaded newer image for {name}"]
        for key, data in {**IMAGE.blobs, IMAGE.digest: IMAGE.manifest}.items():
            assert here.content.read(key) == data  # type: ignore[arg-type]
        assert here.file(digest(TOP), "etc/top") == b"top"
        assert here.file(digest(BASE), "base") == NOISE
        here.assert_nothing_half_made()


async def test_second_pull_downloads_nothing(
    tmp_path: Path, registry: FaultyRegistry, name: str
) -> None:
    """An image that is here costs one manifest request and says nothing of its layers."""
    async with site(tmp_path / "data") as here:
        await here.pull(name)
        registry.requests.clear()
        assert await here.pull(name) == [
            "1: Pulling from a/b", f"Digest: {IMAGE.digest}",
            f"Status: Downloaded newer image for {name}"]
        assert list(registry.requests) == ["GET /v2/a/b/manifests/1"]


async def test_shared_layers_are_told_of(
    tmp_path: Path, registry: FaultyRegistry, name: str
) -> None:
    """A layer that another image brought is not fetched again."""
    other = build_image([BASE, layer_tar({"x": b"x"})])
    upload(registry.authority, "a/c", "1", other)
    async with site(tmp_path / "data") as here:
        await here.pull(name)
        registry.requests.clear()
        texts = await here.pull(f"{registry.authority}/a/c:1")
        assert f"{short(BIG)}: Already exists" in texts
        assert registry.requests[f"GET /v2/a/c/blobs/{BIG}"] == 0


async def test_lost_snapshot_is_rebuilt_from_its_blob(
    tmp_path: Path, registry: FaultyRegistry, name: str
) -> None:
    """The kept blob is unpacked again; nothing is downloaded."""
    async with site(tmp_path / "data") as here:
        await here.pull(name)
        here.snapshotter.remove_layer(digest(BASE))  # type: ignore[arg-type]
        registry.requests.clear()
        assert f"{short(BIG)}: Pull complete" in await here.pull(name)
        assert here.snapshotter.has_layer(digest(BASE))  # type: ignore[arg-type]
        assert registry.requests[f"GET /v2/a/b/blobs/{BIG}"] == 0


@pytest.mark.parametrize("damage", [lambda data: data[:5000], flip, lambda _data: b""])
async def test_blob_that_a_power_cut_damaged(
    tmp_path: Path, registry: FaultyRegistry, name: str, damage: Callable[[bytes], bytes]
) -> None:
    """The kept blob turns out not to be what its name says: it is fetched again."""
    async with site(tmp_path / "data") as here:
        await here.pull(name)
        here.snapshotter.remove_layer(digest(BASE))  # type: ignore[arg-type]
        path = here.content.path(BIG)
        path.write_bytes(damage(path.read_bytes()))
        registry.requests.clear()
        await here.pull(name)
        assert here.file(digest(BASE), "base") == NOISE
        assert here.content.read(BIG, verify=True) == IMAGE.blobs[BIG]
        assert registry.requests[f"GET /v2/a/b/blobs/{BIG}"] == 1
        here.assert_nothing_half_made()


@pytest.mark.parametrize("times", [1, 3])
async def test_broken_transfer_is_resumed(
    tmp_path: Path, registry: FaultyRegistry, name: str, times: int
) -> None:
    """A dropped connection goes on with a range request where it broke."""
    registry.faults.append(Fault(f"blobs/{BIG}", times=times, cut_at=500_000))
    async with site(tmp_path / "data") as here:
        await here.pull(name)
        assert registry.requests[f"GET /v2/a/b/blobs/{BIG}"] == times + 1
        assert registry.seen_headers[f"GET /v2/a/b/blobs/{BIG}"]["Range"] == (
            f"bytes={500_000 * times}-")
        assert here.file(digest(BASE), "base") == NOISE


@pytest.mark.parametrize("refusal", [
    Fault(f"blobs/{BIG}", ignore_range=True, times=1),
    Fault(f"blobs/{BIG}", status=416),
])
async def test_range_refused(
    tmp_path: Path, registry: FaultyRegistry, name: str, refusal: Fault
) -> None:
    """A server without ranges sends all again; what is there is skipped, the digest holds."""
    cut = Fault(f"blobs/{BIG}", cut_at=1_200_000)
    registry.faults += [cut]
    async with site(tmp_path / "data") as here:
        task = asyncio.ensure_future(here.pull(name))
        while cut.times:
            await asyncio.sleep(0.001)
        registry.faults.append(Fault(refusal.match, status=refusal.status,
                                     ignore_range=refusal.ignore_range))
        await task
        assert here.file(digest(BASE), "base") == NOISE


async def test_server_errors_are_retried(
    tmp_path: Path, registry: FaultyRegistry, name: str
) -> None:
    """Three bad answers, each of another kind, do not stop a pull."""
    registry.faults += [
        Fault(f"blobs/{SMALL}", status=500), Fault(f"blobs/{SMALL}", status=503, body=b"<html>"),
        Fault(f"blobs/{SMALL}", status=429, headers={"Retry-After": "0"})]
    async with site(tmp_path / "data") as here:
        await here.pull(name)


async def test_attempts_end(tmp_path: Path, registry: FaultyRegistry, name: str) -> None:
    """A layer that never comes fails with the registry's words, after the configured attempts."""
    registry.faults.append(Fault(f"blobs/{BIG}", times=99, status=502))
    async with site(tmp_path / "data", max_download_attempts=3) as here:
        with pytest.raises(SystemFailureError, match="received unexpected HTTP status: 502"):
            await here.pull(name)
        assert registry.requests[f"GET /v2/a/b/blobs/{BIG}"] == 3
        here.assert_nothing_half_made()
        assert not here.snapshotter.has_layer(digest(BASE))  # type: ignore[arg-type]


async def test_damage_on_the_way_is_mended(
    tmp_path: Path, registry: FaultyRegistry, name: str
) -> None:
    """One wrong byte: the digest tells, and the blob is fetched once more."""
    registry.faults.append(Fault(f"blobs/{BIG}", change=flip))
    async with site(tmp_path / "data") as here:
        await here.pull(name)
        assert here.file(digest(BASE), "base") == NOISE


@pytest.mark.parametrize(("fault", "words"), [
    (Fault(f"blobs/{BIG}", times=9, change=flip), "verification failed for digest"),
    (Fault(f"blobs/{BIG}", times=9, change=lambda data: data[:-5]), "where its descriptor says"),
    (Fault(f"blobs/{BIG}", times=9, change=lambda data: data + b"x"), "where its descriptor says"),
    (Fault("manifests/1", times=9, change=lambda data: data + b" "), "manifest verification failed"),
    (Fault(f"blobs/{json.loads(IMAGE.manifest)['config']['digest']}", times=9,
           change=lambda data: data[:-1] + b" "), "image config verification failed"),
])
async def test_wrong_content(
    tmp_path: Path, registry: FaultyRegistry, name: str, fault: Fault, words: str
) -> None:
    """Content that is not what its digest and size say never gets in, and nothing stays."""
    registry.faults.append(fault)
    async with site(tmp_path / "data") as here:
        with pytest.raises(PalletError, match=words):
            await here.pull(name)
        here.assert_nothing_half_made()
        assert not here.content.has(BIG) or fault.match.startswith("manifests")
        assert not here.pulled


async def test_config_that_lies_about_its_layers(tmp_path: Path, registry: FaultyRegistry) -> None:
    """A layer whose content is not the DiffID of the configuration is refused."""
    liar = build_image([BASE, TOP])
    config = json.loads(liar.blobs[json.loads(liar.manifest)["config"]["digest"]])
    config["rootfs"]["diff_ids"][1] = "sha256:" + "0" * 64
    raw = json.dumps(config).encode()
    manifest = json.loads(liar.manifest)
    manifest["config"].update(digest=digest(raw), size=len(raw))
    upload(registry.authority, "liar", "1",
           BuiltImage(manifest=json.dumps(manifest).encode(), blobs={**liar.blobs, digest(raw): raw}))
    async with site(tmp_path / "data") as here:
        with pytest.raises(DataLossError, match="layers from manifest don't match image config"):
            await here.pull(f"{registry.authority}/liar:1")
        here.assert_nothing_half_made()


@pytest.mark.parametrize("compress", [
    bytes, gzip.compress, zstandard.compress])
async def test_compressions(
    tmp_path: Path, registry: FaultyRegistry, compress: Callable[[bytes], bytes]
) -> None:
    """Plain, gzip and zstd layers, recognised by their bytes whatever their type says."""
    data = compress(BASE)
    plain = build_image([BASE], compression="none")
    manifest = json.loads(plain.manifest)
    manifest["layers"][0].update(digest=digest(data), size=len(data))
    blobs = {**plain.blobs, digest(data): data}
    upload(registry.authority, "c", "1", BuiltImage(manifest=json.dumps(manifest).encode(), blobs=blobs))
    async with site(tmp_path / "data") as here:
        await here.pull(f"{registry.authority}/c:1")
        assert here.file(digest(BASE), "base") == NOISE


def put_index(registry: FaultyRegistry, repository: str, images: dict[str, BuiltImage]) -> str:
    """Push an index of one image a platform; its digest."""
    entries = [{"mediaType": documents.OCI_MANIFEST, "digest": "sha256:" + "1" * 64, "size": 2,
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}]
    for platform, picture in images.items():
        upload(registry.authority, repository, picture.digest, picture)
        os, architecture = platform.split("/")
        entries.append({"mediaType": MANIFEST, "digest": picture.digest, "size": len(picture.manifest),
                        "platform": {"os": os, "architecture": architecture}})
    raw = json.dumps({"schemaVersion": 2, "mediaType": documents.OCI_INDEX,
                      "manifests": entries[1:]}).encode()
    upload(registry.authority, repository, "multi",
           BuiltImage(manifest=raw, blobs={}, media_type=documents.OCI_INDEX))
    return digest(raw)


async def test_index(tmp_path: Path, registry: FaultyRegistry) -> None:
    """The image of the host's platform is taken, another on request, none with Docker's words."""
    arm = build_image([TOP], architecture="arm64")
    index = put_index(registry, "m", {"linux/arm64": arm, "linux/amd64": IMAGE})
    name = f"{registry.authority}/m:multi"
    async with site(tmp_path / "data") as here:
        assert f"Digest: {index}" in await here.pull(name, platform=Platform(
            os="linux", architecture="amd64"))
        assert here.pulled[-1].manifest.digest == IMAGE.digest
        assert here.pulled[-1].target.digest == index
        await here.pull(name, platform=Platform(os="linux", architecture="arm64"))
        assert here.pulled[-1].manifest.digest == arm.digest
        with pytest.raises(NotFoundError) as error:
            await here.pull(name, platform=Platform(os="linux", architecture="s390x"))
        assert str(error.value) == (
            "no matching manifest for linux/s390x in the manifest list entries")


async def test_by_digest_and_all_tags(tmp_path: Path, registry: FaultyRegistry, name: str) -> None:
    """``name@digest`` pins; a bare name pulls every tag and says so once."""
    upload(registry.authority, "a/b", "2", build_image([TOP]))
    repository = name.removesuffix(":1")
    async with site(tmp_path / "data") as here:
        texts = await here.pull(f"{repository}@{IMAGE.digest}")
        assert texts[0] == f"{repository}@{IMAGE.digest}: Pulling from a/b"
        texts = await here.pull(repository)
        assert [text for text in texts if "Pulling from" in text] == [
            "1: Pulling from a/b", "2: Pulling from a/b"]
        assert texts[-1] == f"Status: Downloaded newer image for {repository}"
        assert [picture.reference.tag for picture in here.pulled] == [None, "1", "2"]


@pytest.mark.parametrize(("suffix", "words"), [
    ("/a/b:none", "manifest for {0}/a/b:none not found: manifest unknown: manifest unknown"),
    ("/none:1", "manifest for {0}/none:1 not found: manifest unknown: manifest unknown"),
])
async def test_not_found(
    tmp_path: Path, registry: FaultyRegistry, name: str, suffix: str, words: str
) -> None:
    """404 in Docker's words, and no message before it: the CLI then sees the status."""
    async with site(tmp_path / "data") as here:
        with pytest.raises(NotFoundError) as error:
            await here.pull(registry.authority + suffix)
        assert str(error.value) == words.format(registry.authority)
        assert here.messages == []


async def test_unreachable(tmp_path: Path) -> None:
    """Connection refused, in Go's words with the ping's URL."""
    async with site(tmp_path / "data") as here:
        with pytest.raises(SystemFailureError) as error:
            await here.pull("127.0.0.1:1/a:1")
        assert str(error.value) == (
            'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused')


@pytest.mark.parametrize("access", [basic_access, token_access])
async def test_credentials(
    tmp_path: Path, access: Callable[[], GuardedAccess]
) -> None:
    """Basic and bearer registries: with credentials it works, without it fails as in Docker."""
    with FaultyRegistry(tmp_path / "registry", access=access()) as registry:
        async with site(tmp_path / "data") as here:
            name = f"{registry.authority}/a/b:1"
            with pytest.raises(PalletError) as error:
                await here.pull(name)
            if access is token_access:
                assert str(error.value) == (
                    f"pull access denied for {registry.authority}/a/b, repository does not exist or "
                    "may require 'docker login': denied: requested access to the resource is denied")
            else:
                assert str(error.value).endswith("no basic auth credentials")
            with pytest.raises(PalletError, match="unauthorized"):
                await here.pull(name, credentials=LoginCredentials(username="joe", password="no"))
            with pytest.raises(NotFoundError, match="manifest unknown"):
                await here.pull(name, credentials=JOE)


async def test_identity_token(tmp_path: Path) -> None:
    """A login's refresh token stands in for the password."""
    with FaultyRegistry(tmp_path / "registry", access=token_access()) as registry:
        async with site(tmp_path / "data") as here:
            token = await here.transfers.registries.login(registry.authority, JOE)
            assert token
            with pytest.raises(NotFoundError, match="manifest unknown"):
                await here.pull(f"{registry.authority}/a:1",
                                credentials=LoginCredentials(identity_token=token))


async def test_redirect_does_not_carry_credentials(tmp_path: Path) -> None:
    """Blobs behind a redirect to another host: Range goes along, Authorization does not."""
    with FaultyRegistry(tmp_path / "storage") as storage, \
            FaultyRegistry(tmp_path / "registry", access=basic_access()) as registry:
        upload(storage.authority, "a/b", "1", IMAGE)
        secret = {"Authorization": JOE.basic()}
        upload(registry.authority, "a/b", "1", IMAGE, secret)
        for blob in (BIG, SMALL):
            registry.faults.append(Fault(f"blobs/{blob}", times=9, status=307, headers={
                "Location": f"http://{storage.authority}/v2/a/b/blobs/{blob}"}))
        storage.faults.append(Fault(f"blobs/{BIG}", cut_at=100_000))
        async with site(tmp_path / "data") as here:
            await here.pull(f"{registry.authority}/a/b:1", credentials=JOE)
        sent = storage.seen_headers[f"GET /v2/a/b/blobs/{BIG}"]
        assert sent["Range"] == "bytes=100000-"
        assert "Authorization" not in sent
        assert registry.seen_headers[f"GET /v2/a/b/blobs/{BIG}"]["Authorization"] == JOE.basic()


async def test_two_pulls_share_a_layer(
    tmp_path: Path, registry: FaultyRegistry, name: str
) -> None:
    """The layer is downloaded once and both see it complete."""
    gate = threading.Event()
    registry.faults.append(Fault(f"blobs/{BIG}", wait=gate))
    upload(registry.authority, "a/c", "1", IMAGE)
    async with site(tmp_path / "data") as here:
        first = asyncio.ensure_future(here.pull(name))
        second = asyncio.ensure_future(here.pull(f"{registry.authority}/a/c:1"))
        while sum(text.endswith(("Pulling from a/b", "Pulling from a/c"))
                  for text in here.texts()) < 2:
            await asyncio.sleep(0.001)
        gate.set()
        await asyncio.gather(first, second)
        total = sum(count for line, count in registry.requests.items() if line.endswith(BIG)
                    and line.startswith("GET"))
        assert total == 1
        assert here.texts().count(f"{short(BIG)}: Pull complete") == 2
        here.assert_nothing_half_made()


async def test_cancelled_pull_leaves_nothing(
    tmp_path: Path, registry: FaultyRegistry, name: str
) -> None:
    """The client went away: connection, worker, ingest, draft and lease are gone."""
    gate = threading.Event()
    registry.faults.append(Fault(f"blobs/{BIG}", times=9, wait=gate))
    async with site(tmp_path / "data") as here:
        task = asyncio.ensure_future(here.pull(name))
        while not list(here.paths.ingest.iterdir()):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        here.assert_nothing_half_made()
        gate.set()


async def test_one_of_two_pulls_cancelled(
    tmp_path: Path, registry: FaultyRegistry, name: str
) -> None:
    """The other still wants the layer and gets it."""
    gate = threading.Event()
    registry.faults.append(Fault(f"blobs/{BIG}", wait=gate))
    async with site(tmp_path / "data") as here:
        first = asyncio.ensure_future(here.pull(name))
        while not list(here.paths.ingest.iterdir()):
            await asyncio.sleep(0.001)
        second = asyncio.ensure_future(here.pull(name))
        while here.texts().count("1: Pulling from a/b") < 1 or len(here.metadata.leases()) < 2:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.set()
        await second
        assert here.file(digest(BASE), "base") == NOISE


async def test_mirror(tmp_path: Path, registry: FaultyRegistry) -> None:
    """docker.io goes to its mirror first; a dead mirror falls through to the next."""
    upload(registry.authority, "library/base", "1", IMAGE)
    async with site(tmp_path / "data", mirrors=(
            "http://127.0.0.1:1", f"http://{registry.authority}/")) as here:
        texts = await here.pull("base:1")
        assert texts[0] == "1: Pulling from library/base"
        assert texts[-1] == "Status: Downloaded newer image for base:1"


@pytest.mark.parametrize("pattern", ["", "*", "elsewhere.invalid"])
async def test_mirror_of_another_registry(tmp_path: Path, registry: FaultyRegistry, pattern: str) -> None:
    """A mirror of any registry is told whose image is wanted; Docker Hub's is not asked for others'."""
    upload(registry.authority, "a/b", "1", IMAGE)
    entry = f"{pattern}=http://{registry.authority}/" if pattern else f"http://{registry.authority}/"
    async with site(tmp_path / "data", mirrors=(entry,)) as here:
        if not pattern:
            with pytest.raises(SystemFailureError):
                await here.pull("elsewhere.invalid/a/b:1")
            assert not registry.requests["GET /v2/a/b/manifests/1"]
            return
        registry.faults.append(Fault("/v2/a/b/manifests/1?ns=elsewhere.invalid", status=404))
        with pytest.raises(SystemFailureError):  # the fault shows that ns was sent, and falls through
            await here.pull("elsewhere.invalid/a/b:1")
        texts = await here.pull("elsewhere.invalid/a/b:1")
        assert texts[-1] == "Status: Downloaded newer image for elsewhere.invalid/a/b:1"


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
async def test_mirror_that_fails_in_the_middle(tmp_path: Path, registry: FaultyRegistry, damage: str) -> None:
    """The registry itself has the rest."""
    origin = FaultyRegistry(tmp_path / "origin")
    with origin:
        upload(origin.authority, "a/b", "1", IMAGE)
        upload(registry.authority, "a/b", "1", IMAGE)
        faults: dict[str, dict[str, Any]] = {
            "cut": {"cut_at": 1000}, "missing": {"status": 404}, "changed": {"change": flip}}
        registry.faults.append(Fault(f"GET /v2/a/b/blobs/{BIG}", times=1000, **faults[damage]))
        async with site(tmp_path / "data", mirrors=(f"*=http://{registry.authority}/",)) as here:
            texts = await here.pull(f"{origin.authority}/a/b:1")
            assert texts[-1] == f"Status: Downloaded newer image for {origin.authority}/a/b:1"
            assert here.file(digest(BASE), "base") == NOISE
        assert registry.requests[f"GET /v2/a/b/blobs/{BIG}"]
        assert origin.requests[f"GET /v2/a/b/blobs/{BIG}"] == 1


@pytest.mark.parametrize("given", ["nothing", "own", "origin"])
async def test_credentials_for_mirrors(tmp_path: Path, given: str) -> None:
    """A mirror sees the origin's credentials only when told so."""
    with FaultyRegistry(tmp_path / "mirror", access=basic_access({"ann": "a", "me": "m"})) as mirror:
        transfer = FaultyRegistry(tmp_path / "mirror")  # the same store, open
        with transfer:
            upload(transfer.authority, "a/b", "1", IMAGE)
        auth = {"nothing": (), "own": ((mirror.authority, "ann", "a"),), "origin": ((mirror.authority, "", ""),)}
        async with site(tmp_path / "data", mirrors=(f"*=http://{mirror.authority}/",),
                        mirror_auth=auth[given]) as here:
            login = LoginCredentials(username="me", password="m")
            if given == "nothing":
                with pytest.raises(SystemFailureError):
                    await here.pull("elsewhere.invalid/a/b:1", credentials=login)
                assert "Authorization" not in mirror.seen_headers["GET /v2/a/b/manifests/1"]
                return
            await here.pull("elsewhere.invalid/a/b:1", credentials=login)
            sent = mirror.seen_headers["GET /v2/a/b/manifests/1"]["Authorization"]
            assert sent == (basic("ann", "a") if given == "own" else basic("me", "m"))


async def test_proxy(tmp_path: Path, registry: FaultyRegistry, name: str) -> None:
    """Requests for a host that only the proxy knows go through it."""
    proxy = {"http_proxy": f"http://{registry.authority}", "NO_PROXY": "other.invalid"}
    async with site(tmp_path / "data", environ=proxy, insecure=("registry.invalid",)) as here:
        texts = await here.pull("registry.invalid/a/b:1")
        assert texts[-1] == "Status: Downloaded newer image for registry.invalid/a/b:1"
        assert registry.requests[f"GET http://registry.invalid/v2/a/b/blobs/{BIG}"] == 1


async def test_foreign_layer(tmp_path: Path, registry: FaultyRegistry, name: str) -> None:
    """A layer that may not be distributed comes from its URL, the first that answers."""
    with FaultyRegistry(tmp_path / "elsewhere") as elsewhere:
        upload(elsewhere.authority, "a/b", "1", IMAGE)
        manifest = json.loads(IMAGE.manifest)
        manifest["layers"][0].update(
            mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            urls=["ftp://x/", f"http://{elsewhere.authority}/nothing",
                  f"http://{elsewhere.authority}/v2/a/b/blobs/{BIG}"])
        upload(registry.authority, "f", "1",
               BuiltImage(manifest=json.dumps(manifest).encode(),
                          blobs={key: data for key, data in IMAGE.blobs.items() if key != BIG}))
        elsewhere.faults.append(Fault(f"blobs/{BIG}", cut_at=300_000))
        async with site(tmp_path / "data") as here:
            await here.pull(f"{registry.authority}/f:1")
            assert here.file(digest(BASE), "base") == NOISE
        assert registry.requests[f"GET /v2/f/blobs/{BIG}"] == 0


async def test_hard_link_to_a_file_of_a_lower_layer(
    tmp_path: Path, registry: FaultyRegistry
) -> None:
    """The layer waits for its parents and is unpacked again, with one download."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("linked")
        info.type, info.linkname = tarfile.LNKTYPE, "base"
        tar.addfile(info)
    picture = build_image([BASE, buffer.getvalue()])
    upload(registry.authority, "l", "1", picture)
    registry.requests.clear()
    async with site(tmp_path / "data") as here:
        await here.pull(f"{registry.authority}/l:1")
        assert here.file(digest(buffer.getvalue()), "linked") == NOISE
        layer = json.loads(picture.manifest)["layers"][1]["digest"]
        assert registry.requests[f"GET /v2/l/blobs/{layer}"] == 1
        here.assert_nothing_half_made()


async def test_evil_layer(tmp_path: Path, registry: FaultyRegistry) -> None:
    """A layer that points outside of itself: a clear error, nothing left, nothing touched."""
    evil = build_image([BASE, layer_tar({"../../escaped": b"x"})])
    upload(registry.authority, "evil", "1", evil)
    async with site(tmp_path / "data") as here:
        with pytest.raises(PalletError):
            await here.pull(f"{registry.authority}/evil:1")
        here.assert_nothing_half_made()
        assert not list(tmp_path.rglob("escaped"))


async def test_sha512(tmp_path: Path, registry: FaultyRegistry) -> None:
    """Layers may be named by sha512; verification and storage follow."""
    data = gzip.compress(TOP)
    name512 = "sha512:" + hashlib.sha512(data).hexdigest()
    picture = build_image([TOP])
    manifest = json.loads(picture.manifest)
    manifest["layers"][0].update(digest=name512, size=len(data))
    upload(registry.authority, "s", "1",
           BuiltImage(manifest=json.dumps(manifest).encode(), blobs={**picture.blobs, name512: data}))
    async with site(tmp_path / "data") as here:
        await here.pull(f"{registry.authority}/s:1")
        assert here.content.read(name512) == data  # type: ignore[arg-type]
