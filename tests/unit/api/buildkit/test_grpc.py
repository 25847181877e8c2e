"""gRPC over one socket pair: both roles against one another, and raw frames against the server."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import h2.connection
import h2.events
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from pallet.api.buildkit import grpc
from pallet.api.buildkit.grpc import Client, Server, ServerCall
from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.wire.filesync_pb2 import BytesMessage
from pallet.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Methods:
    """What the server under test serves."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()

    def table(self) -> dict[str, object]:
        return {
            "/t.T/Echo": grpc.unary(BytesMessage, self.echo),
            "/t.T/Fail": grpc.unary(BytesMessage, self.fail),
            "/t.T/Many": grpc.streaming(BytesMessage, self.many),
            "/t.T/Chat": self.chat,
            "/t.T/Hang": grpc.unary(BytesMessage, self.hang),
        }

    async def echo(self, call: ServerCall, request: BytesMessage) -> BytesMessage:
        return BytesMessage(data=request.data + call.first("extra").encode())

    async def fail(self, call: ServerCall, request: BytesMessage) -> BytesMessage:
        if request.data == b"kind":
            raise NotFoundError("no such thing: ä%\n")
        raise GrpcError(Code.UNKNOWN, "with details", [AnyMessage(type_url="x/y", value=b"z")])

    async def many(self, call: ServerCall, request: BytesMessage) -> None:
        for number in range(int(request.data)):
            await call.send(BytesMessage(data=b"%d" % number))

    async def chat(self, call: ServerCall) -> None:
        while (message := await call.read(BytesMessage)) is not None:
            await call.send(BytesMessage(data=message.data.upper()))

    async def hang(self, call: ServerCall, request: BytesMessage) -> BytesMessage:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Methods, socket.socket, Server]]:
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    methods = Methods()
    server = Server(methods.table())
    await server.serve(there)
    yield methods, here, server
    await server.close()
    here.close()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Methods, Client, Server]]:
    async with served() as (methods, sock, server):
        client = await Client.on_socket(sock)
        yield methods, client, server
        client.connection.close()
        await client.connection.closed


async def test_one_request_and_one_reply() -> None:
    async with connected() as (_, client, _server):
        reply = await client.unary("/t.T/Echo", BytesMessage(data=b"a"), BytesMessage, metadata=[("extra", "-b")])
        assert reply.data == b"a-b"


@pytest.mark.parametrize("size", [0, 1, 16_384, 3 * 1024 * 1024, 15 * 1024 * 1024])
async def test_messages_of_any_size_up_to_the_limit(size: int) -> None:
    async with connected() as (_, client, _server):
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        assert (await client.unary("/t.T/Echo", BytesMessage(data=data), BytesMessage)).data == data


async def test_a_message_beyond_the_limit_is_refused_before_it_arrives() -> None:
    async with connected() as (_, client, _server):
        async with client.call("/t.T/Chat") as call:
            await call._stream.send(b"\0" + (17 << 20).to_bytes(4, "big") + b"begin")
            with pytest.raises(GrpcError, match="larger than max") as caught:
                await call.read(BytesMessage)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED


async def test_replies_come_as_a_stream() -> None:
    async with connected() as (_, client, _server), client.call("/t.T/Many") as call:
        await call.send(BytesMessage(data=b"20000"))
        call.end()
        got = []
        while (message := await call.read(BytesMessage)) is not None:
            got.append(int(message.data))
        assert got == list(range(20000))


async def test_both_sides_stream_far_beyond_the_window() -> None:
    async with connected() as (_, client, _server), client.call("/t.T/Chat") as call:
        piece = b"a" * 100_000

        async def talk() -> None:
            for _ in range(300):
                await call.send(BytesMessage(data=piece))
            call.end()

        sender = asyncio.ensure_future(talk())
        received = 0
        while (message := await call.read(BytesMessage)) is not None:
            assert message.data == piece.upper()
            received += 1
        await sender
        assert received == 300


async def test_many_small_messages_to_the_server_keep_their_windows_open() -> None:
    async with connected() as (_, client, _server), client.call("/t.T/Chat") as call:
        for _ in range(100):
            await call.send(*[BytesMessage(data=b"x" * 200)] * 500)
            for _ in range(500):
                await call.read(BytesMessage)


@pytest.mark.parametrize(("word", "code", "text"), [
    (b"kind", Code.NOT_FOUND, "no such thing: ä%\n"), (b"", Code.UNKNOWN, "with details")])
async def test_an_error_keeps_code_and_text(word: bytes, code: Code, text: str) -> None:
    async with connected() as (_, client, _server):
        with pytest.raises(GrpcError) as caught:
            await client.unary("/t.T/Fail", BytesMessage(data=word), BytesMessage)
        assert (caught.value.code, caught.value.message) == (code, text)
        assert [(detail.type_url, detail.value) for detail in caught.value.details] == ([] if word else [("x/y", b"z")])


async def test_unknown_methods_are_unimplemented() -> None:
    async with connected() as (_, client, _server):
        with pytest.raises(GrpcError, match=r"unknown method Nope for service t\.T") as caught:
            await client.unary("/t.T/Nope", BytesMessage(), BytesMessage)
        assert caught.value.code is Code.UNIMPLEMENTED


async def test_bytes_that_are_no_message_are_an_internal_error() -> None:
    async with connected() as (_, client, _server), client.call("/t.T/Echo") as call:
        await call._stream.send(grpc.frame(b"\xff\xff\xff"))
        call.end()
        with pytest.raises(GrpcError) as caught:
            await call.read(BytesMessage)
        assert caught.value.code is Code.INTERNAL


async def test_a_cancelled_call_cancels_its_handler() -> None:
    async with connected() as (methods, client, server):
        async with client.call("/t.T/Hang") as call:
            await call.send(BytesMessage())
            await methods.entered.wait()
        await methods.cancelled.wait()
        assert (await client.unary("/t.T/Echo", BytesMessage(data=b"on"), BytesMessage)).data == b"on"
        assert not server._tasks


async def test_a_lost_connection_cancels_handlers_and_fails_calls() -> None:
    async with connected() as (methods, client, server):
        call = client.call("/t.T/Hang")
        await call.send(BytesMessage())
        await methods.entered.wait()
        client.connection.abort()
        with pytest.raises(GrpcError) as caught:
            await call.read(BytesMessage)
        assert caught.value.code is Code.UNAVAILABLE
        await methods.cancelled.wait()
        with pytest.raises(GrpcError):
            client.call("/t.T/Echo")
        while server._connections or server._tasks:
            await asyncio.sleep(0)


async def test_a_deadline_of_the_client_ends_the_call() -> None:
    async with connected() as (methods, client, _server):
        with pytest.raises(GrpcError) as caught:
            await client.unary("/t.T/Hang", BytesMessage(), BytesMessage, metadata=[("grpc-timeout", "20m")])
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert methods.cancelled.is_set()


async def test_our_own_deadline_resets_the_call() -> None:
    async with connected() as (methods, client, _server):
        with pytest.raises(GrpcError) as caught:
            await client.unary("/t.T/Hang", BytesMessage(), BytesMessage, timeout_s=0.02)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        await methods.cancelled.wait()


# --- hostile clients -----------------------------------------------------------------------------


class RawClient:
    """h2 on the test's side, so that broken frames can be mixed in."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.h2 = h2.connection.H2Connection()
        self.h2.initiate_connection()

    async def flush(self, extra: bytes = b"") -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, self.h2.data_to_send() + extra)

    def begin(self, path: str = "/t.T/Echo", extra: list[tuple[str, str]] | None = None) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
            ("content-type", "application/grpc"), ("te", "trailers"), *(extra or [])])
        return stream_id

    async def until_closed(self) -> bytes:
        """Everything until the server closes."""
        seen = b""
        try:
            while data := await asyncio.get_running_loop().sock_recv(self.sock, 65536):
                seen += data
        except ConnectionResetError:
            pass
        return seen


async def closed_after(raw: bytes, *, begin: bool = False) -> None:
    async with served() as (_, sock, server):
        client = RawClient(sock)
        if begin:
            client.begin("/t.T/Hang")
        await client.flush(raw)
        await asyncio.wait_for(client.until_closed(), 10)
        while server._connections or server._tasks:
            await asyncio.sleep(0)


async def test_no_preface_closes() -> None:
    async with served() as (_, sock, server):
        await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 100)
        await asyncio.wait_for(RawClient(sock).until_closed(), 10)
        assert not server._tasks


@pytest.mark.parametrize("kind", range(10))
async def test_a_frame_larger_than_agreed_closes_before_its_body(kind: int) -> None:
    await closed_after((0xFFFFFF).to_bytes(3, "big") + bytes([kind, 0]) + (1).to_bytes(4, "big"), begin=True)


async def test_endless_headers_close() -> None:
    head = b"\0\0\x05\x01\0" + (1).to_bytes(4, "big") + b"\x00\x01a\x01b"
    more = b"\0\0\x05\x09\0" + (1).to_bytes(4, "big") + b"\x00\x01a\x01b"
    await closed_after(head + more * 5000)


async def test_a_header_bomb_closes() -> None:
    async with served() as (_, sock, server):
        client = RawClient(sock)
        client.begin(extra=[("x", "y" * 4000)])
        await client.flush()
        for _ in range(200):  # 200 references to one long entry of the table, a byte each
            client.begin(extra=[("x", "y" * 4000)] * 80)
        with suppress(BrokenPipeError, ConnectionResetError):
            await client.flush()
        await asyncio.wait_for(client.until_closed(), 10)
        while server._connections or server._tasks:
            await asyncio.sleep(0)


async def test_data_beyond_the_window_closes() -> None:
    async with served() as (_, sock, server):
        client = RawClient(sock)
        stream_id = client.begin("/t.T/Hang")
        await client.flush()
        body = grpc.frame(b"") * 3200  # one whole message after another: nobody reads them
        frame = len(body).to_bytes(3, "big") + b"\0\0" + stream_id.to_bytes(4, "big") + body
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(sock, frame), 10)
        while server._connections or server._tasks:
            await asyncio.sleep(0)


async def test_pings_whose_answers_nobody_reads_close() -> None:
    async with served() as (_, sock, server):
        client = RawClient(sock)
        await client.flush()
        ping = b"\0\0\x08\x06\0" + bytes(4) + b"12345678"
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(2000):
                await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(sock, ping * 4000), 10)
        while server._connections:
            await asyncio.sleep(0)


async def test_more_streams_than_allowed_close() -> None:
    async with served() as (_, sock, server):
        client = RawClient(sock)
        for _ in range(400):
            client.begin("/t.T/Hang")
        await client.flush()
        await asyncio.wait_for(client.until_closed(), 10)
        while server._connections or server._tasks:
            await asyncio.sleep(0)


async def test_no_grpc_is_answered_with_415() -> None:
    async with served() as (_, sock, _server):
        client = RawClient(sock)
        stream_id = client.h2.get_next_available_stream_id()
        client.h2.send_headers(stream_id, [
            (":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")], end_stream=True)
        await client.flush()
        status = None
        while status is None:
            for event in client.h2.receive_data(await asyncio.get_running_loop().sock_recv(sock, 65536)):
                if isinstance(event, h2.events.ResponseReceived):
                    status = dict(event.headers)[b":status"]
        assert status == b"415"
