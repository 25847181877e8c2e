"""gRPC on an HTTP/2 connection: messages, metadata, status, both roles.

Owns   ``Server`` (``/grpc``: clients call the daemon) and ``Client`` (``/session``: the daemon calls
       the client's services), and ``Inbox``, the queue of whole messages that both read from.
Runs   on the event loop; one task a call on the server's side.
Spec   gRPC over HTTP2 ("PROTOCOL-HTTP2.md"); gRPC status codes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, unquote_to_bytes

from google.protobuf.message import DecodeError, Message

from pallet.api.buildkit.http2 import Connection, Headers, Stream, StreamResetError
from pallet.api.buildkit.status import Code, GrpcError, of_exception
from pallet.api.buildkit.wire import status_pb2

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from google.protobuf.any_pb2 import Any as AnyMessage

    Handler = Callable[["ServerCall"], Awaitable[None]]

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
_INBOX_HIGH_BYTES: Final = 1024 * 1024
_prefix = struct.Struct(">BL")
_RESERVED: Final = frozenset({"te", "content-type", "user-agent", "grpc-timeout", "grpc-encoding",
                              "grpc-accept-encoding", "grpc-status", "grpc-message"})

_MESSAGE_SAFE: Final = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"

Metadata = dict[str, list[str]]


def frame(message: bytes) -> bytes:
    """Put the length before a message."""
    return _prefix.pack(0, len(message)) + message


class Inbox:
    """The messages that have arrived on one stream; a reader that lags holds the peer back."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._partial = bytearray()
        self._messages: deque[bytes] = deque()
        self._held = 0
        self._debt = 0
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        stream.on_data = self.take

    def take(self, data: bytes) -> None:
        """Bytes came."""
        if self._error is not None:
            return
        partial = self._partial
        partial += data
        at, end = 0, len(partial)
        while end - at >= 5:
            compressed, length = _prefix.unpack_from(partial, at)
            if compressed or length > MAX_MESSAGE_BYTES:
                self._refuse(compressed, length)
                return
            stop = at + 5 + length
            if stop > end:
                break
            self._messages.append(bytes(partial[at + 5:stop]))
            at = stop
        if at:
            del partial[:at]
            self._wake()
        # Whole messages wait for their reader; a part of one must be able to go on.
        self._held += at
        self._debt += len(data)
        self._give_credit()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes: the stream ended, or failed with ``error``."""
        if self._partial and error is None:
            error = GrpcError(Code.INTERNAL, "the stream ends in the middle of a message")
        self._ended = True
        self._error = self._error or error
        self._wake()

    async def get(self) -> bytes | None:
        """Return the next message; None at the end.

        Raises:
            GrpcError, StreamResetError: the stream failed. Messages before that are still returned.
        """
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._messages.popleft()
        self._release(len(message) + 5)
        return message

    def get_ready(self) -> list[bytes]:
        """Return all messages that are here now, without waiting."""
        ready = list(self._messages)
        self._messages.clear()
        self._release(sum(map(len, ready)) + 5 * len(ready))
        return ready

    def _release(self, size: int) -> None:
        self._held -= size
        self._give_credit()

    def _give_credit(self) -> None:
        if self._debt and self._held <= _INBOX_HIGH_BYTES:
            self._stream.credit(self._debt)
            self._debt = 0

    def _refuse(self, compressed: int, length: int) -> None:
        if compressed:
            error = GrpcError(Code.UNIMPLEMENTED, "grpc: Decompressor is not installed for grpc-encoding")
        else:
            error = GrpcError(Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max "
                                                       f"({length} vs. {MAX_MESSAGE_BYTES})")
        self._partial.clear()
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


# --- the server's side ---------------------------------------------------------------------------


class ServerCall:
    """One call that a client made."""

    def __init__(self, stream: Stream, method: str, metadata: Metadata, timeout_s: float | None) -> None:
        self.method = method
        self.metadata = metadata
        self.timeout_s = timeout_s
        self.inbox = Inbox(stream)
        self._stream = stream
        self._started = False

    def first(self, key: str) -> str:
        """First value of a metadata key, or ""."""
        values = self.metadata.get(key)
        return values[0] if values else ""

    async def read(self, kind: type[M]) -> M | None:
        """Return the next message of the client; None at its end."""
        data = await self.inbox.get()
        return None if data is None else decode(kind, data)

    def start(self, metadata: Sequence[tuple[str, str]] = ()) -> None:
        """Send the initial metadata, once."""
        if not self._started:
            self._started = True
            self._stream.send_headers([(":status", "200"), ("content-type", "application/grpc"), *metadata])

    async def send(self, message: Message) -> None:
        """Send one message."""
        self.start()
        await self._stream.send(frame(message.SerializeToString()))

    def finish(self, error: GrpcError | None) -> None:
        """Send the status and end the stream."""
        trailers: Headers = []
        if not self._started:
            self._started = True
            trailers = [(":status", "200"), ("content-type", "application/grpc")]
        trailers += status_trailers(error)
        with contextlib.suppress(StreamResetError):
            self._stream.send_headers(trailers, end=True)


def unary(kind: type[M], answer: Callable[[ServerCall, M], Awaitable[Message]]) -> Handler:
    """Make a handler of one request and one reply."""

    async def handle(call: ServerCall) -> None:
        await call.send(await answer(call, await _request(call, kind)))

    return handle


def streaming(kind: type[M], answer: Callable[[ServerCall, M], Awaitable[None]]) -> Handler:
    """Make a handler of one request that sends its replies itself."""

    async def handle(call: ServerCall) -> None:
        await answer(call, await _request(call, kind))

    return handle


async def _request(call: ServerCall, kind: type[M]) -> M:
    request = await call.read(kind)
    if request is None:
        raise GrpcError(Code.INTERNAL, "the call has no request")
    return request


class Server:
    """Serves a table of methods on any number of connections."""

    def __init__(self, methods: Mapping[str, Handler]) -> None:
        self._methods = methods
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, sock: socket.socket) -> Connection:
        """Begin to serve one connection, which belongs to the server from now on."""
        connection = await Connection.on_socket(sock, self._accept)
        self._connections.add(connection)
        connection.closed.add_done_callback(lambda _: self._connections.discard(connection))
        return connection

    async def close(self) -> None:
        """End all connections and calls."""
        for connection in list(self._connections):
            connection.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _accept(self, stream: Stream, headers: Headers) -> None:
        fields = dict(headers)
        if not fields.get("content-type", "").startswith("application/grpc") or fields.get(":method") != "POST":
            stream.send_headers([(":status", "415")], end=True)
            stream.cancel()
            return
        call = ServerCall(stream, fields.get(":path", ""), metadata_of(headers),
                          parse_timeout(fields.get("grpc-timeout", "")))
        stream.on_end = call.inbox.end
        task = asyncio.get_running_loop().create_task(self._run(call, stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def on_reset(error: StreamResetError) -> None:
            call.inbox.end(error)
            task.cancel()

        stream.on_reset = on_reset

    async def _run(self, call: ServerCall, stream: Stream) -> None:
        error: GrpcError | None = None
        try:
            method = self._methods.get(call.method)
            if method is None:
                service, _, name = call.method.strip("/").rpartition("/")
                raise GrpcError(Code.UNIMPLEMENTED, f"unknown method {name} for service {service}")
            async with asyncio.timeout(call.timeout_s):
                await method(call)
        except TimeoutError:
            error = GrpcError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
        except StreamResetError:
            return
        except asyncio.CancelledError:
            if stream.reset is not None:
                return
            error = GrpcError(Code.CANCELLED, "context canceled")
        except Exception as problem:  # noqa: BLE001 - the one place where errors become statuses
            error = of_exception(problem)
        finally:
            if stream.reset is None:
                call.finish(error)
            if not stream.ended_there and stream.reset is None:
                stream.cancel(0)  # NO_ERROR: the rest of the request is not wanted
            stream.cancel()


# --- the client's side ---------------------------------------------------------------------------


class ClientCall:
    """One call to a peer's service. Use it in ``async with``: leaving cancels what has not ended."""

    def __init__(self, stream: Stream) -> None:
        self.inbox = Inbox(stream)
        self._stream = stream
        self._status: GrpcError | None = None
        self._got_status = False
        stream.on_headers = self._take_headers
        stream.on_end = self._take_end
        stream.on_reset = self._take_reset

    async def __aenter__(self) -> ClientCall:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel the call unless it has ended."""
        self._stream.cancel()

    async def send(self, *messages: Message) -> None:
        """Send messages, in one piece where windows allow."""
        await self._stream.send(b"".join(frame(message.SerializeToString()) for message in messages))

    def end(self) -> None:
        """Say that nothing more is sent."""
        self._stream.end()

    async def read(self, kind: type[M]) -> M | None:
        """Return the next message; None at the end of a call that went well.

        Raises:
            GrpcError: what the peer said instead, or UNAVAILABLE when it is gone.
        """
        data = await self.inbox.get()
        return None if data is None else decode(kind, data)

    def _take_headers(self, headers: Headers) -> None:
        fields = dict(headers)
        if "grpc-status" in fields:
            self._got_status = True
            self._status = status_of_trailers(fields)
        elif (status := fields.get(":status", "200")) != "200":
            self._got_status = True
            self._status = GrpcError(Code.UNAVAILABLE, f"unexpected HTTP status code {status}")

    def _take_end(self) -> None:
        if not self._got_status:
            self._status = GrpcError(Code.INTERNAL, "the call ended without a status")
        self.inbox.end(self._status)

    def _take_reset(self, error: StreamResetError) -> None:
        self.inbox.end(GrpcError(Code.UNAVAILABLE, str(error)) if not self._got_status else self._status)


class Client:
    """Calls services on a connection whose other end serves."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @classmethod
    async def on_socket(cls, sock: socket.socket) -> Client:
        """Become the HTTP/2 client of ``sock``, which belongs to the client from now on."""
        return cls(await Connection.on_socket(sock, None))

    def call(self, method: str, metadata: Iterable[tuple[str, str]] = ()) -> ClientCall:
        """Begin a call.

        Raises:
            GrpcError: UNAVAILABLE, the connection is gone.
        """
        try:
            stream = self.connection.open_stream()
            call = ClientCall(stream)
            stream.send_headers([
                (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "localhost"),
                ("content-type", "application/grpc"), ("te", "trailers"), *metadata])
        except StreamResetError as error:
            raise GrpcError(Code.UNAVAILABLE, str(error)) from error
        return call

    async def unary(self, method: str, request: Message, kind: type[M], *, timeout_s: float | None = None,
                    metadata: Iterable[tuple[str, str]] = ()) -> M:
        """Make a call of one request and one reply.

        Raises:
            GrpcError: the peer's status; DEADLINE_EXCEEDED after ``timeout_s``.
        """
        try:
            async with asyncio.timeout(timeout_s), self.call(method, metadata) as call:
                await call.send(request)
                call.end()
                reply = await call.read(kind)
                if reply is None:
                    raise GrpcError(Code.INTERNAL, "the call has no reply")
                await call.inbox.get()
                return reply
        except TimeoutError:
            raise GrpcError(Code.DEADLINE_EXCEEDED, f"{method}: no answer in {timeout_s} s") from None
        except StreamResetError as error:
            raise GrpcError(Code.UNAVAILABLE, str(error)) from error


# --- wire forms ----------------------------------------------------------------------------------


def decode(kind: type[M], data: bytes) -> M:
    """Decode a message.

    Raises:
        GrpcError: INTERNAL, as gRPC servers answer bytes that are no such message.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise GrpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error


def metadata_of(headers: Headers) -> Metadata:
    """Return the application's metadata; keys ending in ``-bin`` stay as they travel."""
    found: Metadata = {}
    for name, value in headers:
        if not name.startswith(":") and name not in _RESERVED:
            found.setdefault(name, []).append(value)
    return found


def parse_timeout(text: str) -> float | None:
    """Read ``grpc-timeout``: digits and a unit; None without one."""
    units = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
    if not text or text[-1] not in units or not text[:-1].isdigit():
        return None
    return int(text[:-1]) * units[text[-1]]


def status_trailers(error: GrpcError | None) -> Headers:
    """The trailers that tell how a call went."""
    if error is None:
        return [("grpc-status", "0")]
    trailers = [("grpc-status", str(int(error.code))),
                ("grpc-message", quote(error.message.encode("utf-8", "replace"), safe=_MESSAGE_SAFE))]
    if error.details:
        status = status_pb2.Status(code=int(error.code), message=error.message, details=error.details)
        encoded = base64.b64encode(status.SerializeToString()).rstrip(b"=")
        trailers.append(("grpc-status-details-bin", encoded.decode()))
    return trailers


def status_of_trailers(fields: Mapping[str, str]) -> GrpcError | None:
    """Read the trailers of a call; None where it went well."""
    text = fields["grpc-status"]
    code = Code.UNKNOWN
    with contextlib.suppress(ValueError):
        code = Code(int(text))
    if code is Code.OK:
        return None
    message = unquote_to_bytes(fields.get("grpc-message", "")).decode("utf-8", "replace")
    details: Sequence[AnyMessage] = ()
    if encoded := fields.get("grpc-status-details-bin"):
        with contextlib.suppress(ValueError, DecodeError):
            details = status_pb2.Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4))).details
    return GrpcError(code, message, details)
