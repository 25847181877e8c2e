"""The HTTP/1.1 server: connections, request bodies, replies, streams, hijack.

Owns   the listening sockets it is given and one ``_Connection`` a client.
Runs   on the event loop. One task a request; the server knows every one of them.
Needs  a handler ``Request -> Reply`` that turns its own errors into replies.

Reading goes on while a handler works, so that a client that hangs up is noticed. An end of file
cancels a stream or a request marked ``abandonable``; other handlers finish, and their reply reaches
a client that only half-closed. Requests in a pipeline wait in the parser's buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Final, cast

from pallet.errors import CancelledRequestError
from pallet.http import h1
from pallet.http.messages import Hijacked, Reply, Request, Response, StreamResponse
from pallet.http.relay import Relay
from pallet.http.tls import TlsLayer, TlsTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

BACKLOG: Final = 1024
_BODY_HIGH_BYTES: Final = 512 * 1024
_BODY_LOW_BYTES: Final = 128 * 1024
_READ_AHEAD_BYTES: Final = 64 * 1024
_WRITE_HIGH_BYTES: Final = 256 * 1024
_LINGER_S: Final = 0.5
_NO_CONTENT: Final = frozenset({204, 304})


class Server:
    """Serves one handler on any number of sockets."""

    def __init__(self, handler: Callable[[Request], Awaitable[Reply]]) -> None:
        """Make a server that calls ``handler`` once a request."""
        self.handler = handler
        self.date = h1.DateHeader()
        self.connections: set[_Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.relays: set[Relay] = set()
        self._listeners: list[asyncio.Server] = []

    async def listen(self, sock: socket.socket, *, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on a bound stream socket; the server closes it in ``close``."""
        loop = asyncio.get_running_loop()

        def plain() -> asyncio.Protocol:
            return _Connection(self)

        def encrypted() -> asyncio.Protocol:
            assert tls is not None
            return TlsLayer(tls, plain)

        factory = encrypted if tls else plain
        if sock.family == socket.AF_UNIX:
            listener = await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG)
        else:
            listener = await loop.create_server(factory, sock=sock, backlog=BACKLOG)
        self._listeners.append(listener)

    async def close(self, grace_s: float = 5.0) -> None:
        """Stop accepting, end the streams, let the other requests finish, drop the rest.

        Hijacked connections that were handed out are not the server's any more; relayed ones end.
        """
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.shut_down()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=grace_s)
        for task in list(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        for connection in list(self.connections):
            connection.abort()
        for relay in list(self.relays):
            relay.abort()
        self._listeners.clear()
        await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """One client. At most one request is in work; the next one waits in the parser."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._reader = h1.RequestReader()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._request: Request | None = None
        self._body: deque[bytes] = deque()
        self._body_bytes = 0
        self._body_ended = True
        self._body_error: str | None = None
        self._body_waiter: asyncio.Future[None] | None = None
        self._continue_due = False
        self._drain_waiter: asyncio.Future[None] | None = None
        self._writing_paused = False
        self._reading_paused = False
        self._input_ended = False
        self._streaming = False
        self._closing = False
        self._last_request = False
        self._ahead_bytes = 0

    # --- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_WRITE_HIGH_BYTES)
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return  # lingering: the reply is out, the rest of the body is not wanted
        self._reader.feed(data)
        if self._request is not None and self._body_ended:
            self._ahead_bytes += len(data)
            if self._ahead_bytes > _READ_AHEAD_BYTES:
                self._pause_reading()
            return
        self._advance()

    def eof_received(self) -> bool:
        self._input_ended = True
        if self._closing:
            return False
        self._reader.feed_eof()
        if self._request is None:
            self._advance()
            return self._request is not None
        if not self._body_ended:
            self._advance()
        self._abandon()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._server.connections.discard(self)
        if not self._body_ended:
            self._fail_body("connection lost")
        if self._drain_waiter and not self._drain_waiter.done():
            self._drain_waiter.set_exception(CancelledRequestError("connection lost"))
        self._abandon()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._drain_waiter and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)

    # --- from the server

    def shut_down(self) -> None:
        """Close when idle; end a stream; let another request finish and close then."""
        self._last_request = True
        if self._request is None:
            self.abort()
        elif self._streaming and self._task:
            self._task.cancel()

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport:
            self._transport.abort()

    # --- parsing

    def _advance(self) -> None:
        """Take what the parser has: start a request, or add to the body of the present one."""
        try:
            while True:
                event = self._reader.next_event()
                if isinstance(event, h1.RequestHead):
                    self._begin(event)
                elif isinstance(event, bytes):
                    self._body.append(event)
                    self._body_bytes += len(event)
                elif isinstance(event, h1.EndOfRequest):
                    self._body_ended = True
                    self._ahead_bytes = len(self._reader.trailing)
                    break
                elif isinstance(event, h1.NeedData):
                    break
                else:
                    self._close_transport()
                    return
        except h1.BadRequestError as error:
            self._refuse(error)
            return
        if self._body_bytes > _BODY_HIGH_BYTES:
            self._pause_reading()
        self._wake_body()

    def _begin(self, head: h1.RequestHead) -> None:
        self._body_ended = False
        self._body_error = None
        self._continue_due = head.expects_continue
        request = Request(head, self)
        self._request = request
        task = asyncio.get_running_loop().create_task(self._serve(request))
        self._task = task
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def _refuse(self, error: h1.BadRequestError) -> None:
        if self._request is not None:
            self._fail_body(str(error))
            return
        if self._transport is None:
            return
        text = f"{error.status} Bad Request: {error}".encode()
        headers = (("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close"),
                   ("Content-Length", str(len(text))))
        self._transport.write(h1.head_bytes(error.status, b"", headers) + text)
        self._linger()

    # --- request bodies

    async def read_body(self) -> bytes:
        """Return the next piece of the body, b"" at its end."""
        while not self._body:
            if self._body_error is not None:
                raise CancelledRequestError(self._body_error)
            if self._body_ended:
                return b""
            if self._continue_due:
                self._continue_due = False
                self._write(h1.CONTINUE)
            self._body_waiter = asyncio.get_running_loop().create_future()
            await self._body_waiter
        data = self._body.popleft()
        self._body_bytes -= len(data)
        if self._reading_paused and self._body_bytes < _BODY_LOW_BYTES:
            self._resume_reading()
        return data

    def _wake_body(self) -> None:
        waiter = self._body_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail_body(self, reason: str) -> None:
        self._body_error = reason
        self._wake_body()

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport and not self._input_ended:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and self._transport and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    # --- replies

    async def _serve(self, request: Request) -> None:
        reply: Reply | None = None
        try:
            reply = await self._server.handler(request)
            if isinstance(reply, Response):
                self._send(request, reply)
            elif isinstance(reply, StreamResponse):
                await self._send_stream(request, reply)
            else:
                return
        except CancelledRequestError:
            self.abort()
        except asyncio.CancelledError:
            # The client went away or the server closes: nobody reads the rest of this reply.
            self.abort()
        except Exception:
            logger.exception("request handler failed: %s %s", request.method, request.path)
            self.abort()
        finally:
            if isinstance(reply, StreamResponse) and reply.close is not None:
                with contextlib.suppress(Exception):
                    await reply.close()
            self._task = None
        if not isinstance(reply, Hijacked):
            self._finish(request)

    def _send(self, request: Request, reply: Response) -> None:
        if self._transport is None:
            return
        status = reply.status
        body = reply.body
        self._last_request = self._last_request or reply.close
        extra: list[tuple[str, str]] = [*reply.headers]
        if reply.content_type:
            extra.append(("Content-Type", reply.content_type))
        if status in _NO_CONTENT:
            body = b""
        else:
            extra.append(("Content-Length", str(len(body))))
        self._add_connection(request, extra)
        head = h1.head_bytes(status, reply.prelude + self._server.date(), extra)
        self._transport.write(head if request.method == "HEAD" else head + body)

    async def _send_stream(self, request: Request, reply: StreamResponse) -> None:
        self._streaming = True
        extra: list[tuple[str, str]] = [*reply.headers]
        if reply.content_type:
            extra.append(("Content-Type", reply.content_type))
        chunked = not request.head.http_1_0
        if chunked:
            extra.append(("Transfer-Encoding", "chunked"))
        self._add_connection(request, extra)
        self._write(h1.head_bytes(reply.status, reply.prelude + self._server.date(), extra))
        if request.method == "HEAD":
            return
        if self._input_ended:
            raise asyncio.CancelledError
        async for data in reply.chunks:
            if not data:
                continue
            if reply.single:
                self._write(h1.chunk(data) + h1.LAST_CHUNK if chunked else data)
                return
            self._write(h1.chunk(data) if chunked else data)
            if self._writing_paused:
                await self._drain()
        if chunked:
            self._write(h1.LAST_CHUNK)

    def _add_connection(self, request: Request, headers: list[tuple[str, str]]) -> None:
        if not self._reusable(request):
            headers.append(("Connection", "close"))

    def _reusable(self, request: Request) -> bool:
        return (
            request.head.keep_alive and self._body_ended
            and not self._closing and not self._last_request
        )

    def _write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            msg = "connection lost"
            raise CancelledRequestError(msg)
        self._transport.write(data)

    async def _drain(self) -> None:
        while self._writing_paused:
            if self._transport is None:
                msg = "connection lost"
                raise CancelledRequestError(msg)
            self._drain_waiter = asyncio.get_running_loop().create_future()
            await self._drain_waiter

    def _finish(self, request: Request) -> None:
        """Go on to the next request of this connection, or close it."""
        reusable = self._reusable(request)
        self._request = None
        self._streaming = False
        self._body.clear()
        self._body_bytes = 0
        if self._transport is None:
            return
        if not reusable:
            if self._body_ended:
                self._close_transport()
            else:
                self._linger()
            return
        self._body_ended = True
        self._resume_reading()
        if self._reader.restart() or self._input_ended:
            self._advance()

    def _linger(self) -> None:
        """Close after a reply that the client may not have read while it still sends its body.

        Closing at once would reset the connection and destroy the reply on its way.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._closing = True
        self._resume_reading()
        if transport.can_write_eof():
            transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER_S, transport.close)

    def _close_transport(self) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.close()

    def _abandon(self) -> None:
        if self._task and self._request and (self._streaming or self._request.abandonable):
            self._task.cancel()

    # --- hijack

    async def hijack(self, head: bytes) -> socket.socket:
        """Send ``head``, give the connection up and return a socket for it."""
        transport = self._transport
        if transport is None or transport.is_closing():
            msg = "connection lost"
            raise CancelledRequestError(msg)
        self._pause_reading()
        transport.set_write_buffer_limits(0)
        transport.write(head)
        if transport.get_write_buffer_size():
            self._writing_paused = True
            await self._drain()
        read_ahead = self._reader.trailing
        if not read_ahead and not isinstance(transport, TlsTransport):
            return self._detach(transport)
        relay = Relay(self._server.relays.discard)
        self._server.relays.add(relay)
        self._server.connections.discard(self)
        self._transport = None
        return await relay.start(transport, read_ahead, input_ended=self._input_ended)

    def _detach(self, transport: asyncio.Transport) -> socket.socket:
        """Return the connection itself as a socket; asyncio closes only its own descriptor."""
        inner = transport.get_extra_info("socket")
        sock = socket.socket(fileno=os.dup(inner.fileno()))
        os.set_inheritable(sock.fileno(), False)
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._transport = None
        self._server.connections.discard(self)
        transport.abort()
        return sock
