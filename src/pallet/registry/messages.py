"""Requests and replies of the registry, apart from sockets.

Owns   the documents between ``server`` and ``routes``.
Runs   in the server's threads.
Needs  nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs, urlencode

from pallet.registry.codes import RegistryHttpError
from pallet.spec import digest as digests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pallet.types import Digest


class RequestBody(Protocol):
    """A request's body; reading past its end gives b""."""

    length: int | None
    """Bytes announced; None for a stream of unknown length."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRequest:
    """One request; header names in lower case; ``query`` undecoded."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: RequestBody
    base_url: str
    """``http://host:port`` as the client sees this server."""
    peer: str = ""
    """The client's address without its port."""
    request_id: str = ""
    """The client's ``X-Request-Id``, or one made here."""

    def parameter(self, name: str) -> str | None:
        """First value of a query parameter, or None."""
        values = parse_qs(self.query, keep_blank_values=True).get(name)
        return values[0] if values else None

    def parameters(self, name: str) -> list[str]:
        """Every value of a query parameter, comma lists taken apart."""
        values = parse_qs(self.query).get(name, [])
        return [part for value in values for part in value.split(",") if part]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRange:
    """Part of a file to send as a body."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A body that is made while it is sent. ``close`` is called once, also when nothing was taken."""

    chunks: Iterator[bytes]
    length: int
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryResponse:
    """One reply. For HEAD the body's length is announced and the body left out by the server."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | FileRange | Stream = b""
    keep_s: float = 0.0
    """How long the server may give the same answer to the same request of anybody who may read,
    without asking: as long as the version of the content stays, and at most these seconds."""


def link_to_next(request: RegistryRequest, **changed: str) -> str:
    """The ``Link`` header's value: this request with some parameters set (RFC 8288)."""
    parameters = {name: values[0] for name, values in parse_qs(request.query).items()} | changed
    return f'<{request.path}?{urlencode(parameters)}>; rel="next"'


def parse_digest(text: str) -> Digest:
    """Check a digest of a URL.

    Raises:
        RegistryHttpError: DIGEST_INVALID.
    """
    try:
        return digests.parse(text)
    except digests.DigestError as error:
        raise RegistryHttpError("DIGEST_INVALID", text, message=str(error)) from error
