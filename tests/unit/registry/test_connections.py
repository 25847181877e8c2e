"""The registry's connections: order, time-outs, limits, files, TLS; over real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from pallet.registry.messages import RegistryResponse, Stream
from pallet.registry.server import RegistryServer
from pallet.spec import digest as digests
from tests.support import registrystore as stores
from tests.support.registryloop import Client, serving, settings
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
            client.send(f"POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\nContent-Length: {len(data)}",
                        data + b"GET /v2/ HTTP/1.1\r\nHost: r\r\n\r\n")
            assert [client.reply()[0], client.reply()[0]] == [201, 200]
            client.send("GET /v2/ HTTP/1.1\nConnection: close")
            assert client.reply()[2] == b"{}"
            assert client.ended()
        with Client(server) as plain:
            plain.send("GET /v2/ HTTP/1.1")
            assert b"HTTP request to an HTTPS server" in plain.file.read()
