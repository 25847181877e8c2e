"""Downloading one blob, with resumption, into a sink that hashes it.

Owns   the read loop: range requests after a break, size checks, retries.
Runs   in a transfer thread; blocks.
Needs  a way to open the blob at an offset (``RepositoryClient.blob`` or a foreign layer's URL).
Spec   distribution-spec "Pulling blobs", RFC 9110 range requests.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import urllib3.exceptions as u3

from pallet.transfer.failures import (
    BadContentError,
    RefusedError,
    RegistryError,
    UnreachableError,
    from_exception,
)
from pallet.transfer.transport import CHUNK_BYTES, abandon

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3.response import HTTPResponse

    from pallet.transfer.cancellation import Cancellation
    from pallet.transfer.retry import Retries

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Sink(Protocol):
    """Where the bytes go: ``storage.content.Ingest``."""

    size: int

    def write(self, chunk: bytes, /) -> int:
        """Append and return the new size."""
        ...


def fetch(
    open_at: Callable[[int], HTTPResponse], size_bytes: int, sink: Sink, *,
    retries: Retries, cancel: Cancellation, on_bytes: Callable[[int], None],
) -> None:
    """Download a blob of ``size_bytes`` into ``sink``, resuming where a transfer broke.

    A server that ignores the range is read from the start, what is there already being skipped:
    the digest, checked by the caller over the whole, tells if the two parts do not match.

    Args:
        open_at: opens the blob at a byte offset, status 200 or 206.
        on_bytes: called with the bytes there are so far.

    Raises:
        RegistryError: the attempts are used up, or an answer that no retry can mend.
        CancelledRequestError: cancelled.
    """
    reader = _Reader(size_bytes, sink, cancel, on_bytes)
    ranges = True
    while sink.size < size_bytes:
        before = sink.size
        try:
            cancel.check()
            offset = sink.size if ranges else 0
            reader.read(open_at(offset), offset)
        except RegistryError as error:
            cancel.check()
            failure = error
            if isinstance(error, RefusedError) and error.status == 416 and ranges and before:
                ranges = False
                failure = BadContentError(str(error), retry=True)
            retries.failed(failure, progressed=sink.size > before)


class _Reader:
    """Copies replies into the sink."""

    def __init__(self, size_bytes: int, sink: Sink, cancel: Cancellation,
                 on_bytes: Callable[[int], None]) -> None:
        self._size = size_bytes
        self._sink = sink
        self._cancel = cancel
        self._on_bytes = on_bytes

    def read(self, response: HTTPResponse, offset: int) -> None:
        """Copy one reply that begins at ``offset``; the connection is released or closed."""
        closer = response.shutdown
        self._cancel.add(closer)
        try:
            self._copy(response, _bytes_to_skip(response, self._size, offset, self._sink.size))
        except (u3.HTTPError, OSError, ValueError) as error:
            abandon(response)
            self._cancel.check()
            if isinstance(error, OSError) and not isinstance(
                    error, (ConnectionError, TimeoutError)):
                raise  # the disk, not the network
            raise from_exception("GET", response.url or "", error) from error
        except BaseException:
            abandon(response)
            raise
        finally:
            self._cancel.discard(closer)
        response.release_conn()

    def _copy(self, response: HTTPResponse, skip: int) -> None:
        sink, size = self._sink, self._size
        while chunk := response.read(CHUNK_BYTES, decode_content=False):
            self._cancel.check()
            if skip:
                dropped = min(skip, len(chunk))
                skip -= dropped
                chunk = chunk[dropped:]
                if not chunk:
                    continue
            if sink.size + len(chunk) > size:
                message = f"blob is larger than the {size} bytes of its descriptor"
                raise BadContentError(message)
            self._on_bytes(sink.write(chunk))
        if sink.size < size:
            raise UnreachableError("GET", response.url or "", "unexpected EOF")


def _bytes_to_skip(response: HTTPResponse, size_bytes: int, offset: int, have: int) -> int:
    """Check what the reply announces; how much of it is there already."""
    length = response.headers.get("Content-Length", "")
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != offset:
            message = "the registry answered with another range than asked for"
            raise BadContentError(message, retry=True)
        expected, skip = size_bytes - offset, 0
    else:
        expected, skip = size_bytes, have
    if length.isdigit() and int(length) != expected and not encoded:
        message = (f"blob has {int(length) + size_bytes - expected} bytes where its descriptor "
                   f"says {size_bytes}")
        raise BadContentError(message)
    return skip
