"""Images of the engine over real stores and a registry: pull, push, list, inspect, tag, remove."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pallet.config import Config, RegistryConfig
from pallet.engine.images import Images
from pallet.errors import NotFoundError, PalletError, UnauthorizedError
from pallet.image.store import ImageStore
from pallet.registry.server import RegistryServer
from pallet.spec.engine import filters
from pallet.spec.engine.auth import AuthConfig
from pallet.spec.engine.options import ImageListOptions, PullOptions, PushOptions
from pallet.transfer import tls
from tests.support.access import token_access
from tests.support.faultyregistry import Fault, FaultyRegistry
from tests.support.registry import build_image, digest
from tests.support.transfers import Site, layer_tar, site, upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from pallet.spec.engine.progress import ProgressMessage

pytestmark = pytest.mark.needs("root", "overlay")

BASE, TOP = layer_tar({"base": b"b" * 70_000}), layer_tar({"top": b"t" * 5})
IMAGE = build_image([BASE, TOP], Cmd=["sh"], Labels={"x": "y"}, Env=["A=b"], ExposedPorts={"80/tcp": {}})
CONFIG = json.loads(IMAGE.manifest)["config"]["digest"]
JOE = AuthConfig(username="joe", password="secret")


class Engine:
    """``Images`` with its events and the messages of the last call."""

    def __init__(self, here: Site, config: RegistryConfig) -> None:
        self.store = ImageStore(here.content, here.snapshotter, here.metadata, users=lambda _id: ())
        self.events: list[tuple[str, str, dict[str, str]]] = []
        self.messages: list[ProgressMessage] = []
        self.images = Images(
            config=Config(registry=config), content=here.content, snapshotter=here.snapshotter,
            images=self.store, supervisor=here.supervisor, events=self)

    def emit(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        assert kind == "image"
        self.events.append((action, actor_id, dict(attributes)))

    async def pull(self, reference: str, tag: str = "", **options: Any) -> list[str]:
        self.messages.clear()
        await self.images.pull(PullOptions(reference=reference, tag=tag, **options), self.messages.append)
        return self.texts()

    async def push(self, reference: str, tag: str = "", **options: Any) -> list[str]:
        self.messages.clear()
        await self.images.push(PushOptions(reference=reference, tag=tag, **options), self.messages.append)
        return self.texts()

    def texts(self) -> list[str]:
        return [f"{message.id}: {message.status}" if isinstance(message.id, str)
                else str(message.status) for message in self.messages
                if not isinstance(message.progress, str) and isinstance(message.status, str)]


@asynccontextmanager
async def engine(tmp_path: Path, **config: Any) -> AsyncIterator[Engine]:
    async with site(tmp_path / "data") as here:
        made = Engine(here, RegistryConfig(**config))
        yield made
        await made.images.close()
        here.assert_nothing_half_made()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[FaultyRegistry]:
    with FaultyRegistry(tmp_path / "registry") as server:
        upload(server.authority, "a/b", "1", IMAGE)
        server.requests.clear()
        yield server


async def test_pull_records_and_tells(tmp_path: Path, registry: FaultyRegistry) -> None:
    """New, up to date, and moved tags; the event names the reference and the image's labels."""
    name = f"{registry.authority}/a/b"
    async with engine(tmp_path) as here:
        texts = await here.pull(name, "1")
        assert texts[-1] == f"Status: Downloaded newer image for {name}:1"
        assert (await here.pull(f"{name}:1"))[-1] == f"Status: Image is up to date for {name}:1"
        assert here.events == [("pull", f"{name}:1", {"x": "y", "name": name})] * 2
        upload(registry.authority, "a/b", "1", build_image([BASE]))
        assert (await here.pull(name, "1"))[-1] == f"Status: Downloaded newer image for {name}:1"
        assert here.store.get(CONFIG).repo_tags == ()
        texts = await here.pull(name, IMAGE.digest)
        assert texts[-1] == f"Status: Image is up to date for {name}@{IMAGE.digest}"


async def test_pull_of_another_platform(tmp_path: Path, registry: FaultyRegistry) -> None:
    """A single image of another platform comes all the same, with Docker's warning."""
    name = f"{registry.authority}/a/b:1"
    async with engine(tmp_path) as here:
        texts = await here.pull(name, platform="linux/arm64")
        assert texts[-1] == (
            f"WARNING: image with reference {name} was found but does not match the specified "
            "platform: wanted linux/arm64, actual: linux/amd64")


async def test_inspect_list_history(tmp_path: Path, registry: FaultyRegistry) -> None:
    """The documents' contents, names filtered as Docker does."""
    name = f"{registry.authority}/a/b"
    async with engine(tmp_path) as here:
        await here.pull(name, "1")
        await here.images.tag(f"{name}:1", repository="other", tag="")
        assert here.events[-1] == ("tag", CONFIG, {"x": "y", "name": "other:latest"})
        found = await here.images.inspect("other", platform="")
        assert found.id == CONFIG
        assert found.repo_tags == [f"{name}:1", "other:latest"]
        assert found.repo_digests == [f"{name}@{IMAGE.digest}"]
        assert found.size == 70_005
        assert found.root_fs.layers == [digest(BASE), digest(TOP)]
        assert found.config is not None
        assert msgspec.to_builtins(found.config)["ExposedPorts"] == {"80/tcp": {}}
        assert found.graph_driver.data is not None
        assert (Path(found.graph_driver.data["UpperDir"]) / "top").read_bytes() == b"t" * 5
        history = await here.images.history("other", platform="")
        assert [(item.id, item.size) for item in history] == [(CONFIG, 5), ("<missing>", 70_000)]
        assert history[0].tags == found.repo_tags
        with pytest.raises(NotFoundError):
            await here.images.inspect("other", platform="linux/arm64")

        async def listed(**wanted: str) -> list[tuple[list[str], list[str]]]:
            chosen = filters.Filters({key: (value,) for key, value in wanted.items()})
            rows = await here.images.list(ImageListOptions(filters=chosen))
            return [(row.repo_tags, row.repo_digests) for row in rows]

        everything = [(found.repo_tags, found.repo_digests)]
        assert await listed() == everything
        assert await listed(reference="oth*") == [(["other:latest"], [])]
        assert await listed(reference=f"{registry.authority}/*/b") == [
            ([f"{name}:1"], [f"{name}@{IMAGE.digest}"])]
        assert await listed(reference="*/b") == []
        assert await listed(label="x=y") == everything
        assert await listed(label="x=z") == []
        assert await listed(dangling="true") == []
        assert await listed(before="other") == []
        assert await listed(until="1h") == everything
        assert await listed(until="2020-01-01T00:00:00Z") == []
        with pytest.raises(PalletError, match="syntax error in pattern"):
            await listed(reference="[")
        with pytest.raises(NotFoundError, match="No such image: nothing"):
            await listed(since="nothing")


async def test_shared_sizes(tmp_path: Path, registry: FaultyRegistry) -> None:
    """Bytes that other images have as well, only on demand."""
    upload(registry.authority, "a/c", "1", build_image([BASE, layer_tar({"c": b"ccc"})]))
    async with engine(tmp_path) as here:
        await here.pull(f"{registry.authority}/a/b", "1")
        await here.pull(f"{registry.authority}/a/c", "1")
        rows = await here.images.list(ImageListOptions(shared_size=True))
        assert {row.shared_size for row in rows} == {70_000}
        rows = await here.images.list(ImageListOptions())
        assert {row.shared_size for row in rows} == {-1}


async def test_remove(tmp_path: Path, registry: FaultyRegistry) -> None:
    """What goes is listed and told; blobs and layers go with the last name."""
    name = f"{registry.authority}/a/b:1"
    async with engine(tmp_path) as here:
        await here.pull(name)
        await here.images.tag(name, repository="b", tag="1")
        items = await here.images.remove("b:1", force=False, prune_parents=True)
        assert [item.untagged for item in items] == ["b:1"]
        items = await here.images.remove(name, force=False, prune_parents=True)
        assert [item.untagged if isinstance(item.untagged, str) else item.deleted
                for item in items][:3] == [
            name, f"{registry.authority}/a/b@{IMAGE.digest}", CONFIG]
        assert here.store.snapshotter.layers() == []
        assert list(here.store.content.walk()) == []
        assert here.events[-3:] == [
            ("untag", CONFIG, {"x": "y", "name": CONFIG}),
            ("untag", CONFIG, {"x": "y", "name": CONFIG}), ("delete", CONFIG, {"name": CONFIG})]


async def test_push(tmp_path: Path, registry: FaultyRegistry) -> None:
    """Sent, mounted and existing layers in Docker's words; the registry has the same bytes."""
    target = f"{registry.authority}/x/y"
    with FaultyRegistry(tmp_path / "other") as other:
        async with engine(tmp_path) as here:
            await here.pull(f"{registry.authority}/a/b", "1")
            elsewhere = f"{other.authority}/x/y"
            for repository in (target, elsewhere):
                await here.images.tag(CONFIG, repository=repository, tag="2")
            top, base = digest(TOP)[7:19], digest(BASE)[7:19]
            last = f"2: digest: {IMAGE.digest} size: {len(IMAGE.manifest)}"
            texts = await here.push(elsewhere, "2")
            assert texts[:3] == [f"The push refers to repository [{elsewhere}]", f"{top}: Preparing",
                                 f"{base}: Preparing"]
            assert sorted(texts[3:-1]) == sorted([f"{top}: Pushed", f"{base}: Pushed"])
            assert texts[-1] == last
            assert msgspec.json.decode(here.messages[-1].aux) == {  # type: ignore[arg-type]
                "Tag": "2", "Digest": IMAGE.digest, "Size": len(IMAGE.manifest)}
            assert f"{top}: Layer already exists" in await here.push(elsewhere, "2")
            assert f"{top}: Mounted from a/b" in await here.push(target)
            assert f"{target}@{IMAGE.digest}" in here.store.get(CONFIG).repo_digests
            assert here.events[-1][:2] == ("push", target)
            assert not registry.requests.keys() & {f"PUT /v2/x/y/blobs/{digest(TOP)}"}
            for words, reference, tag in (
                    (f"An image does not exist locally with the tag: {target}z", target + "z", "1"),
                    (f"tag does not exist: {target}:9", target, "9")):
                with pytest.raises(NotFoundError) as error:
                    await here.push(reference, tag)
                assert str(error.value) == words
            assert here.texts() == [f"The push refers to repository [{target}]"]
            with FaultyRegistry(tmp_path / "third") as third:
                upload(third.authority, "z", "1", IMAGE)
                third.faults.append(Fault("POST /v2/q", times=2, status=500))
                await here.images.tag(CONFIG, repository=f"{third.authority}/q", tag="1")
                await here.push(f"{third.authority}/q", "1")


async def test_push_needs_credentials(tmp_path: Path, registry: FaultyRegistry) -> None:
    """Denied without, done with; login tells right from wrong and gives a token."""
    with FaultyRegistry(tmp_path / "closed", access=token_access(anonymous=["pull"])) as closed:
        async with engine(tmp_path) as here:
            await here.pull(f"{registry.authority}/a/b", "1")
            target = f"{closed.authority}/a/b"
            await here.images.tag(CONFIG, repository=target, tag="1")
            with pytest.raises(PalletError) as error:
                await here.push(target, "1")
            assert str(error.value) == "denied: requested access to the resource is denied"
            assert await here.push(target, "1", auth=JOE)
            await here.pull(target, "1")
            reply = await here.images.login(msgspec.structs.replace(JOE, serveraddress=closed.authority))
            assert reply.identity_token
            wrong = msgspec.structs.replace(JOE, serveraddress=closed.authority, password="no")
            with pytest.raises(UnauthorizedError, match="incorrect username or password"):
                await here.images.login(wrong)
            remote = await here.images.remote(f"{target}:1", JOE, {})
            assert remote.descriptor.digest == IMAGE.digest
            assert [one.architecture for one in remote.platforms] == ["amd64"]


async def test_cancelled_push(tmp_path: Path, registry: FaultyRegistry) -> None:
    """The upload's thread ends with its client."""
    async with engine(tmp_path) as here:
        await here.pull(f"{registry.authority}/a/b", "1")
        registry.faults.append(Fault("POST /v2/q/blobs", times=99, status=503))
        await here.images.tag(CONFIG, repository=f"{registry.authority}/q", tag="1")
        task = asyncio.ensure_future(here.push(f"{registry.authority}/q", "1"))
        while not registry.requests["POST /v2/q/blobs/uploads/"]:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.2 and its key."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "a.crt", directory / "a.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=t",
         "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return cert, key


async def test_tls_of_an_unlisted_registry(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown authority is refused; a root in certs.d is enough; loopback needs neither."""
    server = RegistryServer(("127.0.0.1", 0), tmp_path / "registry", tls=certificate)
    server.start()
    try:
        certs = tmp_path / "certs.d" / server.authority
        certs.mkdir(parents=True)
        with pytest.raises(ssl.SSLError):
            _handshake(server.authority, tls.context_for(server.authority, insecure=False,
                                                         directories=(tmp_path / "none",)))
        _handshake(server.authority, tls.context_for(server.authority, insecure=True,
                                                     directories=(tmp_path / "none",)))
        (certs / "ca.crt").write_bytes(certificate[0].read_bytes())
        _handshake(server.authority, tls.context_for(server.authority, insecure=False,
                                                     directories=(certs.parent,)))
        (certs / "client.cert").write_bytes(certificate[0].read_bytes())
        with pytest.raises(PalletError, match=r"missing key client\.key for client certificate"):
            tls.context_for(server.authority, insecure=False, directories=(certs.parent,))
        async with engine(tmp_path) as here:
            with pytest.raises(NotFoundError, match="manifest unknown"):
                await here.pull(f"{server.authority}/a", "1")
    finally:
        server.stop()


def _handshake(authority: str, context: ssl.SSLContext) -> None:
    import socket

    host, _, port = authority.rpartition(":")
    with socket.create_connection((host, int(port)), 5) as raw, context.wrap_socket(
            raw, server_hostname=host):
        pass
