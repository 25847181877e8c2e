"""HTTP as the Engine API needs it: connections, bodies, disconnects, errors, version prefix."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pallet import errors
from pallet.spec.engine.progress import ProgressMessage
from tests.api.fakes import Feed, event

if TYPE_CHECKING:
    from tests.api.conftest import ApiUnderTest

GOLDEN = json.loads((Path(__file__).parent / "golden" / "errors.json").read_text())

# dockerd 20.10 answers these with 500 and Go's own words where 28 has a client error of its own.
_NEWER: dict[str, tuple[int, str | None]] = {
    "/v1.41/containers/json?limit=x": (400, None),
    "/v1.41/containers/zzz/stop?t=x": (400, None),
    "/v1.41/containers/create": (400, "config cannot be empty in order to create a container"),
}


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['method']} {c['path']}"[:60])
async def test_answers_as_a_real_dockerd(api: ApiUnderTest, case: dict[str, Any]) -> None:
    headers = {name.replace("-", "_"): value for name, value in case["headers"].items()}
    reply = await api.call(case["method"], case["path"], case["body"], **headers)
    status, expected = case["status"], case["reply"]
    if (newer := _NEWER.get(case["path"])) and status != 404:
        status = newer[0]
        if newer[1]:
            expected = json.dumps({"message": newer[1]}, separators=(",", ":")) + "\n"
    assert reply.status == status
    if "filters=" in case["path"]:
        expected = expected.replace("Invalid filter", "invalid filter")
    assert reply.body.decode() == expected
    theirs = {name.lower(): value for name, value in case["reply_headers"].items()}
    ours = {name: reply.headers.get(name) for name in theirs}
    if "attach" in case["path"]:
        theirs.pop("connection", None)
    if reply.body.decode() != case["reply"]:
        theirs.pop("content-length", None)
    for name, value in theirs.items():
        assert ours[name] == value, name


async def test_common_headers(api: ApiUnderTest) -> None:
    reply = await api.call("GET", "/_ping")
    assert reply.body == b"OK"
    expected = {"api-version": "1.51", "docker-experimental": "false", "ostype": "linux",
                "server": "Docker/0.1.0 (linux)", "builder-version": "1", "swarm": "inactive",
                "cache-control": "no-cache, no-store, must-revalidate", "pragma": "no-cache",
                "content-type": "text/plain; charset=utf-8", "content-length": "2"}
    assert {name: reply.headers[name] for name in expected} == expected


@pytest.mark.parametrize(("version", "message"), [
    ("1.99", "client version 1.99 is too new. Maximum supported API version is 1.51"),
    ("1.21", "client version 1.21 is too old. Minimum supported API version is 1.24, please upgrade "
             "your client to a newer version"),
    ("1.9", "client version 1.9 is too old. Minimum supported API version is 1.24, please upgrade "
            "your client to a newer version"),
])
async def test_version_out_of_range(api: ApiUnderTest, version: str, message: str) -> None:
    reply = await api.call("GET", f"/v{version}/version")
    assert reply.status == 400
    assert reply.json == {"message": message}
    assert reply.headers["api-version"] == "1.51"


@pytest.mark.parametrize("version", ["/v1.22", "/v1.24", "/v1.51", ""])
async def test_version_in_range(api: ApiUnderTest, version: str) -> None:
    reply = await api.call("GET", f"{version}/version")
    assert reply.status == 200
    assert (reply.json["ApiVersion"], reply.json["MinAPIVersion"]) == ("1.51", "1.24")


async def test_route_newer_than_the_client_is_not_there(api: ApiUnderTest) -> None:
    assert (await api.call("GET", "/v1.24/system/df")).status == 404
    assert (await api.call("GET", "/v1.25/system/df")).status == 200


@pytest.mark.parametrize(("error", "status"), [
    (errors.InvalidParameterError("m"), 400), (errors.UnauthorizedError("m"), 401),
    (errors.ForbiddenError("m"), 403), (errors.NotFoundError("m"), 404),
    (errors.ConflictError("m"), 409), (errors.NotImplementedApiError("m"), 501),
    (errors.UnavailableError("m"), 503), (errors.DeadlineError("m"), 500),
    (errors.SystemFailureError("m"), 500), (errors.DataLossError("m"), 500),
])
async def test_every_error_kind(api: ApiUnderTest, error: Exception, status: int) -> None:
    api.fakes.containers.error = error
    reply = await api.call("POST", "/containers/c1/start")
    assert (reply.status, reply.body) == (status, b'{"message":"m"}\n')


async def test_not_modified_has_no_body(api: ApiUnderTest) -> None:
    api.fakes.containers.error = errors.NotModifiedError("x")
    client = await api.connect()
    reply = await client.call("POST", "/containers/c1/start")
    assert (reply.status, reply.body) == (304, b"")
    assert "content-length" not in reply.headers
    assert (await client.call("GET", "/_ping")).status == 200


async def test_unforeseen_error_is_logged_and_numbered(
    api: ApiUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    api.fakes.containers.error = RuntimeError("boom")
    reply = await api.call("POST", "/containers/c1/start")
    assert reply.status == 500
    ticket = reply.json["message"].split()[2].rstrip(":")
    assert ticket in caplog.text
    assert "Traceback" in caplog.text


async def test_keep_alive_and_pipeline(api: ApiUnderTest) -> None:
    client = await api.connect()
    one = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
    client.writer.write(one * 3)
    for _ in range(3):
        assert (await client.reply()).body == b"OK"
    client.writer.write(one)
    assert (await client.reply()).body == b"OK"


async def test_pipeline_then_half_close_answers_all(api: ApiUnderTest) -> None:
    client = await api.connect()
    client.writer.write(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    client.writer.write_eof()
    assert (await client.reader.read()).count(b"\r\n\r\nOK") == 2


async def test_connection_close_is_kept(api: ApiUnderTest) -> None:
    client = await api.connect()
    reply = await client.call("GET", "/_ping", Connection="close")
    assert reply.headers["connection"] == "close"
    assert await client.reader.read() == b""


async def test_http_1_0_gets_an_unframed_stream(api: ApiUnderTest) -> None:
    api.fakes.system.feed = Feed(event("start"))
    client = await api.connect()
    client.writer.write(b"GET /events HTTP/1.0\r\n\r\n")
    head, body = (await client.reader.read()).split(b"\r\n\r\n", 1)
    assert b"chunked" not in head
    assert json.loads(body)["Action"] == "start"


@pytest.mark.parametrize("raw", [
    b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
])
async def test_malformed_requests_are_refused(api: ApiUnderTest, raw: bytes) -> None:
    client = await api.connect()
    client.writer.write(raw)
    reply = await client.reader.read()
    assert reply.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 404 "))


async def test_header_too_long_is_refused(api: ApiUnderTest) -> None:
    client = await api.connect()
    client.writer.write(b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * (2 << 20))
    reply = await client.reader.readline()
    assert reply.startswith(b"HTTP/1.1 431 ")


async def test_long_filter_value_is_fine(api: ApiUnderTest) -> None:
    filters = json.dumps({"name": ["x" * 200_000]}, separators=(",", ":")).replace('"', "%22")
    assert (await api.call("GET", f"/containers/json?filters={filters}")).status == 200


async def test_expect_continue_comes_when_the_body_is_wanted(api: ApiUnderTest) -> None:
    client = await api.connect()
    await client.send("POST", "/images/load", Expect="100-continue", Content_Length="5")
    assert (await client.head()).status == 100
    client.writer.write(b"12345")
    assert (await client.reply()).json == {"stream": "Loaded 5\n"}


async def test_expect_continue_is_not_given_to_a_refused_request(api: ApiUnderTest) -> None:
    client = await api.connect()
    await client.send("POST", "/nope", Expect="100-continue", Content_Length="5")
    reply = await client.reply()
    assert (reply.status, reply.headers["connection"]) == (404, "close")


async def test_chunked_body(api: ApiUnderTest) -> None:
    client = await api.connect()
    await client.send("POST", "/images/load", Transfer_Encoding="chunked")
    for _ in range(3):
        client.writer.write(b"4\r\nabcd\r\n")
    client.writer.write(b"0\r\n\r\n")
    assert (await client.reply()).json == {"stream": "Loaded 12\n"}
    assert (await client.call("GET", "/_ping")).status == 200


async def test_big_upload_waits_for_its_reader(api: ApiUnderTest) -> None:
    """While nobody reads the body, the server stops reading from the client."""
    gate = api.fakes.archives.gate = asyncio.Event()
    client = await api.connect()
    total = 64 << 20
    await client.send("POST", "/images/load", Content_Length=str(total))
    piece = b"x" * (1 << 20)
    sent = 0

    async def upload() -> None:
        nonlocal sent
        while sent < total:
            client.writer.write(piece)
            sent += len(piece)
            await client.writer.drain()

    task = asyncio.create_task(upload())
    await asyncio.wait([task], timeout=0.05)
    assert not task.done()
    assert sent < 8 << 20
    gate.set()
    reply, _ = await asyncio.gather(client.reply(), task)
    assert reply.json == {"stream": f"Loaded {total}\n"}


async def test_early_error_reaches_a_client_that_is_still_sending(api: ApiUnderTest) -> None:
    client = await api.connect()
    await client.send("POST", "/nope", Content_Length=str(1 << 20))
    client.writer.write(b"x" * 300_000)
    reply = await client.reply()
    assert (reply.status, reply.headers["connection"]) == (404, "close")
    client.writer.write(b"x" * 100_000)
    assert await client.reader.read() == b""


async def test_client_that_vanishes_ends_a_stream(api: ApiUnderTest) -> None:
    feed = api.fakes.system.feed = Feed(event("start"), ends=False)
    client = await api.connect()
    await client.send("GET", "/events")
    assert (await client.head()).headers["content-type"] == "application/json"
    assert json.loads(await client.chunk())["Action"] == "start"
    client.writer.close()
    await asyncio.wait_for(feed.closed.wait(), 1)


async def test_half_close_ends_a_stream_too(api: ApiUnderTest) -> None:
    """As in Go's server: who closes the sending side of a plain request is gone."""
    feed = api.fakes.containers.feed = Feed(ends=False)
    client = await api.connect()
    await client.send("GET", "/containers/c1/logs?stdout=1&follow=1")
    await client.head()
    client.writer.write_eof()
    await asyncio.wait_for(feed.closed.wait(), 1)


async def test_vanished_client_does_not_stop_a_state_change(api: ApiUnderTest) -> None:
    gate = api.fakes.containers.gate = asyncio.Event()
    client = await api.connect()
    await client.send("POST", "/containers/c1/stop")
    while not api.fakes.containers.calls:
        await asyncio.sleep(0)
    client.writer.close()
    await client.writer.wait_closed()
    for _ in range(20):
        await asyncio.sleep(0)
    assert api.server.tasks
    gate.set()
    await asyncio.wait_for(asyncio.wait(api.server.tasks), 1)


async def test_half_closed_client_gets_its_reply(api: ApiUnderTest) -> None:
    gate = api.fakes.containers.gate = asyncio.Event()
    client = await api.connect()
    await client.send("POST", "/containers/c1/start")
    client.writer.write_eof()
    while not api.fakes.containers.calls:
        await asyncio.sleep(0)
    gate.set()
    assert (await client.reply()).status == 204
    assert await client.reader.read() == b""


async def test_slow_reader_slows_the_stream(api: ApiUnderTest) -> None:
    piece = b"x" * 65536
    feed = api.fakes.containers.feed = Feed(*[piece] * 200)
    client = await api.connect()
    await client.send("GET", "/containers/c1/logs?stdout=1")
    await client.head()
    for _ in range(50):
        await asyncio.sleep(0)
    assert feed.queue.qsize() > 150
    total = 0
    while data := await client.chunk():
        total += len(data)
    assert total == 200 * len(piece)


async def test_close_ends_streams_and_lets_requests_finish(api: ApiUnderTest) -> None:
    feed = api.fakes.system.feed = Feed(ends=False)
    gate = api.fakes.containers.gate = asyncio.Event()
    streaming, stopping, idle = [await api.connect() for _ in range(3)]
    await streaming.send("GET", "/events")
    await streaming.head()
    await stopping.send("POST", "/containers/c1/stop")
    assert (await idle.call("GET", "/_ping")).status == 200
    while not api.fakes.containers.calls:
        await asyncio.sleep(0)
    closing = asyncio.create_task(api.server.close())
    await asyncio.wait_for(feed.closed.wait(), 1)
    gate.set()
    reply = await stopping.reply()
    assert (reply.status, reply.headers["connection"]) == (204, "close")
    await closing
    assert await idle.reader.read() == b""


async def test_progress_error_before_the_first_message_is_an_http_error(
    api: ApiUnderTest,
) -> None:
    api.fakes.images.script = [errors.NotFoundError("pull access denied for x")]
    reply = await api.call("POST", "/images/create?fromImage=x")
    assert (reply.status, reply.json) == (404, {"message": "pull access denied for x"})


async def test_progress_error_after_it_travels_in_band(api: ApiUnderTest) -> None:
    gate = asyncio.Event()
    api.fakes.images.script = [
        ProgressMessage(status="Pulling"), gate, errors.UnauthorizedError("no")]
    client = await api.connect()
    await client.send("POST", "/images/create?fromImage=x")
    assert (await client.head()).status == 200
    assert await client.chunk() == b'{"status":"Pulling"}\r\n'
    gate.set()
    assert await client.chunk() == (
        b'{"errorDetail":{"message":"no"},"error":"no"}\r\n')
    assert await client.chunk() == b""


async def test_pull_stops_when_the_client_goes_even_before_the_first_message(
    api: ApiUnderTest,
) -> None:
    api.fakes.images.script = [asyncio.Event()]
    client = await api.connect()
    await client.send("POST", "/images/create?fromImage=x")
    while not api.fakes.images.calls:
        await asyncio.sleep(0)
    client.writer.close()
    await asyncio.wait_for(api.fakes.images.cancelled.wait(), 1)


async def test_progress_of_one_layer_is_merged_while_the_client_is_slow(
    api: ApiUnderTest,
) -> None:
    from pallet.spec.engine.progress import ProgressDetail

    api.fakes.images.script = [
        ProgressMessage(status="Downloading", id="aa",
                        progress_detail=ProgressDetail(current=n, total=9)) for n in range(10)]
    reply = await api.call("POST", "/images/create?fromImage=x")
    lines = [json.loads(line) for line in reply.body.split(b"\r\n") if line]
    assert [line["progressDetail"]["current"] for line in lines] == [9]
