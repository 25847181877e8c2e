"""Attach, exec, wait, logs: hijack, half-close, read-ahead, content types, order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from pallet import errors
from pallet.http.streams import STDOUT, Deframer, frame
from pallet.spec.engine.container import ContainerWaitResponse
from tests.api.conftest import Client
from tests.api.fakes import ID, Feed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.api.conftest import ApiUnderTest

MUX = "application/vnd.docker.multiplexed-stream"
RAW = "application/vnd.docker.raw-stream"


@pytest.mark.parametrize(("version", "tty", "kind"), [
    ("1.51", False, MUX), ("1.42", False, MUX), ("1.41", False, RAW), ("1.51", True, RAW),
])
async def test_attach_upgrade(api: ApiUnderTest, version: str, tty: bool, kind: str) -> None:
    api.fakes.containers.tty = tty
    client = await api.connect()
    head = await client.upgrade(f"/v{version}/containers/c1/attach?stream=1&stdin=1&stdout=1")
    assert head.status_line == "HTTP/1.1 101 UPGRADED"
    assert head.headers["content-type"] == kind
    assert (head.headers["connection"], head.headers["upgrade"]) == ("Upgrade", "tcp")
    assert head.headers["api-version"] == "1.51"
    client.writer.write(b"hello")
    client.writer.write_eof()
    out = await client.reader.read()
    if tty:
        assert out == b"HELLO[5]"
    else:
        assert b"".join(data for _, data in Deframer().feed(out)) == b"HELLO[5]"
    [call] = [details["options"] for verb, details in api.fakes.containers.calls
              if verb == "attach"]
    assert (call.stdin, call.stdout, call.stderr, call.stream) == (True, True, False, True)


async def test_attach_without_upgrade_is_a_raw_200(api: ApiUnderTest) -> None:
    client = await api.connect()
    await client.send("POST", "/containers/c1/attach?stream=1", b"")
    head = await client.head()
    assert (head.status_line, head.headers["content-type"]) == ("HTTP/1.1 200 OK", RAW)
    assert "transfer-encoding" not in head.headers
    client.writer.write(b"x")
    client.writer.write_eof()
    assert Deframer().feed(await client.reader.read()) == [(STDOUT, b"X"), (STDOUT, b"[1]")]


@pytest.mark.parametrize("size", [1, 5000, 300_000])
async def test_bytes_sent_with_the_request_are_not_lost(api: ApiUnderTest, size: int) -> None:
    api.fakes.containers.tty = True
    client = await api.connect()
    early = os.urandom(size).hex().encode()
    writing = asyncio.create_task(client.upgrade("/containers/c1/attach?stream=1", early=early))
    assert (await writing).status == 101
    client.writer.write(b"late")
    client.writer.write_eof()
    out = await client.reader.read()
    assert out == (early + b"late").upper() + b"[%d]" % (len(early) + 4)


async def test_half_close_before_the_stream_opens_is_kept(api: ApiUnderTest) -> None:
    api.fakes.containers.tty = True
    gate = api.fakes.containers.gate = asyncio.Event()
    client = await api.connect()
    client.writer.write(b"POST /containers/c1/attach?stream=1 HTTP/1.1\r\nHost: x\r\n"
                        b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly")
    client.writer.write_eof()
    while not api.fakes.containers.calls:
        await asyncio.sleep(0)
    gate.set()
    assert (await client.reader.read()).endswith(b"\r\n\r\nEARLY[5]")


async def test_plain_stream_is_the_connection_itself(api: ApiUnderTest) -> None:
    """The daemon is out of the data path: it keeps neither relay nor transport."""
    client = await api.connect()
    await client.upgrade("/containers/c1/attach?stream=1&stdin=1")
    await asyncio.sleep(0)
    assert not api.server.connections
    assert not api.server.relays
    await api.server.close()
    client.writer.write(b"still")
    client.writer.write_eof()
    assert Deframer().feed(await client.reader.read())[0] == (STDOUT, b"STILL")


async def test_much_data_both_ways(api: ApiUnderTest) -> None:
    api.fakes.containers.tty = True
    client = await api.connect()
    await client.upgrade("/containers/c1/attach?stream=1", early=b"a")
    data = b"b" * (8 << 20)

    async def write() -> None:
        client.writer.write(data)
        await client.writer.drain()
        client.writer.write_eof()

    out, _ = await asyncio.gather(client.reader.read(), write())
    assert len(out) == len(data) + 1 + len(b"[%d]" % (len(data) + 1))


@pytest.mark.parametrize(("error", "status"), [
    (errors.ConflictError("cannot attach to a paused container"), 409),
    (errors.InvalidParameterError("Invalid detach keys (x) provided"), 400),
])
async def test_attach_refused(api: ApiUnderTest, error: Exception, status: int) -> None:
    api.fakes.containers.error = error
    client = await api.connect()
    head = await client.upgrade("/containers/c1/attach?stream=1")
    assert (head.status, head.headers["content-type"]) == (status, RAW)
    assert await client.reader.read() == f"{error}\r\n".encode()


async def test_exec(api: ApiUnderTest) -> None:
    made = await api.call("POST", "/containers/c1/exec", {"Cmd": ["sh"], "AttachStdin": True})
    assert (made.status, made.json) == (201, {"Id": "e1"})
    client = await api.connect()
    head = await client.upgrade("/exec/e1/start", {"Detach": False, "Tty": False})
    assert (head.status, head.headers["content-type"]) == (101, MUX)
    client.writer.write(b"x")
    client.writer.write_eof()
    assert Deframer().feed(await client.reader.read())[0] == (STDOUT, b"X")
    detached = await api.call("POST", "/exec/e1/start", {"Detach": True})
    assert (detached.status, detached.body) == (200, b"")
    [_, options] = [call for verb, call in api.fakes.execs.calls if verb == "start"]
    assert options.tty is False


async def test_exec_console_size_needs_tty_and_1_42(api: ApiUnderTest) -> None:
    for version, tty, expected in (("1.51", True, (3, 4)), ("1.51", False, None),
                                   ("1.41", True, None)):
        await api.call("POST", f"/v{version}/exec/e1/start",
                       {"Detach": True, "Tty": tty, "ConsoleSize": [3, 4]})
        assert api.fakes.execs.calls[-1][1].console_size == expected


@pytest.mark.parametrize(("path", "body", "status", "message"), [
    ("/containers/zz/exec", {"Cmd": ["a"]}, 404, "No such container: zz"),
    ("/containers/c1/exec", {}, 400, "No exec command specified"),
    ("/exec/zz/start", {}, 404, "No such exec instance: zz"),
    ("/exec/e1/resize?h=a&w=1", None, 400, 'strconv.Atoi: parsing "a": invalid syntax'),
])
async def test_exec_refused(
    api: ApiUnderTest, path: str, body: object, status: int, message: str
) -> None:
    reply = await api.call("POST", path, body)
    assert (reply.status, reply.json) == (status, {"message": message})


async def test_wait_is_registered_before_its_head_is_seen(api: ApiUnderTest) -> None:
    client = await api.connect()
    await client.send("POST", "/containers/c1/wait?condition=next-exit")
    head = await client.head()
    assert (head.status, head.headers["transfer-encoding"]) == (200, "chunked")
    [wait] = api.fakes.containers.waits
    wait.future.set_result(ContainerWaitResponse(status_code=137))
    assert await client.chunk() == b'{"StatusCode":137}\n'
    assert await client.chunk() == b""
    assert wait.closed
    assert api.fakes.containers.calls[-1] == ("wait", {"condition": "next-exit"})


async def test_wait_is_forgotten_when_the_client_goes(api: ApiUnderTest) -> None:
    client = await api.connect()
    await client.send("POST", "/containers/c1/wait")
    await client.head()
    client.writer.close()
    await client.writer.wait_closed()
    [wait] = api.fakes.containers.waits
    while not wait.closed:
        await asyncio.sleep(0)


async def test_wait_before_1_30_is_one_plain_reply(api: ApiUnderTest) -> None:
    client = await api.connect()
    await client.send("POST", "/v1.29/containers/c1/wait?condition=removed")
    while not api.fakes.containers.waits:
        await asyncio.sleep(0)
    api.fakes.containers.waits[0].future.set_result(ContainerWaitResponse(status_code=3))
    reply = await client.reply()
    assert (reply.json, "content-length" in reply.headers) == ({"StatusCode": 3}, True)
    assert api.fakes.containers.calls[-1] == ("wait", {"condition": "not-running"})


async def test_wait_condition_unknown(api: ApiUnderTest) -> None:
    reply = await api.call("POST", "/containers/c1/wait?condition=zz")
    assert (reply.status, reply.json) == (400, {"message": 'invalid condition: "zz"'})


@pytest.mark.parametrize(("version", "tty", "kind"), [
    ("1.51", False, MUX), ("1.41", False, RAW), ("1.51", True, RAW)])
async def test_logs(api: ApiUnderTest, version: str, tty: bool, kind: str) -> None:
    api.fakes.containers.tty = tty
    api.fakes.containers.feed = Feed(frame(STDOUT, b"a\n"), frame(STDOUT, b"b\n"))
    reply = await api.call(
        "GET", f"/v{version}/containers/c1/logs?stdout=1&stderr=false&follow=TRUE&tail=10"
        "&since=1700000000.5&until=1700000001.000000001&timestamps=1&details=no")
    assert reply.headers["content-type"] == kind
    assert reply.body == frame(STDOUT, b"a\n") + frame(STDOUT, b"b\n")
    assert api.fakes.containers.feed.closed.is_set()
    options = api.fakes.containers.calls[-1][1]["options"]
    assert (options.stdout, options.stderr, options.follow, options.tail) == (True, False, True, 10)
    assert (options.since_ns, options.until_ns) == (
        1_700_000_000_500_000_000, 1_700_000_001_000_000_001)
    assert (options.timestamps, options.details) == (True, False)


@pytest.mark.parametrize("tail", ["all", "", "-1", "x", "²"])
async def test_logs_tail_all(api: ApiUnderTest, tail: str) -> None:
    api.fakes.containers.feed = Feed()
    await api.call("GET", f"/containers/c1/logs?stdout=1&tail={quote(tail)}")
    assert api.fakes.containers.calls[-1][1]["options"].tail is None


async def test_log_driver_that_cannot_read(api: ApiUnderTest) -> None:
    message = "configured logging driver does not support reading"
    api.fakes.containers.error = errors.NotImplementedApiError(message)
    reply = await api.call("GET", "/containers/c1/logs?stdout=1")
    assert (reply.status, reply.json) == (501, {"message": message})


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server certificate for localhost and a client certificate."""
    top = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=top, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=ca",
            "-days", "2", "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign")
    for name, extra in (("server", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
                        ("client", "extendedKeyUsage=clientAuth")):
        openssl("req", *key, "-keyout", f"{name}-key.pem", "-out", f"{name}.csr", "-subj",
                f"/CN={name}")
        (top / "ext").write_text(extra + "\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem",
                "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", "ext")
    return top


async def _tls_client(
    api: ApiUnderTest, certificates: Path, *, with_certificate: bool = True
) -> Client:
    from pallet.config import Config, TlsConfig
    from pallet.daemon.listeners import open_all, tls_context

    config = Config(hosts=("tcp://127.0.0.1:0",), tls=TlsConfig(
        ca_cert=certificates / "ca.pem", cert=certificates / "server.pem",
        key=certificates / "server-key.pem", verify=True))
    assert config.tls
    [listener] = open_all(config, allow_plain_tcp=False)
    await api.server.listen(listener.sock, tls=tls_context(config.tls))
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if with_certificate:
        context.load_cert_chain(certificates / "client.pem", certificates / "client-key.pem")
    port = listener.sock.getsockname()[1]
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost")
    api._writers.append(writer)
    return Client(reader, writer)


async def test_tls_requests_and_stream(api: ApiUnderTest, certificates: Path) -> None:
    client = await _tls_client(api, certificates)
    assert (await client.call("GET", "/_ping")).body == b"OK"
    big = await client.call("POST", "/images/load", b"x" * (3 << 20))
    assert big.json == {"stream": f"Loaded {3 << 20}\n"}
    api.fakes.containers.tty = True
    head = await client.upgrade("/containers/c1/attach?stream=1&stdin=1")
    assert head.status == 101
    client.writer.write(b"hello")
    assert await client.reader.readexactly(5) == b"HELLO"
    assert api.server.relays


async def test_tls_without_client_certificate_is_refused(
    api: ApiUnderTest, certificates: Path
) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        client = await _tls_client(api, certificates, with_certificate=False)
        await client.call("GET", "/_ping")


async def test_tls_half_close_keeps_the_output(api: ApiUnderTest, certificates: Path) -> None:
    """close_notify from the client ends its input only; asyncio's own TLS would hang up."""
    await _tls_client(api, certificates)  # opens the listener
    api.fakes.containers.tty = True
    listener = api.server._listeners[-1]
    port = listener.sockets[0].getsockname()[1]
    out = await asyncio.to_thread(_half_close_by_bio, port, certificates)
    assert out.endswith(b"\r\n\r\nHELLO[5]")


def _half_close_by_bio(port: int, certificates: Path) -> bytes:
    """Send a request and close_notify, then read on: what Go's ``CloseWrite`` does."""
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / "client.pem", certificates / "client-key.pem")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    out = b""

    def attempt(step: Callable[[], object]) -> bool:
        """Run one TLS step and send what it made; False when it wants to read first."""
        try:
            step()
        except ssl.SSLWantReadError:
            return False
        finally:
            sock.sendall(outgoing.read())
        return True

    def read() -> None:
        nonlocal out
        while piece := tls.read(65536):
            out += piece

    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        while not attempt(tls.do_handshake):
            incoming.write(sock.recv(65536))
        attempt(lambda: tls.write(
            b"POST /containers/c1/attach?stream=1 HTTP/1.1\r\nHost: x\r\n"
            b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello"))
        while not out.endswith(b"HELLO"):
            incoming.write(sock.recv(65536))
            attempt(read)
        attempt(tls.unwrap)
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while data := sock.recv(65536):
                incoming.write(data)
                attempt(read)
    return out


async def test_docker_py_and_long_ids(api: ApiUnderTest) -> None:
    """docker-py's own attach, exec and wait work on the server, from another thread."""
    import docker

    api.fakes.containers.feed = Feed(frame(STDOUT, b"log\n"))

    def use() -> tuple[object, ...]:
        client = docker.DockerClient(base_url=f"unix://{api.path}", timeout=5)
        try:
            container = client.containers.get(ID)
            sock = container.attach_socket(params={"stdin": 1, "stream": 1, "stdout": 1})
            raw = sock._sock
            raw.sendall(b"abc")
            got = raw.recv(100)
            sock.close()
            raw.close()
            return client.ping(), container.name, container.logs(), got
        finally:
            client.close()

    ping, name, logs, got = await asyncio.to_thread(use)
    assert (ping, name, logs) == (True, "c1", b"log\n")
    assert Deframer().feed(got) == [(STDOUT, b"ABC")]


async def test_events(api: ApiUnderTest) -> None:
    from tests.api.fakes import event

    api.fakes.system.feed = Feed(event("create", "image"), event("start"))
    old = await api.call("GET", '/v1.45/events?since=5&until=7.5&filters={"type":["container"]}')
    assert [json.loads(line)["Action"] for line in old.body.splitlines()] == ["start"]
    options = api.fakes.system.calls[-1][1]
    assert (options.since_ns, options.until_ns) == (5_000_000_000, 7_500_000_000)
    assert options.filters.get("type") == ("container",)
    api.fakes.system.feed = Feed(event("create", "image"))
    new = await api.call("GET", "/v1.46/events")
    assert json.loads(new.body)["Action"] == "create"
