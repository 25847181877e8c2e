"""One client's connection: requests in, replies out.

Owns   the socket's life and the state of the request in work.
Runs   on the loop, which alone opens, closes and polls sockets. A request with a large body, and a
       reply that is made while it is sent, lend the socket to a thread (AWAY); the loop does not
       touch it until the thread hands it back.
Needs  a ``Loop`` and the ``Service`` of the listener.
Spec   RFC 9112 (persistence, framing), 9.6 (closing without destroying the reply).

States:

    HANDSHAKE -> READING <-> BODY            a head, then a small body, are collected
                 READING -> WORKING          a thread of the pool makes the reply
                 READING -> AWAY             a thread has the socket: large body, or streamed reply
    WORKING, AWAY, READING -> WRITING        the reply goes out; from here to READING, or
                              WRITING -> LINGERING -> CLOSED
"""

from __future__ import annotations

import enum
import logging
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final

from pallet.http import strict
from pallet.http.h1 import CONTINUE, BadRequestError, DateHeader
from pallet.registry.serving.bodies import (
    LEAST_BYTES_PER_S,
    RECEIVE_BYTES,
    BrokenRequestError,
    MemoryBody,
    SocketBody,
)
from pallet.registry.serving.replies import plain

if TYPE_CHECKING:
    from pallet.registry.messages import RequestBody
    from pallet.registry.serving.loop import Loop, Service
    from pallet.registry.serving.replies import Reply

logger = logging.getLogger(__name__)

SMALL_BODY_BYTES: Final = 64 << 10
"""A body up to this is collected by the loop; no thread waits for it."""
_DRAIN_BYTES: Final = 1 << 20
"""Of a refused request's body that is read to keep the connection."""
_JOIN_BYTES: Final = 64 << 10
_TURN_BYTES: Final = 4 << 20
_WINDOW_BYTES: Final = 1 << 20
_TLS_BYTES: Final = 256 << 10
_LINGER_S: Final = 2.0
_NEVER: Final = float("inf")
_date = DateHeader()


class State(enum.Enum):
    """See the module."""

    HANDSHAKE = enum.auto()
    READING = enum.auto()
    BODY = enum.auto()
    WORKING = enum.auto()
    AWAY = enum.auto()
    WRITING = enum.auto()
    LINGERING = enum.auto()
    CLOSED = enum.auto()


_HANDSHAKE, _READING, _BODY = State.HANDSHAKE, State.READING, State.BODY
_WORKING, _AWAY, _WRITING = State.WORKING, State.AWAY, State.WRITING
_LINGERING, _CLOSED = State.LINGERING, State.CLOSED


class Connection:
    """One client."""

    __slots__ = ("_buffer", "_file", "_from", "_head", "_head_begun", "_left", "_loop", "_pending",
                 "_received", "_reply", "_since", "_tls", "deadline", "last", "mask", "peer", "request_id",
                 "service", "sock", "state")

    def __init__(self, loop: Loop, service: Service, sock: socket.socket, peer: str) -> None:
        self._loop = loop
        self.service = service
        self.sock = sock
        self.peer = peer
        self._tls = isinstance(sock, ssl.SSLSocket)
        self.state = _HANDSHAKE if self._tls else _READING
        self.mask = 0
        """What the loop polls the socket for; its own."""
        self.deadline = time.monotonic() + (loop.settings.head_s if self._tls else loop.settings.idle_s)
        self.last = False
        """Whether the connection ends with the request in work."""
        self._buffer = b""
        self._head: strict.StrictHead | None = None
        self._head_begun = False
        self._reply: Reply | None = None
        self._pending: list[memoryview] = []
        self._file: int = -1
        self._from = self._left = 0
        self._since = 0.0
        self._received = 0
        self.request_id = ""

    @property
    def idle(self) -> bool:
        """Whether nothing of a request has come yet."""
        return self.state is _READING and not self._buffer

    # --- events

    def ready(self) -> None:
        """The socket can be read or, when that was waited for, written."""
        state = self.state
        if state is _READING or state is _BODY:
            self._receive()
        elif state is _WRITING:
            self._write()
            self.advance()
        elif state is _WORKING:
            self._loop.mute(self)  # pipelined, or hung up: looked at after the reply
        elif state is _HANDSHAKE:
            self._shake_hands()
        elif state is _LINGERING:
            self._discard()

    def _shake_hands(self) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLWantWriteError:
            self._loop.want_write(self)
            return
        except (ssl.SSLError, OSError) as error:
            if getattr(error, "reason", "") == "HTTP_REQUEST":
                with _quiet():
                    os.write(self.sock.fileno(), b"HTTP/1.0 400 Bad Request\r\n\r\n"
                             b"Client sent an HTTP request to an HTTPS server.\n")
            logger.debug("TLS handshake with %s: %s", self.peer, error)
            self._end()
            return
        self.state = _READING
        self.deadline = time.monotonic() + self._loop.settings.idle_s
        self._loop.want_read(self)
        self._receive()

    def _receive(self) -> None:
        try:
            data = self.sock.recv(RECEIVE_BYTES if self.state is _BODY else strict.MAX_HEAD_BYTES)
            while self._tls and (more := self._decrypted()):
                data += more
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except ssl.SSLWantWriteError:
            self._loop.want_write(self)
            return
        except OSError:
            self.close()
            return
        if not data:
            self.close()
            return
        self._buffer = self._buffer + data if self._buffer else data
        self.advance()

    def _decrypted(self) -> bytes:
        """What the TLS layer holds already: the poll knows nothing of it."""
        assert isinstance(self.sock, ssl.SSLSocket)
        waiting = self.sock.pending()
        return self.sock.recv(waiting) if waiting else b""

    def advance(self) -> None:
        """Begin what the bytes at hand allow."""
        while self._buffer and self.state is _READING:
            if not self._head_begun:
                self._head_begun = True
                self._since = time.monotonic()
                self.deadline = self._since + self._loop.settings.head_s
            try:
                head = strict.parse(self._buffer)
            except BadRequestError as error:
                self._refuse(error.status, str(error))
                return
            if head is None:
                return
            self._buffer = self._buffer[head.size:]
            self._begin(head)
        if self.state is _BODY:
            self._collect()

    def _refuse(self, status: int, text: str) -> None:
        self._head = None
        self._buffer = b""
        self.last = True
        self.request_id = self._loop.request_id("")
        self.answer(plain(status, text))

    def expire(self) -> None:
        """The deadline is over."""
        if self.state is _READING and self._head_begun and self._buffer:
            self._refuse(408, "the request took too long to come")
        else:
            if self._reply is not None:
                self._done(499, 0)
            self.close()

    # --- a request

    def _begin(self, head: strict.StrictHead) -> None:
        self._head = head
        self._head_begun = False
        self._received = 0
        self._since = time.monotonic()
        if not head.keep_alive:
            self.last = True
        self.request_id = self._loop.request_id(head.headers.get("x-request-id", ""))
        if head.chunked or head.length > SMALL_BODY_BYTES:
            self._lend_for_body(head)
        elif head.length:
            self.state = _BODY
            self.deadline = self._since + self._loop.settings.stall_s
            if head.expects_continue and not self._buffer:
                with _quiet():
                    self.sock.send(CONTINUE)
            self._collect()
        else:
            reply = self.service.quick(head, self.peer)
            if reply is not None:
                self.answer(reply)
            else:
                self._work(MemoryBody())

    def _collect(self) -> None:
        head = self._head
        assert head is not None
        if len(self._buffer) >= head.length:
            body, self._buffer = self._buffer[:head.length], self._buffer[head.length:]
            self._received = len(body)
            self._work(MemoryBody(body))

    def _work(self, body: RequestBody) -> None:
        """Let a thread make the reply."""
        head = self._head
        assert head is not None
        self.state = _WORKING
        self.deadline = _NEVER
        version = self.service.version()
        service, peer, request_id = self.service, self.peer, self.request_id

        def work() -> None:
            reply = service.respond(head, body, peer, request_id)
            reply.version = version
            self._loop.post(lambda: self._worked(reply), self)

        # What waits for another request of the same upload must not keep others waiting.
        waits = service.waits(head)

        def work_logged_in() -> None:
            try:
                service.log_in(head, peer)
            except Exception:
                logger.exception("a password could not be checked beforehand")
            if waits:
                self._loop.run_in_thread(work, may_wait=True)
            else:
                work()

        if service.logs_in(head):
            self._loop.run_in_thread(work_logged_in, may_wait=False, logs_in=True)
        else:
            self._loop.run_in_thread(work, may_wait=waits)

    def _worked(self, reply: Reply) -> None:
        if self.state is not _WORKING:
            return  # closed meanwhile
        if self._head is not None:
            self.service.keep(self._head, reply)
        self._loop.want_read(self)
        self.answer(reply)
        self.advance()

    def _lend_for_body(self, head: strict.StrictHead) -> None:
        """Let a thread read the body from the socket and make the reply."""
        ahead, self._buffer = self._buffer, b""
        self._lend()
        service, peer, request_id, sock = self.service, self.peer, self.request_id, self.sock

        def work() -> None:
            reply, rest, received, reusable = None, b"", 0, False
            try:
                sock.settimeout(self._loop.settings.stall_s)
                body = SocketBody(sock, ahead, None if head.chunked else head.length,
                                  expects_continue=head.expects_continue)
                self._loop.metrics.add("uploads_in_progress")
                try:
                    reply = service.respond(head, body, peer, request_id)
                    reusable = body.drain(_DRAIN_BYTES)
                    rest = body.rest if reusable else b""
                finally:
                    received = body.received
                    self._loop.metrics.add("uploads_in_progress", -1)
            except (BrokenRequestError, OSError) as error:
                logger.debug("%s %s: %s", head.method, head.target, error)
            self._loop.post(lambda: self._body_done(reply, rest, received, reusable=reusable), self)

        self._loop.run_in_thread(work, may_wait=True)

    def _body_done(self, reply: Reply | None, rest: bytes, received: int, *, reusable: bool) -> None:
        self._received = received
        self._return()
        if reply is None:
            self._done(499, 0)
            self.close()
            return
        self._buffer = rest + self._decrypted() if self._tls and reusable else rest
        if not reusable:
            self.last = True
        self.answer(reply)
        self.advance()

    def _lend(self) -> None:
        self.state = _AWAY
        self.deadline = _NEVER
        self._loop.lend(self)

    def _return(self) -> None:
        self.state = _READING
        self.sock.settimeout(0)
        self._loop.take_back(self)

    # --- a reply

    def answer(self, reply: Reply) -> None:
        """Send ``reply``."""
        head = self._head
        self.last = self.last or reply.close or self._loop.stopping
        parts = [reply.head, _date(), b"X-Request-Id: ", self.request_id.encode("ascii"), b"\r\n"]
        if self.last:
            parts.append(b"Connection: close\r\n")
        parts.append(b"\r\n")
        self._reply = reply
        self._file = -1
        bodiless = (head is not None and head.method == "HEAD") or reply.status in {204, 304}
        if reply.stream is not None:
            self._lend_for_stream(reply, b"".join(parts), bodiless=bodiless)
            return
        body = b"" if bodiless else reply.body
        if len(body) > _JOIN_BYTES:
            self._pending = [memoryview(b"".join(parts)), memoryview(body)]
        else:
            parts.append(body)
            self._pending = [memoryview(b"".join(parts))]
        if reply.file is not None and not bodiless:
            self._file, self._from, self._left = reply.file.fd, reply.offset, reply.length
        self.state = _WRITING
        self._write()

    def _write(self) -> None:
        """Send what can be sent without waiting."""
        try:
            while self._pending:
                piece = self._pending[0]
                more = socket.MSG_MORE if self._file >= 0 and not self._tls else 0
                sent = self.sock.send(piece, more) if more else self.sock.send(piece)
                self._pending[0] = piece[sent:]
                if sent == len(piece):
                    del self._pending[0]
            if self._file >= 0 and not self._write_file():
                return
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            now = time.monotonic()
            self.deadline = now + self._loop.settings.stall_s
            if self._is_slow(now):
                self.deadline = now  # the next tick ends it
            self._loop.want_write(self)
            return
        except OSError:
            self._done(499, 0)
            self.close()
            return
        reply = self._reply
        assert reply is not None
        bodiless = (self._head is not None and self._head.method == "HEAD") or reply.status in {204, 304}
        self._done(reply.status, 0 if bodiless else reply.length)
        self._next()

    def _is_slow(self, now: float) -> bool:
        """Whether the client takes its reply so slowly that it only holds the connection."""
        elapsed = now - self._since
        reply = self._reply
        if reply is None or elapsed <= self._loop.settings.stall_s:
            return False
        outstanding = sum(map(len, self._pending)) + (self._left if self._file >= 0 else 0)
        return (reply.length - outstanding) / elapsed < LEAST_BYTES_PER_S

    def _write_file(self) -> bool:
        """Send of the file; False when it goes on later."""
        budget = _TURN_BYTES
        while self._left:
            if not budget:
                self.deadline = time.monotonic() + self._loop.settings.stall_s
                self._loop.want_write(self)
                return False
            window = min(self._left, _TLS_BYTES if self._tls else _WINDOW_BYTES)
            if not self._loop.is_cached(self._file, self._from, window):
                self._warm(window)
                return False
            if self._tls:
                data = os.pread(self._file, window, self._from)
                sent = len(data)
                self._pending = [memoryview(data)]
            else:
                sent = os.sendfile(self.sock.fileno(), self._file, self._from, window)
            if not sent:
                message = "the file is shorter than it was"
                raise ConnectionAbortedError(message)
            self._from += sent
            self._left -= sent
            budget = 0 if sent < window else max(budget - sent, 0)  # less than asked for: there is no more room
            while self._pending:
                done = self.sock.send(self._pending[0])
                self._pending = [self._pending[0][done:]] if done < len(self._pending[0]) else []
        return True

    def _warm(self, window: int) -> None:
        """Let a thread wait for the disk."""
        reply, offset = self._reply, self._from
        assert reply is not None
        file = reply.file
        assert file is not None
        self.state = _WORKING
        self.deadline = _NEVER

        def work() -> None:
            with _quiet():
                os.posix_fadvise(file.fd, offset, 2 * window, os.POSIX_FADV_WILLNEED)
                os.pread(file.fd, window, offset)
            self._loop.post(self._warmed, self)

        self._loop.run_in_thread(work, may_wait=False)

    def _warmed(self) -> None:
        if self.state is _WORKING:
            self.state = _WRITING
            self._loop.want_write(self)
            self._loop.assume_cached(self._file, self._from)
            self._write()
            self.advance()

    def _lend_for_stream(self, reply: Reply, head: bytes, *, bodiless: bool) -> None:
        """Let a thread send a body that is made while it is sent."""
        stream = reply.stream
        assert stream is not None
        self._lend()
        sock = self.sock

        def work() -> None:
            sent = 0
            try:
                sock.settimeout(self._loop.settings.stall_s)
                sock.sendall(head)
                if not bodiless:
                    for chunk in stream.chunks:
                        for start in range(0, len(chunk), _JOIN_BYTES):  # each has the time-out to itself
                            sock.sendall(memoryview(chunk)[start:start + _JOIN_BYTES])
                        sent += len(chunk)
            except Exception as error:  # noqa: BLE001 - of whatever makes the body
                logger.warning("a reply to %s broke off: %s", self.peer, error)
                sent = -1
            finally:
                with _quiet():
                    stream.close()
            self._loop.post(lambda: self._streamed(sent, 0 if bodiless else stream.length), self)

        self._loop.run_in_thread(work, may_wait=True)

    def _streamed(self, sent: int, length: int) -> None:
        self._return()
        assert self._reply is not None
        self._done(self._reply.status if sent == length else 499, max(sent, 0))
        if sent != length:
            self.close()
            return
        self._next()
        self.advance()

    def _done(self, status: int, sent: int) -> None:
        """Count and log the request."""
        self._loop.served(self, self._head, status, sent, self._received,
                          time.monotonic() - self._since)

    def _next(self) -> None:
        """Wait for the next request, or end."""
        self._head = self._reply = None
        self._file = -1
        if self.last:
            self._end()
            return
        self.state = _READING
        self._head_begun = False
        self.deadline = time.monotonic() + self._loop.settings.idle_s
        self._loop.want_read(self)

    # --- the end

    def _end(self) -> None:
        """Shut our side; close when the client has: with input on its way, a reset would overtake the reply."""
        self._buffer = b""
        self.state = _LINGERING
        self.deadline = time.monotonic() + _LINGER_S
        with _quiet():
            self.sock.shutdown(socket.SHUT_WR)
        self._loop.want_read(self)

    def _discard(self) -> None:
        try:
            # Below TLS: what comes is not looked at any more.
            data = os.read(self.sock.fileno(), RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()

    def close(self) -> None:
        """Close at once."""
        if self.state is _CLOSED:
            return
        self.state = _CLOSED
        self._pending = []
        self._reply = None
        self._loop.forget(self)
        with _quiet():
            self.sock.close()

    def kick(self) -> None:
        """Wake a thread that waits for the client, in any state; the loop goes on from there."""
        with _quiet():
            self.sock.shutdown(socket.SHUT_RDWR)


class _quiet:  # noqa: N801 - reads as a statement
    """Ignore OSError; cheaper than ``contextlib.suppress``."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        return kind is not None and issubclass(kind, OSError)
