"""Carries a hijacked connection that cannot be handed out as it is.

Owns   the copying between a client's transport and one end of a socket pair, with flow control and
       half-close in both directions.
Runs   on the event loop. Used for TLS, and where bytes of the stream had already been read.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

_BUFFER_BYTES = 256 * 1024


class _End(asyncio.Protocol):
    """One side of the relay: what it reads is written to ``other``."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self.read_ended = False
        self._wait_to_read = False
        self.on_lost: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        if self.other and self.other.transport:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        self.read_ended = True
        other = self.other
        if other and other.transport and not other.transport.is_closing():
            if other.read_ended:
                # Both directions have ended: what is buffered still goes out.
                other.transport.close()
                return False
            other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other and self.other.transport and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.transport = None
        if self.other and self.other.transport:
            self.other.transport.close()
        self.on_lost()


class Relay:
    """A running relay; ``closed`` is called once both sides are gone."""

    def __init__(self, closed: Callable[[Relay], None]) -> None:
        self._client = _End()
        self._local = _End()
        self._client.other, self._local.other = self._local, self._client
        self._open_ends = 2
        self._closed = closed
        self._client.on_lost = self._local.on_lost = self._end_lost

    async def start(
        self, transport: asyncio.Transport, read_ahead: bytes, *, input_ended: bool
    ) -> socket.socket:
        """Begin to relay ``transport`` and return the other end.

        Args:
            transport: the client's; its reading is paused. It gets this relay as its protocol.
            read_ahead: bytes the client sent that belong to the stream.
            input_ended: the client has half-closed already.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self._local, ours)
        transport.set_protocol(self._client)
        self._client.connection_made(transport)
        if transport.is_closing():
            self._client.connection_lost(None)
            return theirs
        if read_ahead:
            self._client.data_received(read_ahead)
        if input_ended:
            self._client.eof_received()
        else:
            transport.resume_reading()
        return theirs

    def abort(self) -> None:
        """Drop both sides at once."""
        for end in (self._client, self._local):
            if end.transport:
                end.transport.abort()

    def _end_lost(self) -> None:
        self._open_ends -= 1
        if not self._open_ends:
            self._closed(self)
