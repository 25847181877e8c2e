"""One HTTP/2 connection on a socket that was handed over: streams, flow control, limits.

Owns   the connection's transport and its ``Stream`` objects. h2 keeps the protocol; this module
       moves bytes, gives credit and wakes who waits.
Runs   on the event loop.
Needs  h2. Imported by the first connection, never at the daemon's start.
Spec   RFC 9113.

Plain DATA frames of open streams go past h2 (one message of BuildKit's file synchronisation is one
frame, and a context has tens of thousands): their bytes are counted here, and the credit for them is
written here, so that h2's idea of the inbound windows only covers the frames it has seen.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import TYPE_CHECKING, Final, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from pallet.errors import CancelledRequestError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

STREAM_WINDOW_BYTES: Final = 1024 * 1024
CONNECTION_WINDOW_BYTES: Final = 16 * 1024 * 1024
MAX_STREAMS: Final = 250
MAX_HEADER_LIST_BYTES: Final = 256 * 1024
MAX_FRAME_BYTES: Final = 256 * 1024
_MAX_UNREAD_FRAMES: Final = 4000
"""That a peer may send while it does not read the answers (pings, settings, resets)."""
_PREFACE_BYTES: Final = 24
_HEAD_BYTES: Final = 9
_DATA: Final = 0
_head = struct.Struct(">HBBBL")
_update = struct.Struct(">HBBBLL")

Headers = list[tuple[str, str]]


class StreamResetError(CancelledRequestError):
    """The peer reset the stream, or the connection ended; ``code`` is HTTP/2's error code."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Stream:
    """One stream. Bytes and header blocks arrive through the callbacks its user sets."""

    __slots__ = ("_connection", "_owed", "_waiter", "_window", "ended_here", "ended_there", "id", "on_data",
                 "on_end", "on_headers", "on_reset", "reset")

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.id = stream_id
        self.on_headers: Callable[[Headers], None] = _ignore_headers
        self.on_data: Callable[[bytes], None] = _ignore_data
        self.on_end: Callable[[], None] = _ignore_end
        self.on_reset: Callable[[StreamResetError], None] = _ignore_reset
        self.ended_here = False
        self.ended_there = False
        self.reset: StreamResetError | None = None
        self._connection = connection
        self._owed = 0
        self._window = STREAM_WINDOW_BYTES
        self._waiter: asyncio.Future[None] | None = None

    def take(self, data: bytes) -> None:
        """Pass on what arrived.

        Raises:
            FlowControlError: more than the peer had credit for.
        """
        self._window -= len(data)
        if self._window < 0:
            message = "the peer sends more than the window allows"
            raise h2.exceptions.FlowControlError(message)
        self.on_data(data)

    def credit(self, count: int) -> None:
        """Let the peer send ``count`` more bytes: that many have been taken."""
        self._owed += count
        if self._owed >= STREAM_WINDOW_BYTES // 4 and not self.ended_there and self.reset is None:
            self._connection.write_update(self.id, self._owed)
            self._window += self._owed
            self._owed = 0

    def send_headers(self, headers: Sequence[tuple[str, str]], *, end: bool = False) -> None:
        """Send a header block (or trailers).

        Raises:
            StreamResetError: the stream is no more.
        """
        self._check()
        self.ended_here = self.ended_here or end
        self._connection.send_headers(self, headers, end=end)

    async def send(self, data: bytes) -> None:
        """Send all of ``data``, as the peer's windows and the socket allow.

        Raises:
            StreamResetError: the stream is no more.
        """
        view = memoryview(data)
        while view:
            self._check()
            room = self._connection.room(self)
            if room <= 0:
                await self._wait()
                continue
            self._connection.send_data(self, bytes(view[:room]))
            view = view[room:]
            await self._connection.drain()

    def end(self) -> None:
        """Half-close: nothing more comes from here."""
        if not self.ended_here and self.reset is None:
            self.ended_here = True
            self._connection.send_data(self, b"", end=True)

    def cancel(self, code: int = int(h2.errors.ErrorCodes.CANCEL)) -> None:
        """Reset the stream unless both sides have ended it."""
        if self.reset is None and not (self.ended_here and self.ended_there):
            self.fail(StreamResetError("stream cancelled", code))
            self._connection.reset_stream(self, code)
        self._connection.forget(self)

    def fail(self, error: StreamResetError) -> None:
        """Take note that the stream is no more."""
        if self.reset is None:
            self.reset = error
            self.wake()
            self.on_reset(error)

    def wake(self) -> None:
        """There may be room to send."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _check(self) -> None:
        if self.reset is not None:
            raise self.reset


class Connection(asyncio.Protocol):
    """One connection; server side with ``accept``, client side without."""

    def __init__(self, accept: Callable[[Stream, Headers], None] | None) -> None:
        self._accept = accept
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=accept is None, header_encoding="latin-1", validate_outbound_headers=False))
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._preface_due = _PREFACE_BYTES if accept is not None else 0
        self._streams: dict[int, Stream] = {}
        self._window = CONNECTION_WINDOW_BYTES
        self._flushing = False
        self._paused = False
        self._unread = 0
        self._drained: list[asyncio.Future[None]] = []
        self._going_away = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the connection is gone."""

    @classmethod
    async def on_socket(cls, sock: socket.socket, accept: Callable[[Stream, Headers], None] | None) -> Connection:
        """Speak HTTP/2 on ``sock``, which belongs to the connection from now on."""
        connection = cls(accept)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except BaseException:
            sock.close()
            raise
        return connection

    # --- from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        codes = h2.settings.SettingCodes
        settings = {codes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES, codes.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
                    codes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_BYTES, codes.ENABLE_PUSH: 0}
        if self._accept is not None:
            settings[codes.MAX_CONCURRENT_STREAMS] = MAX_STREAMS
            del settings[codes.ENABLE_PUSH]
        self._h2.local_settings = h2.settings.Settings(client=self._accept is None, initial_values=settings)
        self._h2.max_inbound_frame_size = MAX_FRAME_BYTES
        self._h2.decoder.max_header_list_size = MAX_HEADER_LIST_BYTES
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES - 65535)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            self._parse()
        except h2.exceptions.ProtocolError as error:
            logger.debug("HTTP/2 connection ends: %s", error)
            self._flush()
            self.close()
            return
        self._flush_soon()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._going_away = True
        for stream in list(self._streams.values()):
            stream.fail(StreamResetError("connection lost"))
        self._streams.clear()
        self._resume()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._unread = 0
        self._resume()

    def _resume(self) -> None:
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()

    # --- inbound

    def _parse(self) -> None:
        """Take whole frames out of the buffer."""
        buffer, at = self._buffer, 0
        if self._preface_due:
            if len(buffer) < self._preface_due:
                return
            at = self._preface_due
            self._preface_due = 0
            self._feed(bytes(buffer[:at]))
        end = len(buffer)
        while end - at >= _HEAD_BYTES:
            high, low, kind, flags, stream_id = _head.unpack_from(buffer, at)
            length = (high << 8) | low
            if length > MAX_FRAME_BYTES:
                message = f"a frame of {length} bytes"
                raise h2.exceptions.FrameTooLargeError(message)  # by its head, before it is here
            stop = at + _HEAD_BYTES + length
            if stop > end:
                break
            stream = self._streams.get(stream_id) if kind == _DATA and not flags else None
            if stream is not None and not stream.ended_there and stream.reset is None:
                self._take(length)
                stream.take(bytes(buffer[at + _HEAD_BYTES:stop]))
            else:
                self._feed(bytes(buffer[at:stop]))
            at = stop
        del buffer[:at]

    def _take(self, length: int) -> None:
        self._window -= length
        if self._window < CONNECTION_WINDOW_BYTES // 2:
            self.write_update(0, CONNECTION_WINDOW_BYTES - self._window)
            self._window = CONNECTION_WINDOW_BYTES

    def _feed(self, frame: bytes) -> None:
        if self._paused:
            self._unread += 1
            if self._unread > _MAX_UNREAD_FRAMES:
                self.abort()
        for event in self._h2.receive_data(frame):
            self._handle(event)

    def _handle(self, event: h2.events.Event) -> None:
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.RequestReceived):
            self._begin(event)
        elif isinstance(event, h2.events.DataReceived):
            self._counted_data(event, stream)
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for waiting in [stream] if stream else list(self._streams.values()):
                waiting.wake()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._going_away = True
            if int(event.error_code or 0):
                self.close()
        elif stream is None:
            return
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            stream.on_headers(cast("Headers", event.headers))
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended_there = True
            stream.on_end()
        elif isinstance(event, h2.events.StreamReset):
            self.forget(stream)
            stream.fail(StreamResetError("stream reset by the peer", int(event.error_code or 0)))

    def _counted_data(self, event: h2.events.DataReceived, stream: Stream | None) -> None:
        """Take a frame that h2 has counted: its credit is given back there, at once."""
        if count := event.flow_controlled_length:
            self._h2.increment_flow_control_window(count)
            if event.stream_ended is None and stream is not None and not stream.ended_here:
                self._h2.increment_flow_control_window(count, event.stream_id)
        if stream is not None:
            stream.take(event.data or b"")

    def _begin(self, event: h2.events.RequestReceived) -> None:
        stream = Stream(self, event.stream_id or 0)
        self._streams[stream.id] = stream
        assert self._accept is not None
        self._accept(stream, cast("Headers", event.headers))

    # --- outbound

    def open_stream(self) -> Stream:
        """Begin a stream (client side).

        Raises:
            StreamResetError: the connection is gone, or going.
        """
        if self._transport is None or self._going_away:
            message = "connection lost"
            raise StreamResetError(message)
        stream = Stream(self, self._h2.get_next_available_stream_id())
        self._streams[stream.id] = stream
        return stream

    def send_headers(self, stream: Stream, headers: Sequence[tuple[str, str]], *, end: bool) -> None:
        """Queue a header block."""
        try:
            self._h2.send_headers(stream.id, headers, end_stream=end)
        except h2.exceptions.ProtocolError as error:
            raise StreamResetError(str(error)) from error
        self._flush_soon()

    def send_data(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        """Queue a piece that fits the windows."""
        try:
            self._h2.send_data(stream.id, data, end_stream=end)
        except h2.exceptions.ProtocolError as error:
            raise StreamResetError(str(error)) from error
        self._flush_soon()

    def room(self, stream: Stream) -> int:
        """How many bytes the stream may send now in one frame."""
        try:
            return min(self._h2.local_flow_control_window(stream.id), self._h2.max_outbound_frame_size)
        except h2.exceptions.ProtocolError as error:
            raise StreamResetError(str(error)) from error

    def reset_stream(self, stream: Stream, code: int) -> None:
        """Send a reset."""
        if self._transport is not None:
            try:
                self._h2.reset_stream(stream.id, code)
            except h2.exceptions.ProtocolError:
                return  # it had ended already
            self._flush_soon()

    def forget(self, stream: Stream) -> None:
        """The stream's user is done with it."""
        self._streams.pop(stream.id, None)

    def write_update(self, stream_id: int, count: int) -> None:
        """Give credit for bytes that h2 has not counted."""
        if self._transport is not None:
            self._flush()  # frames keep their order
            self._transport.write(_update.pack(0, 4, 8, 0, stream_id, count))

    async def drain(self) -> None:
        """Wait while the socket takes no more."""
        if self._paused and self._transport is not None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drained.append(waiter)
            self._flush()
            await waiter

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        data = self._h2.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    # --- the end

    def close(self) -> None:
        """Say good-bye and close; every stream fails."""
        if self._transport is None:
            return
        self._going_away = True
        try:
            self._h2.close_connection()
        except h2.exceptions.ProtocolError:
            logger.debug("HTTP/2 connection was closed already")
        self._flush()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(1.0, self.abort)
        self._transport.close()

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()


def _ignore_headers(headers: Headers) -> None:
    del headers


def _ignore_data(data: bytes) -> None:
    del data


def _ignore_end() -> None:
    return


def _ignore_reset(error: StreamResetError) -> None:
    del error
