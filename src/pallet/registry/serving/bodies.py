"""Request bodies: whole in memory, or read from the connection by the thread that works on the request.

Owns   framing, deadlines and the least rate of a body.
Runs   in the server's threads; the loop leaves the socket alone meanwhile.
Needs  a connected socket with a timeout set.
Spec   RFC 9112 section 6 and 7; RFC 9110 10.1.1 (100-continue).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pallet.http.chunked import ChunkedBody, ChunkError
from pallet.http.h1 import CONTINUE

if TYPE_CHECKING:
    import socket

RECEIVE_BYTES = 256 << 10
LEAST_BYTES_PER_S = 1024
_LENIENCE_S = 60.0
"""Before the rate counts: a client may think for a while."""


class BrokenRequestError(ConnectionError):
    """The client broke off, stood still or sent nonsense; there is nobody to answer."""


class MemoryBody:
    """A small body that came with its request."""

    def __init__(self, data: bytes = b"") -> None:
        self.length: int | None = len(data)
        self._data = data

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, b"" at the end."""
        piece, self._data = self._data[:size], self._data[size:]
        return piece


class SocketBody:
    """A body that is still on its way.

    Args:
        sock: with a timeout; TLS or not.
        ahead: what was received behind the request's head.
        length: of the body; None when it is chunked.
        expects_continue: the client waits to be asked for it.
    """

    def __init__(self, sock: socket.socket, ahead: bytes, length: int | None, *,
                 expects_continue: bool) -> None:
        self.length = length
        self.received = 0
        """Bytes of content taken so far."""
        self._sock = sock
        self._ahead = ahead
        self._left = length or 0
        self._chunked = ChunkedBody(ahead) if length is None else None
        self._ready = b""
        self._continue_due = expects_continue
        self._since = time.monotonic()
        self._arrived = len(ahead)

    @property
    def ended(self) -> bool:
        """Whether nothing of it is outstanding."""
        if self._chunked is not None:
            return self._chunked.ended and not self._ready
        return not self._left

    @property
    def rest(self) -> bytes:
        """Once ``ended``: bytes behind it, of the next request."""
        return self._chunked.rest if self._chunked is not None else self._ahead

    def read(self, size: int, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end, b"" there.

        Raises:
            BrokenRequestError: the client broke off, is too slow, or the framing is broken.
        """
        if self._continue_due and not self.ended:
            self._continue_due = False
            if not self._ahead:
                self._sock.sendall(CONTINUE)
        data = self._read_chunked(size) if self._chunked is not None else self._read_length(size)
        self.received += len(data)
        return data

    def _read_length(self, size: int) -> bytes:
        wanted = min(size, self._left)
        if not wanted:
            return b""
        if len(self._ahead) >= wanted:
            data, self._ahead = self._ahead[:wanted], self._ahead[wanted:]
            self._left -= wanted
            return data
        buffer = bytearray(wanted)
        got = len(self._ahead)
        buffer[:got] = self._ahead
        self._ahead = b""
        with memoryview(buffer) as view:
            while got < wanted:
                got += self._receive_into(view[got:])
        self._left -= wanted
        return bytes(buffer)

    def _read_chunked(self, size: int) -> bytes:
        assert self._chunked is not None
        parts, got = [self._ready], len(self._ready)
        try:
            while got < size and not self._chunked.ended:
                piece = self._chunked.take()
                if piece:
                    parts.append(piece)
                    got += len(piece)
                elif not self._chunked.ended:
                    self._chunked.feed(self._receive())
        except ChunkError as error:
            raise BrokenRequestError(str(error)) from error
        data = b"".join(parts)
        self._ready = data[size:]
        return data[:size]

    def _receive_into(self, view: memoryview) -> int:
        try:
            got = self._sock.recv_into(view)
        except TimeoutError as error:
            raise BrokenRequestError("the client stands still") from error
        self._check(got)
        return got

    def _receive(self) -> bytes:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except TimeoutError as error:
            raise BrokenRequestError("the client stands still") from error
        self._check(len(data))
        return data

    def _check(self, got: int) -> None:
        if not got:
            message = "the client broke off its request"
            raise BrokenRequestError(message)
        self._arrived += got
        elapsed = time.monotonic() - self._since
        if elapsed > _LENIENCE_S and self._arrived / elapsed < LEAST_BYTES_PER_S:
            message = "the client is too slow"
            raise BrokenRequestError(message)

    def drain(self, most_bytes: int) -> bool:
        """Read what a refused request still sends; False when it is too much for that."""
        taken = 0
        try:
            while not self.ended and not self._continue_due and taken < most_bytes:
                taken += len(self.read(RECEIVE_BYTES))
        except OSError:
            return False
        return self.ended
