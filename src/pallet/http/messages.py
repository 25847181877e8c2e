"""Requests and replies as handlers see them.

Owns   ``Request``, ``Response``, ``StreamResponse`` and the ``HIJACKED`` mark.
Runs   on the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from pallet.errors import InvalidParameterError
from pallet.http.query import Query, unescape

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from pallet.http.h1 import RequestHead


class BodySource(Protocol):
    """Where a request gets its body and its connection from: the server's side of it."""

    async def read_body(self) -> bytes:
        """Return the next piece, b"" at the end."""
        ...

    async def hijack(self, head: bytes) -> socket.socket:
        """Send ``head`` and give up the connection."""
        ...


class Request:
    """One request. Headers by lower-case name; ``path`` is decoded, ``query`` parsed when used."""

    __slots__ = (
        "_query", "_source", "abandonable", "has_body", "head", "params", "path", "raw_query",
        "version",
    )

    def __init__(self, head: RequestHead, source: BodySource) -> None:
        self.head = head
        target = head.target.decode("latin-1")
        if target.startswith(("http://", "https://")):
            # Absolute form, as a proxy's client sends it (RFC 9112 3.2.2).
            target = "/" + target.split("://", 1)[1].partition("/")[2]
        path, _, self.raw_query = target.partition("?")
        self.path = unescape(path)
        self.params: Mapping[str, str] = {}
        self.version: tuple[int, int] = (0, 0)
        """API version of the request, set by the application."""
        self.has_body = _has_body(head)
        self.abandonable = False
        """Whether the handler is cancelled when the client goes away; a stream always is."""
        self._query: Query | None = None
        self._source = source

    @property
    def method(self) -> str:
        """The method in upper case."""
        return self.head.method

    @property
    def query(self) -> Query:
        """The query parameters."""
        if self._query is None:
            self._query = Query(self.raw_query)
        return self._query

    def header(self, name: str) -> str | None:
        """Return the first value of a header by lower-case ``name``, or None."""
        key = name.encode()
        for have, value in self.head.headers:
            if have == key:
                return value.decode("utf-8", "surrogateescape")
        return None

    def headers_with_prefix(self, prefix: str) -> dict[str, str]:
        """Return the headers whose lower-case name starts with ``prefix``."""
        key = prefix.encode()
        return {
            name.decode("latin-1"): value.decode("utf-8", "surrogateescape")
            for name, value in self.head.headers
            if name.startswith(key)
        }

    async def body(self, limit_bytes: int = 32 * 1024 * 1024) -> bytes:
        """Read the whole body.

        Raises:
            InvalidParameterError: longer than ``limit_bytes``.
            CancelledRequestError: the client went away in the middle.
        """
        parts = []
        size = 0
        while data := await self._source.read_body():
            size += len(data)
            if size > limit_bytes:
                msg = "request body too large"
                raise InvalidParameterError(msg)
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; the client is slowed down to the reader's pace.

        Raises:
            CancelledRequestError: the client went away in the middle.
        """
        while data := await self._source.read_body():
            yield data

    async def hijack(self, head: bytes) -> socket.socket:
        """Send ``head`` and take over the connection.

        Returns:
            A non-blocking socket that carries every byte after the request, end of file where
            the client half-closes, and whatever the owner writes. It is the connection itself
            where that is possible, otherwise one end of a pair that the server relays (TLS, or
            bytes that had already been read). The handler then returns ``HIJACKED``.

        Raises:
            CancelledRequestError: the client went away first.
        """
        return await self._source.hijack(head)


def _has_body(head: RequestHead) -> bool:
    for name, value in head.headers:
        if name == b"content-length":
            return value != b"0"
        if name == b"transfer-encoding":
            return True
    return False


@dataclass(slots=True)
class Response:
    """A complete reply. ``body`` of a HEAD, 204 or 304 reply is not sent.

    ``prelude`` holds headers in wire form, each with its CRLF, that many replies share. ``close``
    ends the connection after this reply.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: Sequence[tuple[str, str]] = ()
    prelude: bytes = b""
    close: bool = False


@dataclass(slots=True)
class StreamResponse:
    """A reply whose head goes out at once and whose body follows piece by piece.

    ``close`` is awaited when the stream ends for any reason, also when it never started.
    """

    chunks: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]] | None = None
    status: int = 200
    content_type: str = ""
    headers: Sequence[tuple[str, str]] = ()
    prelude: bytes = b""
    single: bool = False
    """There is one piece: it and the end travel together."""


class Hijacked:
    """The handler took the connection over; there is no reply."""


HIJACKED: Final = Hijacked()

Reply = Response | StreamResponse | Hijacked
