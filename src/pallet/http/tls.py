"""TLS below an asyncio protocol, with the half-close that asyncio's own TLS refuses.

Owns   the record layer of one connection: ciphertext from the socket's transport, plaintext for the
       protocol above, and a ``Transport`` for that protocol to write to.
Runs   on the event loop.
Needs  ``ssl`` memory BIOs. asyncio closes a TLS connection when the peer sends close_notify, which
       loses the output of ``docker run -i`` after its input ended; here it is an end of file.
Spec   RFC 8446 6.1 (close_notify closes one direction only).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_READ_BYTES = 256 * 1024
_HANDSHAKE_S = 30.0


class TlsLayer(asyncio.Protocol):
    """The protocol of the socket's transport; makes the protocol above once the peer is known."""

    def __init__(self, context: ssl.SSLContext, above: Callable[[], asyncio.BaseProtocol]) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._above_factory = above
        self._transport: asyncio.Transport | None = None
        self._tls: TlsTransport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._ready = False
        self._input_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._deadline = asyncio.get_running_loop().call_later(_HANDSHAKE_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            if not self._ready:
                self._shake_hands()
            if self._ready:
                self._read()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the alert that tells the peer why
            logger.info("TLS connection ended: %s", error)
            if self._transport:
                self._transport.close()

    def _shake_hands(self) -> None:
        self._ssl.do_handshake()
        self._flush()
        assert self._transport is not None
        if self._deadline:
            self._deadline.cancel()
        self._ready = True
        self._tls = TlsTransport(self, self._transport, self._above_factory())
        self._tls.protocol.connection_made(self._tls)

    def _read(self) -> None:
        assert self._tls is not None
        while not self._input_ended:
            try:
                data = self._ssl.read(_READ_BYTES)
            except ssl.SSLZeroReturnError:
                data = b""
            self._flush()
            if not data:
                self._end_input()
                return
            cast("asyncio.Protocol", self._tls.protocol).data_received(data)

    def _end_input(self) -> None:
        if self._input_ended:
            return
        self._input_ended = True
        if self._tls and not cast("asyncio.Protocol", self._tls.protocol).eof_received():
            self._tls.close()

    def eof_received(self) -> bool:
        if not self._ready:
            return False
        self._end_input()
        return True

    def pause_writing(self) -> None:
        if self._tls:
            self._tls.protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._tls:
            self._tls.protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._transport = None
        if self._tls:
            self._tls.protocol.connection_lost(exc)

    def encrypt(self, data: bytes) -> None:
        """Send plaintext."""
        try:
            self._ssl.write(data)
        except ssl.SSLError as error:
            logger.info("TLS write failed: %s", error)
            return
        self._flush()

    def close_output(self) -> None:
        """Send close_notify."""
        # WANT_READ: the peer's own close_notify is not there yet, ours is in the buffer.
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._ssl.unwrap()
        self._flush()

    def _flush(self) -> None:
        if self._transport and (data := self._outgoing.read()):
            self._transport.write(data)


class TlsTransport(asyncio.Transport):
    """What the protocol above a ``TlsLayer`` writes to."""

    def __init__(
        self, layer: TlsLayer, below: asyncio.Transport, protocol: asyncio.BaseProtocol
    ) -> None:
        super().__init__()
        self._layer = layer
        self._below = below
        self.protocol = protocol
        self._output_ended = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._below.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self._output_ended and not self._below.is_closing():
            self._layer.encrypt(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._output_ended and not self._below.is_closing():
            self._output_ended = True
            self._layer.close_output()

    def close(self) -> None:
        self.write_eof()
        self._below.close()

    def abort(self) -> None:
        self._below.abort()

    def is_closing(self) -> bool:
        return self._below.is_closing()

    def is_reading(self) -> bool:
        return self._below.is_reading()

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)
