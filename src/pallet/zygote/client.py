"""One attached client: frames out, keys in, half-close both ways.

Owns   the client's socket, from the moment the daemon has passed it.
Runs   in a shim.
Spec   semantics "stream mux frame", "stream half close", "stream detach keys".
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Literal, Protocol

from pallet.zygote.poller import GONE, READ, WRITE

if TYPE_CHECKING:
    from pallet.zygote.messages import Attach
    from pallet.zygote.poller import Poller

HIGH_WATER_BYTES = 1024 * 1024
"""What a slow client may owe before the container's output is left unread."""
LOW_WATER_BYTES = HIGH_WATER_BYTES // 2
_READ_BYTES = 32 * 1024
_LINGER_S = 2.0
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
Ending = Literal["eof", "detached"]
_STREAM_NUMBERS = {"stdout": 1, "stderr": 2}


class Owner(Protocol):
    """What a client needs of its hub."""

    poller: Poller

    def take_input(self, client: Client, data: bytes) -> None:
        """Bytes for the container's stdin."""

    def end_input(self, client: Client) -> None:
        """The client will send nothing more."""

    def relieved(self) -> None:
        """A client that owed too much has caught up."""

    def ended(self, client: Client, how: Ending) -> None:
        """The client's socket is closed."""


class KeyMatcher:
    """Finds the detach keys in a stream of key presses, across reads."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return the bytes to pass on, and whether the keys are complete."""
        keys = self._keys
        if not keys or (not self._matched and keys[0] not in data):
            return data, False
        out = bytearray()
        for byte in data:
            if byte == keys[self._matched]:
                self._matched += 1
                if self._matched == len(keys):
                    self._matched = 0
                    return bytes(out), True
                continue
            out += keys[: self._matched]
            self._matched = 0
            if byte == keys[0]:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out), False


class Client:
    """A socket that gets a container's output and may feed its stdin."""

    def __init__(self, fd: int, attach: Attach, owner: Owner, *, stdin: bool) -> None:
        self.stream_id = attach.stream_id
        self.reads_input = stdin
        self._streams = frozenset(
            name for name, wanted in (("stdout", attach.stdout), ("stderr", attach.stderr))
            if wanted)
        self._mux = attach.mux
        self._keys = KeyMatcher(attach.detach_keys.encode("latin-1"))
        self._owner = owner
        self._sock = socket.socket(fileno=fd)
        self._pending = bytearray()
        self._paused = False
        self._finishing: Ending | None = None
        self._lingering = False
        owner.poller.watch(fd, READ if stdin else 0, self._on_ready)

    @property
    def owes_bytes(self) -> int:
        """Bytes not yet taken by the socket."""
        return len(self._pending)

    # -- output -----------------------------------------------------------------------------------

    def send(self, stream: str, data: bytes) -> None:
        """Pass on output of ``stream``, if this client wants it."""
        if stream not in self._streams or self._finishing:
            return
        if self._mux:
            data = bytes((_STREAM_NUMBERS[stream], 0, 0, 0)) + len(data).to_bytes(4, "big") + data
        if self._pending:
            self._pending += data
            return
        try:
            sent = self._sock.send(data, _SEND_FLAGS)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close("eof")
            return
        if sent < len(data):
            self._pending += data[sent:]
            self._update()

    def finish(self, how: Ending) -> None:
        """End the stream once everything has been sent."""
        if self._finishing:
            return
        self._finishing = how
        if self._pending:
            self._update()
        else:
            self._shut_down()

    def abandon(self) -> None:
        """Let go of the socket without saying end of file on it: another process has it too."""
        self._close(self._finishing or "eof")

    # -- events -----------------------------------------------------------------------------------

    def pause_input(self, *, paused: bool) -> None:
        """Leave the client's input unread while the container does not read its stdin."""
        self._paused = paused
        self._update()

    def _update(self) -> None:
        if self._sock.fileno() < 0:
            return
        events = WRITE if self._pending else 0
        if self._lingering or (self.reads_input and not self._paused and not self._finishing):
            events |= READ
        self._owner.poller.change(self._sock.fileno(), events)

    def _on_ready(self, events: int) -> None:
        if self._lingering:
            self._discard()
            return
        if events & WRITE:
            self._flush()
        if events & READ and self.reads_input and not self._finishing:
            self._read()
        elif events & GONE:
            self._close("eof")

    def _flush(self) -> None:
        owed = len(self._pending)
        try:
            sent = self._sock.send(self._pending, _SEND_FLAGS)
        except BlockingIOError:
            return
        except OSError:
            self._close("eof")
            return
        del self._pending[:sent]
        if not self._pending and self._finishing:
            self._shut_down()
            return
        self._update()
        if owed > LOW_WATER_BYTES >= len(self._pending):
            self._owner.relieved()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self._close("eof")
            return
        if not data:
            self.reads_input = False
            self._update()
            self._owner.end_input(self)
            return
        passed, detached = self._keys.feed(data)
        if passed:
            self._owner.take_input(self, passed)
        if detached:
            self.finish("detached")

    # -- the end ----------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        """Say end of file without losing output on the way.

        Closing a socket with unread input resets the connection, and the peer may then not get
        what was sent before. So input is discarded, on TCP until the peer closes, too.
        """
        try:
            if self._sock.family == socket.AF_UNIX:
                self._sock.shutdown(socket.SHUT_RDWR)
                while self._sock.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                    pass
            else:
                self._sock.shutdown(socket.SHUT_WR)
                self._lingering = True
        except OSError:
            self._lingering = False
        if not self._lingering:
            self._close(self._finishing or "eof")
            return
        self._update()
        self._owner.poller.call_later(_LINGER_S, lambda: self._close(self._finishing or "eof"))

    def _discard(self) -> None:
        try:
            if self._sock.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                return
        except BlockingIOError:
            return
        except OSError:
            self._close(self._finishing or "eof")
            return
        self._close(self._finishing or "eof")

    def _close(self, how: Ending) -> None:
        if self._sock.fileno() < 0:
            return
        self._owner.poller.forget(self._sock.fileno())
        self._sock.close()
        self._pending.clear()
        self._owner.ended(self, how)
