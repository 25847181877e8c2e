"""The user-land port proxy: carries to a container what NAT does not.

Owns   ``serve``: TCP both ways with half-close and back-pressure, UDP with one socket a client.
Runs   in a child of a container's shim, forked when the first packet reaches a listener: IPv6 to
       a container that has only IPv4, ``[::1]``, connections from other containers, and everything
       on hosts without nf_tables. Single-threaded; ends with the container.
Needs  the host's network namespace, from which it can reach the container's address.
Spec   docker-proxy's behaviour.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT
_GONE = select.EPOLLHUP | select.EPOLLERR
_CHUNK_BYTES = 128 * 1024
_ACCEPTS_A_TURN = 64
_DATAGRAMS_A_TURN = 64
_CLIENTS_MAX = 4096
"""UDP clients a listener remembers; the one that was idle longest makes room."""
UDP_IDLE_S = 90.0
_LISTENER_PAUSE_S = 0.2
_TICK_S = 5.0
_TRANSIENT = {errno.EAGAIN, errno.EINTR, errno.ECONNABORTED, errno.EPROTO}
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# <linux/in.h>, <linux/in6.h>: which local address a datagram was sent to, and is answered from.
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50


class Forward(NamedTuple):
    """One listener and where it leads. ``serve`` takes over ``fd``."""

    fd: int
    proto: str
    """``tcp``: a listening socket; ``udp``: a bound one."""
    target_ip: str
    target_port: int


def serve(forwards: Sequence[Forward]) -> NoReturn:
    """Carry traffic until the process is killed; never returns."""
    try:
        gc.disable()
        Proxy(forwards).run()
    finally:
        os._exit(1)


class Proxy:
    """The event loop: descriptors to handlers."""

    def __init__(self, forwards: Sequence[Forward]) -> None:
        self.poll = select.epoll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.buffer = bytearray(_CHUNK_BYTES)
        self._paused: list[_TcpListener] = []
        self._udp: list[_UdpListener] = []
        for forward in forwards:
            sock = socket.socket(fileno=forward.fd)
            sock.setblocking(False)
            target = (forward.target_ip, forward.target_port)
            if forward.proto == "tcp":
                _TcpListener(self, sock, target)
            else:
                self._udp.append(_UdpListener(self, sock, target))

    def run(self) -> NoReturn:
        """Serve for ever."""
        while True:
            self.turn(_TICK_S)

    def turn(self, timeout_s: float) -> None:
        """Wait for events once and handle them."""
        if self._paused:
            timeout_s = min(timeout_s, _LISTENER_PAUSE_S)
        for fd, events in self.poll.poll(timeout_s):
            # An earlier handler of this turn may have closed it.
            if (handler := self.handlers.get(fd)) is not None:
                handler(events)
        paused, self._paused = self._paused, []
        for listener in paused:
            listener.resume()
        now = time.monotonic()
        for udp in self._udp:
            udp.expire(now)

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Start watching ``fd``."""
        self.poll.register(fd, events)
        self.handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``, before it is closed."""
        if self.handlers.pop(fd, None) is not None:
            self.poll.unregister(fd)

    def pause(self, listener: _TcpListener) -> None:
        """Leave a listener alone for a moment: the process is out of descriptors."""
        self._paused.append(listener)


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


# --- TCP -----------------------------------------------------------------------------------------


class _TcpListener:
    """Accepts clients and connects each to the container."""

    def __init__(self, proxy: Proxy, sock: socket.socket, target: tuple[str, int]) -> None:
        self._proxy, self._sock, self._target = proxy, sock, target
        proxy.watch(sock.fileno(), _READ, self._accept)

    def resume(self) -> None:
        self._proxy.poll.modify(self._sock.fileno(), _READ)

    def _accept(self, _events: int) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                client, _address = self._sock.accept()
                self._connect(client)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    # Level-triggered: without a pause this would spin until a client leaves.
                    self._proxy.poll.modify(self._sock.fileno(), 0)
                    self._proxy.pause(self)
                elif error.errno not in _TRANSIENT:
                    raise
                return

    def _connect(self, client: socket.socket) -> None:
        try:
            backend = socket.socket(
                _family(self._target[0]), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:
            client.close()
            raise
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        backend.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = backend.connect_ex(self._target)
        if code not in {0, errno.EINPROGRESS}:
            _reset(client)
            backend.close()
            return
        _Connection(self._proxy, client, backend)


def _reset(sock: socket.socket) -> None:
    """Close with RST: what a client sees that connects to a closed port."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    sock.close()


class _Side:
    """One end of a connection: its socket and what still has to be written to it."""

    __slots__ = ("ended", "events", "fd", "peer", "pending", "shut", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.pending = b""
        """Read from the peer, not yet written here; while there is some, the peer is not read."""
        self.ended = False
        """It has sent its FIN."""
        self.shut = False
        """Our FIN has been sent to it."""
        self.events = 0
        self.peer: _Side


class _Connection:
    """A client and the container, copied both ways until both have finished.

    A side is watched only while something can be done with it: the kernel reports hang-ups even to
    those who asked for nothing, and a side that waits for the other would make the loop spin.
    """

    def __init__(self, proxy: Proxy, client: socket.socket, backend: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._backend = _Side(client), _Side(backend)
        self._client.peer, self._backend.peer = self._backend, self._client
        self._connected = False
        self._watch(self._backend, _WRITE)

    def _ready(self, side: _Side, events: int) -> None:
        try:
            if not self._connected:
                code = side.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    self._abort()
                    return
                self._connected = True
            if events & (_WRITE | _GONE) and side.pending:
                self._flush(side)
            if events & (_READ | _GONE) and not side.ended and not side.peer.pending:
                self._read(side)
            self._settle()
        except OSError as error:
            if error.errno not in _TRANSIENT:
                self._abort()

    def _watch(self, side: _Side, wanted: int) -> None:
        if wanted == side.events:
            return
        if not wanted:
            self._proxy.forget(side.fd)
        elif not side.events:
            self._proxy.watch(side.fd, wanted, lambda events: self._ready(side, events))
        else:
            self._proxy.poll.modify(side.fd, wanted)
        side.events = wanted

    def _read(self, side: _Side) -> None:
        buffer = self._proxy.buffer
        size = side.sock.recv_into(buffer)
        if size == 0:
            side.ended = True
            return
        view = memoryview(buffer)[:size]
        try:
            sent = side.peer.sock.send(view)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            sent = 0
        if sent < size:
            side.peer.pending = bytes(view[sent:])

    def _flush(self, side: _Side) -> None:
        sent = side.sock.send(side.pending)
        side.pending = side.pending[sent:]

    def _settle(self) -> None:
        """Pass ends on, and watch for exactly what can go on."""
        for side in (self._client, self._backend):
            if side.peer.ended and not side.pending and not side.shut:
                side.shut = True
                with contextlib.suppress(OSError):  # it may have closed both ways already
                    side.sock.shutdown(socket.SHUT_WR)
        if self._client.shut and self._backend.shut:
            self._close()
            return
        for side in (self._client, self._backend):
            wanted = 0
            if not side.ended and not side.peer.pending:
                wanted |= _READ
            if side.pending:
                wanted |= _WRITE
            self._watch(side, wanted)

    def _abort(self) -> None:
        self._part()
        for side in (self._client, self._backend):
            _reset(side.sock)

    def _close(self) -> None:
        self._part()
        for side in (self._client, self._backend):
            side.sock.close()

    def _part(self) -> None:
        """Stop watching, and break the reference cycle: the collector is off in this process."""
        for side in (self._client, self._backend):
            self._proxy.forget(side.fd)
            side.events = 0
            del side.peer


# --- UDP -----------------------------------------------------------------------------------------


class _UdpClient:
    """One client's way to the container: a connected socket of its own."""

    __slots__ = ("address", "answer_from", "sock", "used_at")

    def __init__(
        self, sock: socket.socket, address: tuple[object, ...],
        answer_from: tuple[int, int, bytes] | None,
    ) -> None:
        self.sock, self.address, self.answer_from = sock, address, answer_from
        self.used_at = time.monotonic()


class _UdpListener:
    """Relays datagrams; answers leave from the address the client sent to."""

    def __init__(self, proxy: Proxy, sock: socket.socket, target: tuple[str, int]) -> None:
        self._proxy, self._sock, self._target = proxy, sock, target
        self._ipv6 = sock.family == socket.AF_INET6
        if self._ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self._clients: dict[tuple[object, ...], _UdpClient] = {}
        self._swept_at = time.monotonic()
        proxy.watch(sock.fileno(), _READ, self._from_clients)

    def expire(self, now: float) -> None:
        """Forget clients that have been silent, both ways, for ``UDP_IDLE_S``."""
        if now - self._swept_at < _TICK_S:
            return
        self._swept_at = now
        for client in [c for c in self._clients.values() if now - c.used_at > UDP_IDLE_S]:
            self._drop(client)

    def _drop(self, client: _UdpClient) -> None:
        del self._clients[client.address]
        self._proxy.forget(client.sock.fileno())
        client.sock.close()

    def _from_clients(self, _events: int) -> None:
        for _ in range(_DATAGRAMS_A_TURN):
            try:
                data, ancillary, _flags, address = self._sock.recvmsg(65536, 128)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return
                continue  # an ICMP error for an earlier answer
            client = self._clients.get(address) or self._admit(address, ancillary)
            if client is None:
                continue
            client.used_at = time.monotonic()
            try:
                client.sock.send(data)
            except OSError:
                # Refused (nothing listens) or full: datagrams may be lost, as on any wire.
                continue

    def _admit(
        self, address: tuple[object, ...], ancillary: list[tuple[int, int, bytes]],
    ) -> _UdpClient | None:
        if len(self._clients) >= _CLIENTS_MAX:
            self._drop(min(self._clients.values(), key=lambda client: client.used_at))
        try:
            sock = socket.socket(
                _family(self._target[0]), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            return None
        try:
            sock.connect(self._target)
        except OSError:
            sock.close()
            return None
        client = _UdpClient(sock, address, self._source(ancillary))
        self._clients[address] = client
        self._proxy.watch(sock.fileno(), _READ, lambda events: self._from_container(client, events))
        return client

    def _source(self, ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int, bytes] | None:
        """Ancillary data that makes an answer leave from where the client sent to."""
        for level, kind, data in ancillary:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                # struct in_pktinfo: index, source for sending, destination of the header.
                return level, kind, bytes(4) + data[8:12] + bytes(4)
            if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
                return level, kind, data
        return None

    def _from_container(self, client: _UdpClient, _events: int) -> None:
        for _ in range(_DATAGRAMS_A_TURN):
            try:
                data = client.sock.recv(65536)
            except OSError:
                # Nothing more, or an ICMP error such as "port unreachable", which is now cleared.
                return
            client.used_at = time.monotonic()
            ancillary = [client.answer_from] if client.answer_from else []
            try:
                self._sock.sendmsg([data], ancillary, 0, client.address)
            except OSError:
                continue
