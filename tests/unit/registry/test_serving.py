"""The registry's kept replies, bodies, metrics and logs."""

from __future__ import annotations

import contextlib
import io
import json
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pallet.registry.config import LogConfig, MetricsConfig
from pallet.registry.messages import RegistryResponse
from pallet.registry.metadata.open import open_metadata
from pallet.registry.server import RegistryServer
from pallet.registry.serving.accesslog import AccessLog, Served
from pallet.registry.serving.bodies import BrokenRequestError, SocketBody
from pallet.registry.serving.claims import claimed_user
from pallet.registry.serving.metrics import Cells, Metrics, route_of
from pallet.registry.serving.replies import ReplyCache, matches, reply_of
from pallet.spec import digest as digests
from tests.support import registrystore as stores
from tests.support.registryloop import BLOB, RECORD, Client, serving, settings
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pallet.registry.metadata.open import MetadataStore


# --- kept replies


class Watch:
    """A content's version that the test sets."""

    def __init__(self) -> None:
        self.now: int | None = 1

    def version(self) -> int | None:
        return self.now

    def close(self) -> None:
        self.now = None


def kept(cache: ReplyCache, target: str, body: bytes, keep_s: float = 1e9) -> None:
    reply = reply_of(RegistryResponse(status=200, body=body, keep_s=keep_s))
    reply.version = cache.version()
    cache.put("GET", target, reply)


def test_replies_of_an_older_version_are_forgotten() -> None:
    """Also one that was computed while the version changed; an unknown version keeps nothing."""
    watch = Watch()
    cache = ReplyCache(watch, 1 << 20, lambda: 0.0)
    kept(cache, "/a", b"1")
    found = cache.get("GET", "/a")
    assert found is not None
    assert found.body == b"1"
    assert cache.get("HEAD", "/a") is None
    late = reply_of(RegistryResponse(status=200, body=b"2", keep_s=9.0))
    late.version = cache.version()
    watch.now = 2
    cache.put("GET", "/b", late)
    assert cache.get("GET", "/a") is None
    assert cache.get("GET", "/b") is None
    kept(cache, "/a", b"3")
    watch.now = None
    assert cache.get("GET", "/a") is None


def test_replies_are_kept_for_their_time_and_within_the_budget() -> None:
    clock = [0.0]
    cache = ReplyCache(Watch(), 64 << 10, lambda: clock[0])
    kept(cache, "/short", b"", keep_s=5.0)
    kept(cache, "/never", b"", keep_s=0.0)
    kept(cache, "/huge", b"x" * (32 << 10))
    for number in range(40):
        kept(cache, f"/{number}", b"x" * 2000)
        cache.get("GET", "/short")
    assert cache.get("GET", "/short") is not None
    assert cache.get("GET", "/never") is cache.get("GET", "/huge") is cache.get("GET", "/0") is None
    assert cache.get("GET", "/39") is not None
    clock[0] = 6.0
    assert cache.get("GET", "/short") is None


@pytest.mark.parametrize("change", ["move", "untag", "delete", "unlink", "retype", "forget"])
def test_sqlite_s_version_changes_with_what_a_reply_says(tmp_path: Path, change: str) -> None:
    """Through another connection, as another process would; what only adds changes nothing."""
    url = f"sqlite:///{tmp_path / 'r.db'}"
    with contextlib.closing(open_metadata(url)) as one, contextlib.closing(open_metadata(url)) as other, \
            contextlib.closing(one.database.watch()) as watch:  # type: ignore[type-var]
        from pallet.registry.metadata.records import BlobRecord

        assert watch is not None
        blob = BlobRecord(digest=digests.of_bytes(BLOB), size=1, location="x")
        other.content.add_blob("a", blob, None)
        other.content.put_manifest("a", RECORD, ["v1"])
        second = stores.image([blob.digest], annotations={"n": "2"})
        other.content.put_manifest("a", second, ["v2"])
        before = watch.version()
        assert before is not None
        other.uploads.begin("ab" * 16, "a", "sha256")
        other.content.put_manifest("a", RECORD, ["v1", "new"])
        other.content.touch_blob("a", blob.digest, 1e12)
        assert watch.version() == before
        _change(other, change, second, blob)
        assert watch.version() != before


def _change(store: MetadataStore, change: str, second: Any, blob: Any) -> None:
    if change == "move":
        store.content.put_manifest("a", second, ["v1"])
    elif change == "untag":
        assert store.content.untag("a", "v1")
    elif change == "delete":
        assert store.content.delete_manifest("a", second.digest)
    elif change == "unlink":
        assert store.content.unlink_blob("a", blob.digest)
    elif change == "retype":
        store.content.put_manifest("a", replace(second, media_type="x/y"), [])
    else:
        store.garbage.forget_blob(blob)


def test_a_kept_reply_is_the_same_reply(server: RegistryServer) -> None:
    """First and second answer are equal but for their ids; the second comes from memory; moves are seen."""
    with Client(server) as client:
        for line in ("GET /v2/a/manifests/v1 HTTP/1.1", f"GET /v2/a/blobs/{digests.of_bytes(BLOB)} HTTP/1.1",
                     "HEAD /v2/a/manifests/v1 HTTP/1.1"):
            answers = [client.ask(line) for _ in range(3)]
            ids = {headers.pop("x-request-id") for _, headers, _ in answers}
            assert len(ids) == 3
            assert len({headers.pop("date") for _, headers, _ in answers}) <= 2
            assert answers[0] == answers[1] == answers[2]
        assert server.metrics.value("cache_hits_total") >= 6
        moved = stores.image([digests.of_bytes(BLOB)], annotations={"moved": "yes"})
        with contextlib.closing(open_metadata(server.config.database_url)) as other:
            other.content.put_manifest("a", moved, ["v1"])
        assert client.ask("GET /v2/a/manifests/v1 HTTP/1.1")[2] == moved.raw


def test_conditional_requests(server: RegistryServer) -> None:
    """If-None-Match gives 304 with the validators, fresh and from memory; If-Range guards a range."""
    blob = digests.of_bytes(BLOB)
    with Client(server) as client:
        for target, etag in ((f"/v2/a/blobs/{blob}", blob), ("/v2/a/manifests/v1", RECORD.digest)):
            for _ in range(2):
                for condition in (f'"{etag}"', f'"x", W/"{etag}"', "*"):
                    status, headers, _ = client.ask(f"GET {target} HTTP/1.1\nIf-None-Match: {condition}")
                    assert (status, headers["etag"]) == (304, f'"{etag}"')
                    assert headers["docker-content-digest"] == etag
                assert client.ask(f'GET {target} HTTP/1.1\nIf-None-Match: "other"')[0] == 200
        range_of = f"GET /v2/a/blobs/{blob} HTTP/1.1\nRange: bytes=0-4\nIf-Range: "
        assert client.ask(range_of + f'"{blob}"')[0] == 206
        assert client.ask(range_of + '"other"')[0] == 200
        assert client.ask(f"GET /v2/a/blobs/{blob} HTTP/1.1\nRange: bytes=0-1,4-5")[0] == 200
        assert client.ask(f"GET /v2/a/blobs/{blob} HTTP/1.1\nRange: bytes=-5")[2] == BLOB[-5:]
    assert matches('W/"a"', '"a"')
    assert not matches("", '"a"')


def test_head_says_what_get_says(server: RegistryServer) -> None:
    """Same status and fields for everything that can be got, refusals too; and no body."""
    session = server.store.uploads.begin("a").headers()["Location"]
    blob = digests.of_bytes(BLOB)
    with Client(server) as client:
        for path in ("/v2/", "/v2/_catalog?n=1", "/v2/a/tags/list", f"/v2/a/blobs/{blob}", "/v2/a/manifests/v1",
                     f"/v2/a/manifests/{RECORD.digest}", f"/v2/a/referrers/{RECORD.digest}", session,
                     "/v2/none/tags/list", "/v2/a/manifests/none", f"/v2/a/blobs/{RECORD.digest}", "/v2/A/tags/list"):
            for extra in ("", "\nRange: bytes=3-5", '\nIf-None-Match: *'):
                status, headers, _ = client.ask(f"HEAD {path} HTTP/1.1{extra}")
                assert (status, _lasting(headers)) == _head_of(client.ask(f"GET {path} HTTP/1.1{extra}")), path


def _lasting(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in {"date", "x-request-id"}}


def _head_of(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, dict[str, str]]:
    return answer[0], _lasting(answer[1])


def test_pages(server: RegistryServer) -> None:
    """Tags, repositories and referrers by ``n`` and ``last``: following the links gives each once, in order."""
    types = {f"x/{number % 2}" for number in range(5)}
    for number in range(5):
        server.store.put_manifest("a", RECORD, [f"t{number}"])
        stores.push_blob(server.store, f"r{number}", BLOB)
        document = {"artifactType": f"x/{number % 2}", "annotations": {"n": str(number)},
                    "subject": {"mediaType": "a/b", "digest": RECORD.digest, "size": 1}}
        server.store.put_manifest("a", stores.image([digests.of_bytes(BLOB)], **document), [])

    def follow(client: Client, path: str, key: str) -> list[Any]:
        found: list[Any] = []
        while path:
            status, headers, body = client.ask(f"GET {path} HTTP/1.1")
            assert status == 200
            page = json.loads(body)[key]
            assert len(page) <= 2
            found += page
            link = headers.get("link", "")
            assert not link or link.endswith('>; rel="next"')
            path = link.partition(">")[0].lstrip("<")
        return found

    with Client(server) as client:
        assert follow(client, "/v2/a/tags/list?n=2", "tags") == ["t0", "t1", "t2", "t3", "t4", "v1"]
        assert follow(client, "/v2/a/tags/list?n=2&last=t2", "tags") == ["t3", "t4", "v1"]
        assert follow(client, "/v2/_catalog?n=2", "repositories") == ["a", "r0", "r1", "r2", "r3", "r4"]
        listed = follow(client, f"/v2/a/referrers/{RECORD.digest}?n=2", "manifests")
        assert len({entry["digest"] for entry in listed}) == len(listed) == 5
        one = follow(client, f"/v2/a/referrers/{RECORD.digest}?n=1&artifactType=x/0", "manifests")
        assert {entry["artifactType"] for entry in one} == {"x/0"} < types
        assert len(one) == 3
        filtered = client.ask(f"GET /v2/a/referrers/{RECORD.digest}?artifactType=x%2F1 HTTP/1.1")
        assert filtered[1]["oci-filters-applied"] == "artifactType"
        for path in ("a/tags/list?n=-1", "_catalog?n=x", f"a/referrers/{RECORD.digest}?n=1e3"):
            status, _, body = client.ask(f"GET /v2/{path} HTTP/1.1")
            assert (status, json.loads(body)["errors"][0]["code"]) == (400, "PAGINATION_NUMBER_INVALID")
        assert client.ask("GET /v2/a/tags/list?n=0 HTTP/1.1")[2] == b'{"name": "a", "tags": []}'


# --- bodies


def test_bodies_from_sockets() -> None:
    """Pieces as asked for whatever the packets; what is behind the body stays."""
    one, two = socket.socketpair()
    with one, two:
        two.sendall(b"cdefNEXT")
        body = SocketBody(one, b"ab", 6, expects_continue=False)
        assert [body.read(4), body.read(4), body.read(4)] == [b"abcd", b"ef", b""]
        assert body.ended
        assert one.recv(10) == b"NEXT"
        body = SocketBody(one, b"3\r\nabc\r\n0\r\n\r\nNEXT", None, expects_continue=False)
        assert (body.read(2), body.read(2), body.read(2), body.rest) == (b"ab", b"c", b"", b"NEXT")
        for ahead, length in ((b"zz\r\n", None), (b"ab", 5)):
            body = SocketBody(one, ahead, length, expects_continue=False)
            two.shutdown(socket.SHUT_WR) if length else None
            with pytest.raises(BrokenRequestError):
                body.read(10)


# --- metrics and logs


def test_metrics_of_several_workers() -> None:
    """Rows add up; an ended worker's counts stay, its gauges go."""
    cells = Cells(2)
    one, two = Metrics(cells, 0), Metrics(cells, 1)
    one.served("GET", "manifests", 200, 0.003, 10)
    two.served("GET", "manifests", 200, 0.3, 5)
    two.served("BREW", "other", 418, 100.0, 0)
    two.add("uploads_in_progress")
    text = one.render(lambda: [("storage_bytes", "Bytes.", 7.0)]).decode()
    assert 'pallet_registry_http_requests_total{method="GET",route="manifests",status="200"} 2\n' in text
    assert 'pallet_registry_http_requests_total{method="other",route="other",status="other"} 1\n' in text
    assert 'duration_seconds_bucket{route="manifests",le="0.005"} 1\n' in text
    assert 'duration_seconds_bucket{route="manifests",le="+Inf"} 2\n' in text
    assert 'duration_seconds_bucket{route="other",le="60.0"} 0\n' in text
    assert "pallet_registry_sent_bytes_total 15\n" in text
    assert "pallet_registry_storage_bytes 7\n" in text
    cells.clear_gauges(1)
    assert one.value("uploads_in_progress") == 0
    assert one.value("sent_bytes_total") == 15


@pytest.mark.parametrize(("path", "route"), [
    ("/v2/", "base"), ("/v2/_catalog", "catalog"), ("/v2/a/b/tags/list", "tags"), ("/v2/a/manifests/x", "manifests"),
    ("/v2/a/blobs/uploads/", "uploads"), ("/v2/a/blobs/uploads/1", "uploads"), ("/v2/a/blobs/sha256:1", "blobs"),
    ("/v2/a/referrers/x", "referrers"), ("/token", "token"), ("/", "other"), ("/v2x", "other"), ("", "other")])
def test_routes(path: str, route: str) -> None:
    assert route_of(path) == route


def test_metrics_have_a_listener_of_their_own(tmp_path: Path) -> None:
    config = msgspec.structs.replace(settings(tmp_path), metrics=MetricsConfig(address="127.0.0.1:0"))
    with serving(config) as server:
        with Client(server) as client:
            assert client.ask("GET /metrics HTTP/1.1")[0] == 404
            assert client.ask("GET /v2/ HTTP/1.1\nAuthorization: Basic x")[0] == 200
        assert server.sockets.metrics is not None
        with socket.create_connection(server.sockets.metrics.getsockname(), timeout=10) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
            text = sock.makefile("rb").read().decode()
    assert 'http_requests_total{method="GET",route="base",status="200"} 1\n' in text
    assert "pallet_registry_storage_free_bytes " in text
    assert "text/plain; version=0.0.4" in text


def test_access_log(tmp_path: Path) -> None:
    """JSON with everything, opened anew after it was renamed; text that no client can forge lines in."""
    path = tmp_path / "logs" / "access"
    config = msgspec.structs.replace(settings(tmp_path / "r"), log=LogConfig(access="json", file=str(path)))
    with serving(config) as server, Client(server) as client:
        client.ask("GET /v2/?a=b HTTP/1.1\nUser-Agent: t/1\nX-Request-Id: r-1\nAuthorization: Basic am9lOng=")
        eventually(lambda: path.read_text().count("\n") == 1, what="the line is written")
        found = json.loads(path.read_text())
        assert found.pop("time").endswith("Z")
        assert found.pop("duration") >= 0
        assert found == {"remote": "127.0.0.1", "user": "joe", "method": "GET", "path": "/v2/?a=b", "status": 200,
                         "bytes": 2, "received": 0, "user_agent": "t/1", "request_id": "r-1"}
        path.rename(tmp_path / "old")
        server.reload()
        eventually(path.exists, what="the new file is open")
        client.ask("POST /v2/a/blobs/uploads/ HTTP/1.1\nContent-Length: 3", b"abc")
        eventually(lambda: '"received": 3' in path.read_text(), what="the line is in the new file")
    log = AccessLog(LogConfig(access="text", file=str(tmp_path / "text")))
    log.add(Served(remote="::1", user="j o", method="GET", target='/"\n', status=200, sent=1, seconds=0.1,
                   agent='a"b\x1b', referer="", request_id="x"))
    log.close()
    line = (tmp_path / "text").read_text()
    assert line.endswith('"GET /\\"\\n HTTP/1.1" 200 1 "-" "a\\"b\\x1b"\n')
    assert line.count("\n") == 1


def test_clients_behind_a_balancer_are_logged(tmp_path: Path) -> None:
    path = tmp_path / "access"
    config = msgspec.structs.replace(settings(tmp_path / "r", trusted_proxies=("127.0.0.0/8",)),
                                     log=LogConfig(access="json", file=str(path)))
    with serving(config) as server, Client(server) as client:
        client.ask("GET /v2/ HTTP/1.1\nX-Forwarded-For: 9.9.9.9, 192.0.2.7")
        eventually(lambda: path.read_text().count("\n") == 1, what="the line is written")
    assert json.loads(path.read_text())["remote"] == "192.0.2.7"


def test_names_in_credentials() -> None:
    assert claimed_user("Basic am9lOnNlY3JldA==") == "joe"
    assert claimed_user("Bearer e30.eyJzdWIiOiAiYW5uIn0.x") == "ann"
    for header in ("", "Basic ???", "Bearer x", "Bearer a.b.c", "Bearer e30.W10.x"):
        assert claimed_user(header) == ""


def test_an_upload_ended_elsewhere_is_not_read_back(tmp_path: Path) -> None:
    """The digest so far is on record: a process that did not store the bytes compares it, no more."""
    config = stores.settings(tmp_path)
    from pallet.registry.store import open_store
    with contextlib.closing(open_store(config)) as one, contextlib.closing(open_store(config)) as two:
        begun = one.uploads.begin("a")
        upload = two.uploads.get("a", begun.record.id)
        upload.append(io.BytesIO(BLOB))
        read: list[str] = []

        def spy(location: str, *_: object) -> Iterator[bytes]:
            read.append(location)
            return iter(())

        one.driver.read = spy  # type: ignore[method-assign,assignment]
        one.uploads.get("a", begun.record.id).finish(digests.of_bytes(BLOB))
        assert not read
        assert two.blob("a", digests.of_bytes(BLOB)).size == len(BLOB)
