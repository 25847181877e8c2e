"""HTTP/1.1 on the wire: requests parsed by h11, reply heads and chunks written here.

Owns   the parsing state of one connection and the bytes of replies. No I/O.
Runs   on the event loop; used by ``server.py``.
Needs  h11. A parser lives for one request: what follows it (a pipelined request, the first bytes of
       a hijacked stream) stays in ``trailing`` and is never parsed as part of it.
Spec   RFC 9112 (messages), RFC 9110 (semantics).
"""

from __future__ import annotations

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


NEED_DATA: Final = NeedData()
END_OF_REQUEST: Final = EndOfRequest()
END_OF_INPUT: Final = EndOfInput()

ReaderEvent = RequestHead | bytes | NeedData | EndOfRequest | EndOfInput


class RequestReader:
    """Bytes in, request events out."""

    def __init__(self) -> None:
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._input_ended = False
        self._chunked: ChunkedBody | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes as they came from the client."""
        if self._chunked is not None:
            self._chunked.feed(data)
        else:
            self._parser.receive_data(data)

    def feed_eof(self) -> None:
        """Note that the client will send no more."""
        if not self._input_ended:
            self._input_ended = True
            if self._chunked is None:
                self._parser.receive_data(b"")

    def next_event(self) -> ReaderEvent:
        """Return the next event; a ``bytes`` event is a piece of the body.

        Raises:
            BadRequestError: malformed input, or the client hung up inside a request.
        """
        if self._chunked is not None:
            return self._next_of_chunked(self._chunked)
        try:
            event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequestError(str(error), error.error_status_hint) from error
        if event is h11.NEED_DATA:
            return NEED_DATA
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            return END_OF_REQUEST
        if isinstance(event, h11.Request):
            return self._head(event)
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

    def _head(self, event: h11.Request) -> RequestHead:
        http_1_0 = event.http_version < b"1.1"
        if any(name == b"transfer-encoding" for name, _ in event.headers):  # chunked: h11 takes no other
            self._chunked = ChunkedBody(self._parser.trailing_data[0])
        return RequestHead(
            event.method.decode("latin-1"),
            event.target,
            list(event.headers),
            http_1_0,
            not http_1_0 and not _wants_close(event.headers),
            self._parser.they_are_waiting_for_100_continue,
        )

    @property
    def trailing(self) -> bytes:
        """Bytes received that are not part of the present request."""
        return self._chunked.rest if self._chunked is not None else self._parser.trailing_data[0]

    def restart(self) -> bool:
        """Begin the next request with what is left over; return whether anything is."""
        rest = self.trailing
        self._chunked = None
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        if rest:
            self._parser.receive_data(rest)
        if self._input_ended:
            self._parser.receive_data(b"")
        return bool(rest)


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
