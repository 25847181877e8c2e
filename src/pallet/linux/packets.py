"""Messages of any size with any number of descriptors over SOCK_SEQPACKET.

Owns   the framing. Knows nothing of what a message says.
Runs   in the daemon (non-blocking sockets), the zygote and its children (blocking ones).
Spec   unix(7): a packet is one sendmsg, at most SO_SNDBUF bytes and SCM_MAX_FD descriptors.

A packet is one kind byte and a body: ``P`` carries descriptors only and is followed by more, ``F``
ends a message with its body, ``M`` ends it with a memfd (the last descriptor) as the body.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
from typing import TYPE_CHECKING

from pallet.errors import SyscallError

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_INLINE_BYTES = 60 * 1024
_RECEIVE_BYTES = _MAX_INLINE_BYTES + 1
_FDS_A_PACKET = 250
"""Below the kernel's SCM_MAX_FD of 253."""
_FD_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(_FDS_A_PACKET * _FD_BYTES)
_CTRUNC = "descriptors that came with a message"
SEND_BUFFER_BYTES = 4 * 1024 * 1024


class DescriptorsLostError(SyscallError):
    """Descriptors of a message did not come along: this process may have no more of them (RLIMIT_NOFILE).

    ``body`` is the message's, without its kind; ``fds`` those that did come, in order. Who catches this closes them.
    """

    def __init__(self, body: bytes, fds: list[int]) -> None:
        super().__init__("recvmsg", errno.EMFILE, _CTRUNC)
        self.body = body
        self.fds = fds

    def close(self) -> None:
        """Close what came."""
        while self.fds:
            os.close(self.fds.pop())


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets; both close on exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def enlarge(sock: socket.socket) -> None:
    """Give ``sock`` room for many queued messages, as far as this process may."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


_SO_SNDBUFFORCE = 32
"""include/uapi/asm-generic/socket.h; above net.core.wmem_max, needs CAP_NET_ADMIN."""


def send(sock: socket.socket, body: bytes, fds: Sequence[int] = ()) -> None:
    """Send one message; the caller keeps its copies of ``fds``.

    Raises:
        BlockingIOError: a non-blocking socket is full; nothing of the message was sent.
        BrokenPipeError: the peer is gone.
    """
    if len(body) > _MAX_INLINE_BYTES:
        memfd = os.memfd_create("message", os.MFD_CLOEXEC)
        try:
            view = memoryview(body)
            while view:
                view = view[os.write(memfd, view):]
            _send_packets(sock, b"M", b"", [*fds, memfd])
        finally:
            os.close(memfd)
    else:
        _send_packets(sock, b"F", body, fds)


def _send_packets(sock: socket.socket, kind: bytes, body: bytes, fds: Sequence[int]) -> None:
    if len(fds) <= _FDS_A_PACKET:
        _send_packet(sock, kind, body, fds)
        return
    # Once begun, a message in several packets must be finished: waits, also on a non-blocking
    # socket. Only a start with hundreds of published ports comes here.
    parts = [fds[at:at + _FDS_A_PACKET] for at in range(0, len(fds), _FDS_A_PACKET)]
    for part in parts[:-1]:
        _send_packet_waiting(sock, b"P", b"", part)
    _send_packet_waiting(sock, kind, body, parts[-1])


def _send_packet_waiting(sock: socket.socket, kind: bytes, body: bytes, fds: Sequence[int]) -> None:
    while True:
        try:
            _send_packet(sock, kind, body, fds)
        except BlockingIOError:
            poller = select.poll()
            poller.register(sock.fileno(), select.POLLOUT)
            poller.poll()
        else:
            return


def _send_packet(sock: socket.socket, kind: bytes, body: bytes, fds: Sequence[int]) -> None:
    if fds:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        sock.sendmsg([kind, body], rights, socket.MSG_NOSIGNAL)
    else:
        sock.sendmsg([kind, body], (), socket.MSG_NOSIGNAL)


def receive_packet(sock: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    """Receive one packet with its control data; (b"", []) at the end.

    A peer that closes with something of ours unread leaves a reset behind, which the kernel
    reports once and ahead of what the peer had sent before: so it is asked again.

    Raises:
        BlockingIOError: a non-blocking socket has no packet.
        DescriptorsLostError: the packet came without descriptors that it had.
    """
    for _ in range(2):
        try:
            packet, ancillary, flags, _ = sock.recvmsg(
                _RECEIVE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            continue
        if flags & socket.MSG_CTRUNC:
            raise DescriptorsLostError(packet[1:], descriptors(ancillary))
        return packet, ancillary
    return b"", []


def descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """Descriptors in a packet's control data."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % _FD_BYTES])
    return list(found)


def receive(sock: socket.socket) -> tuple[bytes, list[int]] | None:
    """Receive one message and its descriptors (close-on-exec), or None when the peer is gone.

    A message in several packets is waited for even on a non-blocking socket: its sender sends the
    packets back to back.

    Raises:
        BlockingIOError: a non-blocking socket has no message.
        DescriptorsLostError: not all of its descriptors came. The message is gone, the connection as good as before.
    """
    fds: list[int] = []
    while True:
        try:
            packet, ancillary = receive_packet(sock)
        except BlockingIOError:
            if not fds:
                raise
            poller = select.poll()
            poller.register(sock.fileno(), select.POLLIN)
            poller.poll()
            continue
        except DescriptorsLostError as error:
            error.fds[:0] = fds
            raise
        fds.extend(descriptors(ancillary))
        if not packet:
            for fd in fds:
                os.close(fd)
            return None
        tag = packet[:1]
        if tag == b"P":
            continue
        if tag == b"M":
            return _read_memfd(fds.pop()), fds
        return packet[1:], fds


def _read_memfd(memfd: int) -> bytes:
    try:
        size_bytes = os.fstat(memfd).st_size
        parts: list[bytes] = []
        offset_bytes = 0
        while offset_bytes < size_bytes:
            part = os.pread(memfd, size_bytes - offset_bytes, offset_bytes)
            parts.append(part)
            offset_bytes += len(part)
        return b"".join(parts)
    finally:
        os.close(memfd)
