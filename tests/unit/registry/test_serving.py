"""The registry's loop: kept replies, bodies, time-outs, limits, metrics, logs; over real sockets."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import ssl
import subprocess
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pallet.registry.config import HttpConfig, LogConfig, MetricsConfig
from pallet.registry.messages import RegistryResponse, Stream
from pallet.registry.metadata.open import open_metadata
from pallet.registry.server import RegistryServer
from pallet.registry.serving.accesslog import AccessLog, Served
from pallet.registry.serving.bodies import BrokenRequestError, SocketBody
from pallet.registry.serving.claims import claimed_user
from pallet.registry.serving.metrics import Cells, Metrics, route_of
from pallet.registry.serving.replies import ReplyCache, matches, reply_of
from pallet.spec import digest as digests
from tests.support import registrystore as stores
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pallet.registry.metadata.open import MetadataStore

BLOB = b"config" * 100
RECORD = stores.image([digests.of_bytes(BLOB)])


def settings(root: Path, **http: Any) -> Any:
    return msgspec.structs.replace(stores.settings(root), http=HttpConfig(**http))


@contextlib.contextmanager
def serving(config: Any, **options: Any) -> Iterator[RegistryServer]:
    server = RegistryServer(("127.0.0.1", 0), config.storage.root, config=config, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    with serving(settings(tmp_path)) as made:
        stores.push_blob(made.store, "a", BLOB)
        made.store.put_manifest("a", RECORD, ["v1"])
        yield made


class Client:
    """A connection that says exactly what it is told."""

    def __init__(self, server: RegistryServer, tls: ssl.SSLContext | None = None) -> None:
        host, _, port = server.authority.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=20)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock)
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def send(self, text: str, body: bytes = b"") -> None:
        self.sock.sendall(text.replace("\n", "\r\n").encode() + b"\r\nHost: r\r\n\r\n" + body)

    def reply(self, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline()) != b"\r\n":
            assert line, "the connection was closed within a head"
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        length = 0 if bodiless or status in {204, 304} else int(headers["content-length"])
        return status, headers, self.file.read(length)

    def ask(self, text: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        self.send(text, body)
        return self.reply(bodiless=text.startswith("HEAD"))

    def ended(self) -> bool:
        """Wait for the server to end the connection."""
        return self.file.read(1) == b""


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


# --- connections


def test_pipelined_requests_are_answered_in_order(server: RegistryServer) -> None:
    with Client(server) as client:
        client.send("GET /v2/a/manifests/v1 HTTP/1.1")
        client.send("GET /v2/ HTTP/1.1")
        client.send("POST /v2/a/blobs/uploads/ HTTP/1.1\nContent-Length: 0")
        client.send("GET /v2/a/manifests/none HTTP/1.1\nConnection: close")
        assert [client.reply()[0] for _ in range(4)] == [200, 200, 202, 404]
        assert client.ended()


def test_a_refused_smuggler_is_not_answered_twice(server: RegistryServer) -> None:
    """What follows a head with two lengths is never looked at as a request."""
    with Client(server) as client:
        client.send("POST /v2/a/blobs/uploads/ HTTP/1.1\nContent-Length: 5\nTransfer-Encoding: chunked",
                    b"0\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: r\r\n\r\n")
        status, headers, _ = client.reply()
        assert (status, headers["connection"]) == (400, "close")
        assert client.ended()


def test_tls_on_a_plain_port_is_told_so(server: RegistryServer) -> None:
    with Client(server) as client:
        client.sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert client.file.read(12) == b"HTTP/1.1 400"


def test_large_body_after_100_continue(server: RegistryServer) -> None:
    """The body is asked for only once the request is known to be all right; the connection goes on."""
    data = b"z" * 300_000
    with Client(server) as client:
        digest = digests.of_bytes(data)
        client.send(f"POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\n"
                    f"Content-Length: {len(data)}\nExpect: 100-continue")
        assert client.file.readline() == b"HTTP/1.1 100 Continue\r\n"
        client.file.readline()
        client.sock.sendall(data)
        assert client.reply()[0] == 201
        client.send(f"POST /v2/A/blobs/uploads/ HTTP/1.1\nContent-Length: {len(data)}\nExpect: 100-continue")
        status, headers, _ = client.reply()
        assert (status, headers["connection"]) == (400, "close")
        assert client.ended()


def test_chunked_body_and_the_request_behind_it(server: RegistryServer) -> None:
    data = b"q" * 70_000
    chunked = b"%x;ext=1\r\n%b\r\n" % (len(data), data) + b"0\r\nTrailer: x\r\n\r\n"
    with Client(server) as client:
        client.send(f"POST /v2/a/blobs/uploads/?digest={digests.of_bytes(data)} HTTP/1.1\n"
                    "Transfer-Encoding: chunked", chunked + b"GET /v2/ HTTP/1.1\r\nHost: r\r\n\r\n")
        assert [client.reply()[0], client.reply()[0]] == [201, 200]


@pytest.mark.parametrize("text", ["", "GET /v2/ HT", "PUT /v2/a/manifests/v9 HTTP/1.1\r\nHost: r\r\n"
                                  "Content-Length: 9\r\n\r\nabc"])
def test_slow_clients_are_left(tmp_path: Path, text: str) -> None:
    """Nothing, half a head, half a small body: the connection ends after its time, half a head with a 408."""
    with serving(settings(tmp_path, head_s=0.05, idle_s=0.05, stall_s=0.05)) as server:
        with Client(server) as client:
            client.sock.sendall(text.encode())
            answer = client.file.read()
        assert answer.startswith(b"HTTP/1.1 408") if text.startswith("GET") else answer == b""
        eventually(lambda: server.metrics.value("connections") == 0, what="the connection is closed")


def test_a_stalled_upload_leaves_its_session(tmp_path: Path) -> None:
    """A large body that stands still: the thread is free again, the session has nothing of it."""
    with serving(settings(tmp_path, stall_s=0.2)) as server, Client(server) as client:
        location = client.ask("POST /v2/a/blobs/uploads/ HTTP/1.1\nContent-Length: 0")[1]["location"]
        client.send(f"PATCH {location} HTTP/1.1\nContent-Length: 9000000", b"x" * 100_000)
        assert client.ended()
        eventually(lambda: server.metrics.value("uploads_in_progress") == 0, what="the thread is free")
        with Client(server) as other:
            assert other.ask(f"GET {location} HTTP/1.1")[1]["range"] == "0-0"


def test_at_most_so_many_connections(tmp_path: Path) -> None:
    """The one idle for longest makes room; one with a request in work does not."""
    with serving(settings(tmp_path, max_connections=2)) as server, contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(Client(server)) for _ in range(2))
        first.ask("GET /v2/ HTTP/1.1")
        second.ask("GET /v2/ HTTP/1.1")
        second.sock.sendall(b"GET /v2/ HTTP/1.1\r\n")
        third = stack.enter_context(Client(server))
        assert third.ask("GET /v2/ HTTP/1.1")[0] == 200
        assert first.ended()
        second.sock.sendall(b"Host: r\r\n\r\n")
        assert second.reply()[0] == 200


def test_large_files_to_slow_readers(tmp_path: Path) -> None:
    """Several downloads share the loop with small requests, byte for byte."""
    data = bytes(range(256)) * 32768
    with serving(settings(tmp_path)) as server, contextlib.ExitStack() as stack:
        digest = stores.push_blob(server.store, "a", data)
        readers = [stack.enter_context(Client(server)) for _ in range(3)]
        for reader in readers:
            reader.send(f"GET /v2/a/blobs/{digest} HTTP/1.1\nConnection: close")
        with Client(server) as other:
            assert other.ask("GET /v2/ HTTP/1.1")[0] == 200
            assert other.ask(f"GET /v2/a/blobs/{digest} HTTP/1.1\nRange: bytes=70000-900000")[2] == data[70000:900001]
        for reader in readers:
            assert reader.reply()[2] == data


def test_a_stop_lets_requests_finish(tmp_path: Path) -> None:
    with serving(settings(tmp_path)) as server, Client(server) as client, Client(server) as idle:
        idle.ask("GET /v2/ HTTP/1.1")
        data = b"f" * 200_000
        client.send(f"POST /v2/a/blobs/uploads/?digest={digests.of_bytes(data)} HTTP/1.1\n"
                    f"Content-Length: {len(data)}", data[:1000])
        eventually(lambda: server.metrics.value("uploads_in_progress") == 1, what="the upload runs")
        server.end()
        assert idle.ended()
        client.sock.sendall(data[1000:])
        status, headers, _ = client.reply()
        assert (status, headers["connection"]) == (201, "close")
        assert client.ended()


def test_a_failing_stream_cuts_the_connection(server: RegistryServer) -> None:
    """Never a reply that looks complete; the loop goes on."""
    closed = threading.Event()

    def broken() -> Iterator[bytes]:
        yield b"x" * 10
        message = "upstream is gone"
        raise OSError(message)

    server.service.answer = lambda request: RegistryResponse(  # type: ignore[method-assign]
        status=200, body=Stream(chunks=broken(), length=100, close=closed.set))
    with Client(server) as client:
        client.send("GET /v2/a/tags/list HTTP/1.1")
        answer = client.file.read()
        assert b"Content-Length: 100" in answer
        assert answer.endswith(b"x" * 10)
    assert closed.wait(10)


def test_failures_have_an_id(server: RegistryServer, caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: object) -> RegistryResponse:
        raise KeyError(request)

    server.service.answer = fail  # type: ignore[method-assign]
    with Client(server) as client:
        status, headers, body = client.ask("GET /v2/a/tags/list HTTP/1.1\nX-Request-Id: mine-1")
    assert (status, headers["x-request-id"]) == (500, "mine-1")
    assert json.loads(body)["errors"][0]["detail"] == {"request": "mine-1"}
    assert "mine-1" in caplog.text


def test_files_that_are_not_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is waited for in threads, a window at a time; the bytes are the same."""
    data = bytes(range(251)) * 20000
    asked: list[int] = []

    def cold(fd: int, buffers: object, offset: int, flags: int = 0) -> int:
        asked.append(offset)
        raise BlockingIOError

    with serving(settings(tmp_path)) as server, Client(server) as client:
        digest = stores.push_blob(server.store, "a", data)
        monkeypatch.setattr(os, "preadv", cold)
        assert client.ask(f"GET /v2/a/blobs/{digest} HTTP/1.1")[2] == data
        assert client.ask("GET /v2/ HTTP/1.1")[0] == 200
    assert len(set(asked)) >= 5


@pytest.mark.needs("openssl")
def test_tls(tmp_path: Path) -> None:
    """Uploads, large files to a reader that takes its time, and plain HTTP, which is told so."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=r"], check=True,
                   capture_output=True)
    data = bytes(range(256)) * 16384
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    with serving(settings(tmp_path / "store"), tls=(certificate, key)) as server:
        with Client(server, context) as client:
            digest = digests.of_bytes(data)
            assert client.ask(f"POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\n"
                              f"Content-Length: {len(data)}", data)[0] == 201
            for _ in range(3):
                client.send(f"GET /v2/a/blobs/{digest} HTTP/1.1")
            assert [client.reply()[2] for _ in range(3)] == [data] * 3
            client.send("GET /v2/ HTTP/1.1\nConnection: close")
            assert client.reply()[2] == b"{}"
            assert client.ended()
        with Client(server) as plain:
            plain.send("GET /v2/ HTTP/1.1")
            assert b"HTTP request to an HTTPS server" in plain.file.read()


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
