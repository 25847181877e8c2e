"""HTTP/1.1 on the wire: requests in, reply heads and chunks out.

Requests are parsed by h11, which knows every corner of the protocol and takes some 0.15 ms a
request. A head that has come whole and is plain (``_PLAIN_HEAD``, ``_PLAIN_FIELD``: HTTP/1.1, one
Host, at most a Content-Length, nothing folded) is read here, a tenth of that: it is on the path of
every container's start. What is not plain in any respect is h11's, from its first byte on.

Owns   the parsing state of one connection and the bytes of replies. No I/O.
Runs   on the event loop; used by ``server.py``.
Needs  h11. A parser lives for one request: what follows it (a pipelined request, the first bytes of
       a hijacked stream) stays in ``trailing`` and is never parsed as part of it.
Spec   RFC 9112 (messages), RFC 9110 (semantics).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from pallet.http.chunked import ChunkedBody, ChunkError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_HEAD_BYTES: Final = 1024 * 1024
"""Go's default; a long ``filters`` value or ``X-Registry-Auth`` must fit."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus} | {101: "UPGRADED"}
_STATUS_LINES: dict[int, bytes] = {
    status: f"HTTP/1.1 {status} {phrase}\r\n".encode() for status, phrase in _REASONS.items()
}


class BadRequestError(Exception):
    """The bytes are not a request; answer ``status`` with ``str(error)`` and close."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request line with its headers; header names are in lower case, values stripped."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    http_1_0: bool
    keep_alive: bool
    """Whether the client can send another request on this connection."""
    expects_continue: bool


class NeedData:
    """More bytes have to come first."""


class EndOfRequest:
    """The request is complete."""


class EndOfInput:
    """The client will send no further request."""


_PLAIN_HEAD: Final = re.compile(rb"(GET|POST|HEAD|DELETE|PUT) ([!-~]{1,8192}) HTTP/1\.1\r\n")
_PLAIN_FIELD: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}):[ \t]*([!-~]?(?:[ -~\t]*[!-~])?)[ \t]*\r\n")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_NOT_PLAIN: Final = frozenset({b"transfer-encoding", b"expect"})

NEED_DATA: Final = NeedData()
END_OF_REQUEST: Final = EndOfRequest()
END_OF_INPUT: Final = EndOfInput()

ReaderEvent = RequestHead | bytes | NeedData | EndOfRequest | EndOfInput


class RequestReader:
    """Bytes in, request events out.

    One of three has the bytes: ``_buffer`` (nothing read yet, or a plain head with ``_left`` bytes
    of its body to come), ``_parser`` (h11), ``_chunked`` (the body of a request that h11 read).
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._left = -1
        self._length = 0
        self._parser: h11.Connection | None = None
        self._input_ended = False
        self._chunked: ChunkedBody | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes as they came from the client."""
        if self._chunked is not None:
            self._chunked.feed(data)
        elif self._parser is not None:
            self._parser.receive_data(data)
        else:
            self._buffer = self._buffer + data if self._buffer else data

    def feed_eof(self) -> None:
        """Note that the client will send no more."""
        if not self._input_ended:
            self._input_ended = True
            if self._parser is not None and self._chunked is None:
                self._parser.receive_data(b"")

    def next_event(self) -> ReaderEvent:
        """Return the next event; a ``bytes`` event is a piece of the body.

        Raises:
            BadRequestError: malformed input, or the client hung up inside a request.
        """
        if self._chunked is not None:
            return self._next_of_chunked(self._chunked)
        if self._parser is not None:
            return self._next_of_parser(self._parser)
        if self._left >= 0:
            return self._next_of_plain()
        if not self._buffer:
            return END_OF_INPUT if self._input_ended else NEED_DATA
        return self._plain_head() or self._next_of_parser(self._begin_parser())

    def _begin_parser(self) -> h11.Connection:
        parser = self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        data, self._buffer = self._buffer, b""
        if data:
            parser.receive_data(data)
        if self._input_ended:
            parser.receive_data(b"")
        return parser

    def _plain_head(self) -> RequestHead | None:
        """Read a head that is whole and plain; None leaves it to h11."""
        buffer = self._buffer
        line = _PLAIN_HEAD.match(buffer)
        if line is None:
            return None
        position, length, hosts, closes = line.end(), -1, 0, False
        headers: list[tuple[bytes, bytes]] = []
        while found := _PLAIN_FIELD.match(buffer, position):
            name, value = found[1].lower(), found[2]
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                if length >= 0 or not _LENGTH.fullmatch(value):
                    return None
                length = int(value)
            elif name == b"connection":
                closes = closes or b"close" in value.lower()
            elif name in _NOT_PLAIN:
                return None
            headers.append((name, value))
            position = found.end()
        if hosts != 1 or not buffer.startswith(b"\r\n", position) or position > MAX_HEAD_BYTES:
            return None
        self._buffer = buffer[position + 2:]
        self._left = self._length = max(length, 0)
        return RequestHead(line[1].decode("ascii"), line[2], headers, http_1_0=False,
                           keep_alive=not closes, expects_continue=False)

    def _next_of_plain(self) -> ReaderEvent:
        if not self._left:
            return END_OF_REQUEST
        buffer = self._buffer
        if not buffer:
            if self._input_ended:
                msg = ("peer closed connection without sending complete message body (received "
                       f"{self._length - self._left} bytes, expected {self._length})")
                raise BadRequestError(msg)
            return NEED_DATA
        data, self._buffer = buffer[:self._left], buffer[self._left:]
        self._left -= len(data)
        return data

    def _next_of_parser(self, parser: h11.Connection) -> ReaderEvent:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequestError(str(error), error.error_status_hint) from error
        if event is h11.NEED_DATA:
            return NEED_DATA
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            return END_OF_REQUEST
        if isinstance(event, h11.Request):
            return self._head(event, parser)
        if isinstance(event, h11.ConnectionClosed):
            return END_OF_INPUT
        return END_OF_REQUEST  # PAUSED: complete, and bytes of something else follow

    def _next_of_chunked(self, body: ChunkedBody) -> ReaderEvent:
        try:
            data = body.take()
        except ChunkError as error:
            raise BadRequestError(str(error)) from error
        if data:
            return data
        if body.ended:
            return END_OF_REQUEST
        if self._input_ended:
            msg = "peer closed connection without sending complete message body"
            raise BadRequestError(msg)
        return NEED_DATA

    def _head(self, event: h11.Request, parser: h11.Connection) -> RequestHead:
        http_1_0 = event.http_version < b"1.1"
        if any(name == b"transfer-encoding" for name, _ in event.headers):  # chunked: h11 takes no other
            self._chunked = ChunkedBody(parser.trailing_data[0])
        return RequestHead(
            event.method.decode("latin-1"),
            event.target,
            list(event.headers),
            http_1_0,
            not http_1_0 and not _wants_close(event.headers),
            parser.they_are_waiting_for_100_continue,
        )

    @property
    def trailing(self) -> bytes:
        """Bytes received that are not part of the present request."""
        if self._chunked is not None:
            return self._chunked.rest
        return self._parser.trailing_data[0] if self._parser is not None else self._buffer

    def restart(self) -> bool:
        """Begin the next request with what is left over; return whether anything is."""
        self._buffer = self.trailing
        self._chunked = self._parser = None
        self._left = -1
        return bool(self._buffer)


def _wants_close(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"connection" and b"close" in value.lower() for name, value in headers
    )


def head_bytes(status: int, prelude: bytes, headers: Iterable[tuple[str, str]]) -> bytes:
    """Write a status line and headers, with the empty line.

    Args:
        status: the code; 101 has Docker's reason "UPGRADED".
        prelude: headers already in wire form, each with its CRLF.
        headers: further headers. A value with a line break is a programming error.

    Raises:
        ValueError: a header would split.
    """
    line = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n".encode()
    parts = [line, prelude]
    for name, value in headers:
        if "\n" in value or "\r" in value or "\0" in value:
            msg = f"line break in header {name}"
            raise ValueError(msg)
        parts.append(f"{name}: {value}\r\n".encode("utf-8", "surrogateescape"))
    parts.append(b"\r\n")
    return b"".join(parts)


def chunk(data: bytes) -> bytes:
    """Frame a non-empty piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class DateHeader:
    """The ``Date`` header in wire form, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def __call__(self) -> bytes:
        """Return ``Date: …`` with its CRLF."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            moment = time.gmtime(now)
            day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[moment.tm_wday]
            month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov",
                     "Dec")[moment.tm_mon - 1]
            self._line = (
                f"Date: {day}, {moment.tm_mday:02d} {month} {moment.tm_year} "
                f"{moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d} GMT\r\n"
            ).encode()
        return self._line
