"""The pull-through mirror over HTTP: two registries in this process, the upstream one made to misbehave."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pallet.registry.auth.settings import RuleConfig
from pallet.registry.gc import collect
from pallet.registry.metadata.mirrored import MirrorTables
from pallet.registry.mirror.settings import CredentialsConfig, MirrorConfig, UpstreamConfig
from pallet.registry.server import RegistryServer
from pallet.transfer.auth import LoginCredentials
from pallet.transfer.client import RepositoryClient
from pallet.transfer.resolver import Endpoint
from pallet.transfer.transport import Transport
from pallet.types import Digest
from tests.support import registrystore as stores
from tests.support.access import basic_access, token_access
from tests.support.faultyregistry import Fault, FaultyRegistry
from tests.support.registry import MANIFEST, BuiltImage, Registry, basic, build_image, digest
from tests.support.registrystore import settings
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pallet.registry.auth import AccessControl
    from pallet.registry.config import S3Config

BLOB = random.Random(7).randbytes(3 << 20)
LAYER = digest(BLOB)
INDEX = "application/vnd.oci.image.index.v1+json"


class Client(Registry):
    """Requests to a server of this process."""

    server: RegistryServer

    def __init__(self, server: RegistryServer, user: str = "", password: str = "") -> None:
        self.server = server
        self.port = int(server.authority.rpartition(":")[2])
        self.user, self.password = user or None, password or None


def image(seed: int = 0) -> BuiltImage:
    """An image with one large layer; another config for each seed."""
    return build_image([BLOB], compression="none", Labels={"seed": str(seed)})


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[FaultyRegistry]:
    with FaultyRegistry(tmp_path / "upstream") as server:
        yield server


@contextlib.contextmanager
def mirror(root: Path, upstream: RegistryServer, *, host: str = "docker.io", default: str = "docker.io",
           grace_s: float = 0.0, access: AccessControl | None = None, **more: Any) -> Iterator[Client]:
    """A mirror of ``upstream`` under the name ``host``."""
    entry = {"allow", "deny", "credentials", "prefix"}
    options = {name: more.pop(name) for name in entry & more.keys()}
    config = MirrorConfig(default=default, **{"retry_s": 0.0, **more}, upstream=(
        UpstreamConfig(host=host, url=f"http://{upstream.authority}", **options),))
    server = RegistryServer(("127.0.0.1", 0), root, access=access,
                            config=settings(root, grace_s=grace_s, mirror=config))
    server.start()
    try:
        yield Client(server)
    finally:
        server.stop()


@pytest.fixture
def client(tmp_path: Path, upstream: FaultyRegistry) -> Iterator[Client]:
    with mirror(tmp_path / "mirror", upstream, ttl_s=3600.0) as made:
        yield made


def push(upstream: FaultyRegistry, name: str = "library/app", tag: str = "1", seed: int = 0) -> BuiltImage:
    made = image(seed)
    Client(upstream).push(name, tag, made)
    upstream.requests.clear()
    return made


def pull(client: Client, name: str, reference: str, query: str = "") -> bytes:
    """Manifest and every blob; returns the manifest."""
    code, headers, raw = client.request("GET", f"/v2/{name}/manifests/{reference}{query}")
    assert code == 200, raw
    assert headers["docker-content-digest"] == digest(raw)
    document = json.loads(raw)
    for entry in [document["config"], *document["layers"]]:
        code, headers, data = client.request("GET", f"/v2/{name}/blobs/{entry['digest']}{query}")
        assert code == 200, data
        assert digest(data) == entry["digest"]
        assert headers["docker-content-digest"] == entry["digest"]
    return raw


@pytest.mark.parametrize(("name", "query"), [
    ("library/app", ""), ("docker.io/library/app", ""), ("docker.io/app", ""), ("library/app", "?ns=docker.io")])
def test_pull_by_every_way_of_naming(client: Client, upstream: FaultyRegistry, name: str, query: str) -> None:
    made = push(upstream)
    assert pull(client, name, "1", query) == made.manifest
    first = dict(upstream.requests)
    assert first["GET /v2/library/app/manifests/1"] == 1
    assert first[f"GET /v2/library/app/blobs/{LAYER}"] == 1
    assert pull(client, name, "1", query) == made.manifest
    assert pull(client, name, made.digest, query) == made.manifest
    assert dict(upstream.requests) == first


def test_namespace_is_echoed_and_checked(client: Client, upstream: FaultyRegistry) -> None:
    push(upstream)
    _, headers, _ = client.request("GET", "/v2/library/app/manifests/1?ns=docker.io")
    assert headers["oci-namespace"] == "docker.io"
    code, _, body = client.request("GET", "/v2/library/app/manifests/1?ns=elsewhere.example")
    assert (code, json.loads(body)["errors"][0]["code"]) == (404, "NAME_UNKNOWN")


def test_tag_is_revalidated_after_its_time(tmp_path: Path, upstream: FaultyRegistry) -> None:
    push(upstream)
    with mirror(tmp_path / "mirror", upstream, ttl_s=0.0) as client:
        pull(client, "library/app", "1")
        pull(client, "library/app", "1")
        assert upstream.requests["HEAD /v2/library/app/manifests/1"] == 1
        assert upstream.requests["GET /v2/library/app/manifests/1"] == 1
        moved = push(upstream, seed=1)
        assert pull(client, "library/app", "1") == moved.manifest
        Client(upstream).request("DELETE", "/v2/library/app/manifests/1")
        code, _, body = client.request("GET", "/v2/library/app/manifests/1")
        assert (code, json.loads(body)["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")


def test_kept_replies_end_with_the_tag_s_time(tmp_path: Path, upstream: FaultyRegistry) -> None:
    first = push(upstream)
    with mirror(tmp_path / "mirror", upstream, ttl_s=0.2) as client:
        assert client.request("GET", "/v2/library/app/manifests/1")[2] == first.manifest
        moved = push(upstream, seed=1)
        eventually(lambda: client.request("GET", "/v2/library/app/manifests/1")[2] == moved.manifest,
                   what="the tag has moved")


@pytest.mark.parametrize("status", [429, 500, 503, None])
def test_upstream_out_of_order_leaves_what_is_here(
    tmp_path: Path, upstream: FaultyRegistry, status: int | None
) -> None:
    made = push(upstream)
    with mirror(tmp_path / "mirror", upstream, ttl_s=0.0) as client:
        pull(client, "library/app", "1")
        if status is None:
            upstream.stop()
        else:
            upstream.faults.append(Fault("/v2/", status=status, times=1000, headers={"Retry-After": "7"}))
        code, headers, raw = client.request("GET", "/v2/library/app/manifests/1")
        assert (code, raw) == (200, made.manifest)
        assert headers["warning"].startswith('299 - "docker.io did not answer')
        assert pull(client, "library/app", "1") == made.manifest
        code, headers, body = client.request("GET", "/v2/library/other/manifests/1")
        assert code == (429 if status == 429 else 503)
        assert int(headers["retry-after"]) >= 1
        assert json.loads(body)["errors"][0]["code"] == ("TOOMANYREQUESTS" if status == 429 else "UNAVAILABLE")
        code, headers, body = client.request("GET", "/v2/library/app/tags/list")
        assert (code, json.loads(body)["tags"]) == (200, ["1"])
        assert "warning" in headers
        figures = client.server.metrics.render(tuple).decode()
        for name in ("fetches_total 2", "stale_replies_total 3"):
            assert f"pallet_registry_mirror_{name}\n" in figures
        assert "pallet_registry_mirror_failures_total 0" not in figures


def test_upstream_that_failed_rests(tmp_path: Path, upstream: FaultyRegistry) -> None:
    push(upstream)
    with mirror(tmp_path / "mirror", upstream, ttl_s=0.0, retry_s=3600.0) as client:
        pull(client, "library/app", "1")
        upstream.faults.append(Fault("/v2/", status=500, times=1000))
        for _ in range(5):
            assert client.status("GET", "/v2/library/app/manifests/1") == 200
        assert upstream.requests["HEAD /v2/library/app/manifests/1"] == 1


def test_one_fetch_for_many_clients_while_it_arrives(client: Client, upstream: FaultyRegistry) -> None:
    push(upstream)
    gate = threading.Event()
    upstream.faults.append(Fault(f"GET /v2/library/app/blobs/{LAYER}", wait=gate))
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(
        client.request("GET", f"/v2/library/app/blobs/{LAYER}")[2])) for _ in range(12)]
    for thread in threads:
        thread.start()
    eventually(lambda: upstream.requests[f"GET /v2/library/app/blobs/{LAYER}"] == 1, what="the fetch began")
    gate.set()
    for thread in threads:
        thread.join()
    assert [digest(data) for data in found] == [LAYER] * 12
    assert upstream.requests[f"GET /v2/library/app/blobs/{LAYER}"] == 1


@pytest.mark.parametrize(("wanted", "first", "last"), [
    ("0-9", 0, 9), ("1000000-", 1_000_000, len(BLOB) - 1), ("-5", len(BLOB) - 5, len(BLOB) - 1)])
def test_ranges_of_a_blob_that_is_not_here_yet(
    client: Client, upstream: FaultyRegistry, wanted: str, first: int, last: int
) -> None:
    push(upstream)
    code, headers, data = client.request("GET", f"/v2/library/app/blobs/{LAYER}", headers={
        "Range": f"bytes={wanted}"})
    assert (code, data) == (206, BLOB[first:last + 1])
    assert headers["content-range"] == f"bytes {first}-{last}/{len(BLOB)}"


def test_client_that_goes_away_does_not_end_the_fetch(client: Client, upstream: FaultyRegistry) -> None:
    push(upstream)
    gate = threading.Event()
    upstream.faults.append(Fault(f"GET /v2/library/app/blobs/{LAYER}", wait=gate))
    with socket.create_connection(("127.0.0.1", client.port)) as gone:
        gone.sendall(f"GET /v2/library/app/blobs/{LAYER} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        eventually(lambda: upstream.requests[f"GET /v2/library/app/blobs/{LAYER}"] == 1, what="the fetch began")
    gate.set()
    eventually(lambda: client.server.store.holders(Digest(LAYER)) == ["docker.io/library/app"], what="it is stored")
    assert client.request("GET", f"/v2/library/app/blobs/{LAYER}")[2] == BLOB
    assert upstream.requests[f"GET /v2/library/app/blobs/{LAYER}"] == 1


def test_broken_transfer_goes_on_where_it_broke(client: Client, upstream: FaultyRegistry) -> None:
    push(upstream)
    upstream.faults.append(Fault(f"GET /v2/library/app/blobs/{LAYER}", cut_at=1_000_000))
    upstream.faults.append(Fault(f"GET /v2/library/app/blobs/{LAYER}", cut_at=500_000))
    assert client.request("GET", f"/v2/library/app/blobs/{LAYER}")[2] == BLOB
    assert "range" in {name.lower() for name in upstream.seen_headers[f"GET /v2/library/app/blobs/{LAYER}"]}


def test_damaged_blob_is_never_whole(client: Client, upstream: FaultyRegistry) -> None:
    push(upstream)
    upstream.faults.append(Fault(f"GET /v2/library/app/blobs/{LAYER}", change=lambda data: b"x" + data[1:]))
    with socket.create_connection(("127.0.0.1", client.port)) as sock:
        sock.sendall(f"GET /v2/library/app/blobs/{LAYER} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while piece := sock.recv(1 << 16):
            data += piece
    assert len(data.partition(b"\r\n\r\n")[2]) < len(BLOB)
    assert client.server.store.holders(Digest(LAYER)) == []
    assert client.request("GET", f"/v2/library/app/blobs/{LAYER}")[2] == BLOB


def test_fetch_goes_on_after_a_restart(tmp_path: Path, upstream: FaultyRegistry) -> None:
    push(upstream)
    parts = tmp_path / "mirror/mirror"
    parts.mkdir(parents=True)
    name = LAYER.replace(":", "-")
    (parts / f"{name}.part").write_bytes(BLOB[:2_000_000])
    with mirror(tmp_path / "mirror", upstream) as client:
        assert client.request("GET", f"/v2/library/app/blobs/{LAYER}")[2] == BLOB
        assert upstream.seen_headers[f"GET /v2/library/app/blobs/{LAYER}"]["Range"] == "bytes=2000000-"
        assert list(parts.iterdir()) == []


@pytest.mark.parametrize("reached", ["headers", "body"])
def test_stop_does_not_wait_for_upstream(tmp_path: Path, upstream: FaultyRegistry, reached: str) -> None:
    push(upstream)
    gate, line = threading.Event(), f"GET /v2/library/app/blobs/{LAYER}"
    upstream.faults.append(Fault(line, wait=gate))
    if reached == "body":
        upstream.faults.insert(0, Fault(line, cut_at=1_000_000))
    with mirror(tmp_path / "mirror", upstream) as client:
        with socket.create_connection(("127.0.0.1", client.port)) as waiting:
            waiting.sendall(f"{line} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
            eventually(lambda: upstream.requests[line] == (2 if reached == "body" else 1), what="it fetches")
            client.server.stop()
            while waiting.recv(1 << 20):
                continue
        assert not gate.is_set()  # it stopped while upstream had not answered
        gate.set()


def test_upstream_that_only_takes_get(client: Client, upstream: FaultyRegistry) -> None:
    """As storage does that is reached by a signed URL."""
    push(upstream)
    upstream.faults.append(Fault(f"HEAD /v2/library/app/blobs/{LAYER}", status=403, times=9))
    code, headers, _ = client.request("HEAD", f"/v2/library/app/blobs/{LAYER}")
    assert (code, headers["content-length"]) == (200, str(len(BLOB)))


def test_own_host_as_a_namespace_is_nobody_else_s(tmp_path: Path, upstream: FaultyRegistry) -> None:
    with mirror(tmp_path / "mirror", upstream, default="") as client:
        client.push("team/app", "1", image())
        assert pull(client, "team/app", "1", f"?ns={client.address}") == image().manifest


def test_another_worker_follows_the_one_that_fetches(tmp_path: Path, upstream: FaultyRegistry) -> None:
    push(upstream)
    gate = threading.Event()
    upstream.faults.append(Fault(f"GET /v2/library/app/blobs/{LAYER}", wait=gate))
    with mirror(tmp_path / "mirror", upstream) as one, mirror(tmp_path / "mirror", upstream) as other:
        found: list[bytes] = []

        def get(client: Client) -> threading.Thread:
            thread = threading.Thread(target=lambda: found.append(
                client.request("GET", f"/v2/library/app/blobs/{LAYER}")[2]))
            thread.start()
            return thread

        threads = [get(one)]
        eventually(lambda: upstream.requests[f"GET /v2/library/app/blobs/{LAYER}"] == 1, what="the fetch began")
        threads.append(get(other))
        eventually(lambda: upstream.requests[f"HEAD /v2/library/app/blobs/{LAYER}"] == 1, what="the other follows")
        gate.set()
        for thread in threads:
            thread.join()
        assert found == [BLOB, BLOB]
        assert upstream.requests[f"GET /v2/library/app/blobs/{LAYER}"] == 1


def test_blob_of_another_repository_only_if_upstream_has_it_there(
    client: Client, upstream: FaultyRegistry
) -> None:
    push(upstream, "library/app")
    pull(client, "library/app", "1")
    assert client.status("GET", f"/v2/library/stranger/blobs/{LAYER}") == 404
    push(upstream, "library/twin")
    assert client.request("GET", f"/v2/library/twin/blobs/{LAYER}")[2] == BLOB
    assert upstream.requests[f"GET /v2/library/twin/blobs/{LAYER}"] == 0


def test_head_of_a_blob_fetches_nothing(client: Client, upstream: FaultyRegistry) -> None:
    push(upstream)
    code, headers, _ = client.request("HEAD", f"/v2/library/app/blobs/{LAYER}")
    assert (code, headers["content-length"]) == (200, str(len(BLOB)))
    assert upstream.requests[f"GET /v2/library/app/blobs/{LAYER}"] == 0
    assert client.status("HEAD", f"/v2/library/app/blobs/sha256:{'0' * 64}") == 404


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/v2/library/app/blobs/uploads/"), ("PUT", "/v2/docker.io/library/app/manifests/1"),
    ("DELETE", "/v2/library/app/manifests/1"), ("DELETE", f"/v2/docker.io/library/app/blobs/{LAYER}"),
    ("PATCH", "/v2/docker.io/library/app/blobs/uploads/x"), ("PUT", "/v2/app/tags/list")])
def test_nothing_is_pushed_to_a_mirror(client: Client, method: str, path: str) -> None:
    code, _, body = client.request(method, path, b"")
    assert (code, json.loads(body)["errors"][0]["code"]) == (405, "UNSUPPORTED")


def test_own_repositories_beside_mirrored_ones(tmp_path: Path, upstream: FaultyRegistry) -> None:
    made = push(upstream, "library/app")
    with mirror(tmp_path / "mirror", upstream, allow=("library/*",)) as client:
        assert pull(client, "library/app", "1") == made.manifest
        client.push("team/app", "1", image(2))
        assert pull(client, "team/app", "1") == image(2).manifest
        assert client.status("GET", "/v2/docker.io/team/app/manifests/1") == 403
        names = json.loads(client.request("GET", "/v2/_catalog")[2])["repositories"]
        assert names == ["docker.io/library/app", "team/app"]


def test_denied_patterns_win(tmp_path: Path, upstream: FaultyRegistry) -> None:
    push(upstream, "library/app")
    with mirror(tmp_path / "mirror", upstream, default="", deny=("library/*",)) as client:
        for path in ("manifests/1", "tags/list", f"blobs/{LAYER}"):
            code, _, body = client.request("GET", f"/v2/docker.io/library/app/{path}")
            assert (code, json.loads(body)["errors"][0]["code"]) == (403, "DENIED")
    assert not upstream.requests


def test_tags_and_referrers_are_those_upstream(client: Client, upstream: FaultyRegistry) -> None:
    made = push(upstream)
    for tag in ("2", "3", "4"):
        push(upstream, tag=tag, seed=int(tag))
    code, headers, body = client.request("GET", "/v2/library/app/tags/list?n=3")
    assert (code, json.loads(body)) == (200, {"name": "library/app", "tags": ["1", "2", "3"]})
    assert headers["link"] == '</v2/library/app/tags/list?n=3&last=3>; rel="next"'
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "artifactType": "application/x.sbom",
                "subject": {"mediaType": MANIFEST, "digest": made.digest, "size": len(made.manifest)}}
    raw = json.dumps(document).encode()
    Client(upstream).request("PUT", f"/v2/library/app/manifests/{digest(raw)}", raw, {"Content-Type": INDEX})
    code, headers, body = client.request("GET", f"/v2/library/app/referrers/{made.digest}?artifactType=application/x.sbom")
    assert [entry["digest"] for entry in json.loads(body)["manifests"]] == [digest(raw)]
    assert headers["oci-filters-applied"] == "artifactType"
    assert client.request("GET", f"/v2/library/app/manifests/{digest(raw)}")[2] == raw
    upstream.stop()
    code, headers, body = client.request("GET", f"/v2/library/app/referrers/{made.digest}")
    assert [entry["digest"] for entry in json.loads(body)["manifests"]] == [digest(raw)]
    assert "warning" in headers


def test_any_host_with_a_port(tmp_path: Path, upstream: FaultyRegistry) -> None:
    made = push(upstream, "team/app")
    root = tmp_path / "mirror"
    config = MirrorConfig(upstream=(UpstreamConfig(host="*"),))
    server = RegistryServer(("127.0.0.1", 0), root, config=settings(root, mirror=config))
    server.start()
    try:
        client = Client(server)
        assert pull(client, "team/app", "1", f"?ns={upstream.authority}") == made.manifest
        upstream.requests.clear()
        assert pull(client, f"{upstream.authority.replace(':', '.')}/team/app", "1") == made.manifest
        assert not upstream.requests
        client.push("team/app", "own", image(1))
    finally:
        server.stop()


# Budget


def test_budget_takes_the_least_recently_used(tmp_path: Path, upstream: FaultyRegistry) -> None:
    for number in range(4):
        layer = random.Random(number).randbytes(1 << 20)
        Client(upstream).push(f"library/app{number}", "1", build_image([layer], compression="none"))
    options: dict[str, Any] = {"ttl_s": 3600.0, "allow": ("library/*",)}
    with mirror(tmp_path / "mirror", upstream, **options) as client:
        client.push("docker.io.own/app", "1", image())
        for number in range(3):
            pull(client, f"library/app{number}", "1")
    with mirror(tmp_path / "mirror", upstream, budget="2.5MB", **options) as client:
        store = client.server.store
        tables = MirrorTables(store.metadata.database)
        with store.metadata.database.write() as db:  # app0 was used last, app1 before app2
            for name, at in (("app0", 30.0), ("app1", 10.0), ("app2", 20.0)):
                db.execute("UPDATE links SET used_at = ? WHERE repository = ?", (at, f"docker.io/library/{name}"))
                db.execute("UPDATE manifests SET touched_at = ? WHERE repository = ?",
                           (at, f"docker.io/library/{name}"))
        collect(store)
        held = {entry.repository for entry in tables.links()}
        assert held == {"docker.io/library/app0", "docker.io/library/app2", "docker.io.own/app"}
        upstream.requests.clear()
        pull(client, "library/app0", "1")
        assert not upstream.requests
        pull(client, "library/app1", "1")
        assert upstream.requests["GET /v2/library/app1/manifests/1"] == 1


def test_growth_beyond_the_budget_is_collected_at_once(tmp_path: Path, upstream: FaultyRegistry) -> None:
    for number in range(4):
        layer = random.Random(number).randbytes(1 << 20)
        Client(upstream).push(f"library/app{number}", "1", build_image([layer], compression="none"))
    with mirror(tmp_path / "mirror", upstream, budget="2.5MB", ttl_s=3600.0) as client:
        for number in range(4):
            pull(client, f"library/app{number}", "1")
        store = client.server.store
        eventually(lambda: sum(found.size for found in store.driver.objects()) <= 2.5 * (1 << 20),
                   what="the least recently used are gone")
        pull(client, "library/app0", "1")


def test_what_a_mirror_holds_outlives_collections(tmp_path: Path, upstream: FaultyRegistry) -> None:
    made = push(upstream)
    with mirror(tmp_path / "mirror", upstream, ttl_s=3600.0) as client:
        pull(client, "library/app", "1")
        with client.server.store.metadata.database.write() as db:
            db.execute("UPDATE links SET used_at = 5")
            db.execute("UPDATE repositories SET active_at = 5")
        collect(client.server.store)
        upstream.stop()
        assert pull(client, "library/app", "1") == made.manifest


def test_what_nobody_asks_for_goes(tmp_path: Path, upstream: FaultyRegistry) -> None:
    push(upstream)
    with mirror(tmp_path / "mirror", upstream, keep_days=7.0) as client:
        pull(client, "library/app", "1")
        store = client.server.store
        collect(store)
        assert store.holders(Digest(LAYER))
        with store.metadata.database.write() as db:
            db.execute("UPDATE links SET used_at = 5")
            db.execute("UPDATE manifests SET touched_at = 5")
        collect(store)
        assert store.repositories() == []
        assert list(store.driver.objects()) == []


def test_full_disk_passes_through(tmp_path: Path, upstream: FaultyRegistry) -> None:
    made = push(upstream)
    root = tmp_path / "mirror"
    config = MirrorConfig(default="docker.io", upstream=(
        UpstreamConfig(host="docker.io", url=f"http://{upstream.authority}"),))
    server = RegistryServer(("127.0.0.1", 0), root, config=settings(root, mirror=config, min_free_bytes=1 << 60))
    server.start()
    try:
        client = Client(server)
        assert pull(client, "library/app", "1") == made.manifest
        code, _, data = client.request("GET", f"/v2/library/app/blobs/{LAYER}", headers={"Range": "bytes=5-9"})
        assert (code, data) == (206, BLOB[5:10])
        assert server.store.repositories() == []
    finally:
        server.stop()


@pytest.mark.needs("object_store", "postgresql")
def test_replicas_on_shared_storage(
    tmp_path: Path, upstream: FaultyRegistry, s3_server: S3Config, postgres_server: str
) -> None:
    """What one replica fetched another has; evicted objects leave the bucket."""
    made = push(upstream)
    database = stores.new_database(postgres_server)
    s3 = msgspec.structs.replace(s3_server, prefix="mirror/")
    config = MirrorConfig(default="docker.io", ttl_s=3600.0, keep_days=1.0, upstream=(
        UpstreamConfig(host="docker.io", url=f"http://{upstream.authority}"),))
    for root in ("one", "two"):
        server = RegistryServer(("127.0.0.1", 0), tmp_path / root, config=settings(
            tmp_path / root, database=database, s3=s3, mirror=config))
        server.start()
        try:
            assert pull(Client(server), "library/app", "1") == made.manifest
            assert upstream.requests[f"GET /v2/library/app/blobs/{LAYER}"] == 1
            if root == "two":
                with server.store.metadata.database.write() as db:
                    db.execute("UPDATE links SET used_at = 5")
                    db.execute("UPDATE manifests SET touched_at = 5")
                collect(server.store)
                assert list(server.store.driver.objects()) == []
        finally:
            server.stop()


# Credentials


def test_credentials_by_repository(tmp_path: Path) -> None:
    access = basic_access({"ann": "ann", "bob": "bob"})
    with FaultyRegistry(tmp_path / "upstream", access=access) as upstream:
        made = image()
        for name in ("red/app", "blue/app", "other/app"):
            Client(upstream, "ann", "ann").push(name, "1", made)
        (tmp_path / "secret").write_text("bob\n")
        with mirror(tmp_path / "mirror", upstream, host="r.example", default="", credentials=(
            CredentialsConfig(repositories=("red/*",), username="ann", password="ann"),
            CredentialsConfig(repositories=("blue/*",), username="bob", password_file=str(tmp_path / "secret")),
        )) as client:
            for name, user in (("red", "ann"), ("blue", "bob")):
                assert pull(client, f"r.example/{name}/app", "1") == made.manifest
                sent = upstream.seen_headers[f"GET /v2/{name}/app/manifests/1"]["Authorization"]
                assert sent == basic(user, user)
            code, _, body = client.request("GET", "/v2/r.example/other/app/manifests/1")
            assert (code, json.loads(body)["errors"][0]["code"]) == (403, "DENIED")


def test_upstream_that_wants_tokens(tmp_path: Path) -> None:
    """As Docker Hub does of everybody; one token serves a repository."""
    with FaultyRegistry(tmp_path / "upstream", access=token_access(anonymous=["pull"])) as upstream:
        made = image()
        with FaultyRegistry(tmp_path / "upstream") as side_door:
            Client(side_door).push("library/app", "1", made)
        upstream.faults.append(Fault("GET /v2/library/app/manifests/1", status=401, headers={
            "WWW-Authenticate": f'Bearer realm="http://{upstream.authority}/token",service="pallet-registry",'
                                'scope="repository:library/app:pull"'}))
        with mirror(tmp_path / "mirror", upstream) as client:
            assert pull(client, "library/app", "1") == made.manifest
        assert upstream.requests["GET /token"] == 1
        assert upstream.seen_headers[f"GET /v2/library/app/blobs/{LAYER}"]["Authorization"].startswith("Bearer ")


def test_clients_need_rights_as_for_other_repositories(tmp_path: Path, upstream: FaultyRegistry) -> None:
    made = push(upstream)
    rules = [RuleConfig(repository="docker.io/library/*", users=("joe",), allow=("pull",))]
    with mirror(tmp_path / "mirror", upstream, access=token_access(rules=rules)) as client:
        for name in ("docker.io/library/app", "library/app"):
            code, headers, _ = client.request("GET", f"/v2/{name}/manifests/1?ns=docker.io"
                                              if name == "library/app" else f"/v2/{name}/manifests/1")
            assert code == 401
            assert 'scope="repository:docker.io/library/app:pull"' in headers["www-authenticate"]
        assert not upstream.requests
        transport = Transport()
        endpoint = Endpoint(url=f"http://{client.address}", mirror=True, namespace="docker.io")
        asking = RepositoryClient(transport, endpoint, "library/app",
                                  credentials=LoginCredentials(username="joe", password="secret"))
        assert asking.manifest("1").raw == made.manifest
        assert asking.tags() == ["1"]
        transport.close()
