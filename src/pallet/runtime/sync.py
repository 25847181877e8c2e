"""The conversation between a shim and the process it starts, over one SOCK_SEQPACKET pair.

Owns   the messages and their order.
Runs   in both.

| step | from | message | meaning |
|---|---|---|---|
| 0 | init | ``U`` | only with a new user namespace: write my id maps; answered by ``M`` |
| 0 | init | ``P`` + pid | the init was born in that namespace under this pid of the host's |
| 1 | init | ``N`` + mount namespace | namespaces exist; only from a container's init |
| 2 | shim | ``G`` | the shim's state is on disk, the cgroup is there: go on |
| 3 | init | ``T`` + terminal's master | only with a terminal |
| 4 | init | ``X`` | everything is set up, the program is executed next |
| 5 | init | ``F`` + JSON, or end of file | failed, or executed: the pair closes on exec |

An end of file without an ``X`` means that the init was killed on its way. One at step 2 tells the
init that its shim is gone: it must not run unowned.
"""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING

import msgspec

from pallet.linux import packets
from pallet.runtime.failure import StartFailureError

if TYPE_CHECKING:
    from collections.abc import Callable

_MESSAGE_BYTES = 60 * 1024


class FailureReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A ``StartFailureError`` on the wire."""

    message: str
    call: str = ""
    code: int = 0
    path: str = ""
    plain: bool = False


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(FailureReport)


class InitSide:
    """The child's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def request_maps(self) -> None:
        """Step 0. A shim that is gone ends this process."""
        self._sock.send(b"U", socket.MSG_NOSIGNAL)
        if self._sock.recv(1) != b"M":
            os._exit(255)

    def send_pid(self, pid: int) -> None:
        """Step 0, from the process between."""
        self._sock.send(b"P" + str(pid).encode(), socket.MSG_NOSIGNAL)

    def send_namespace(self, mount_ns_fd: int) -> None:
        """Step 1."""
        socket.send_fds(self._sock, [b"N"], [mount_ns_fd], socket.MSG_NOSIGNAL)

    def wait_go(self) -> None:
        """Step 2. A shim that is gone ends this process."""
        try:
            message = self._sock.recv(1)
        except ConnectionError:
            message = b""
        if message != b"G":
            os._exit(255)

    def send_terminal(self, master_fd: int) -> None:
        """Step 3."""
        socket.send_fds(self._sock, [b"T"], [master_fd], socket.MSG_NOSIGNAL)

    def executing(self) -> None:
        """Step 4."""
        self._sock.send(b"X", socket.MSG_NOSIGNAL)

    def fail(self, error: BaseException) -> None:
        """Step 5, in words and as data."""
        if isinstance(error, StartFailureError):
            report = FailureReport(message=error.message, call=error.call, code=error.code,
                                   path=error.path, plain=error.plain)
        elif isinstance(error, OSError):
            report = FailureReport(
                message=f"error during container init: {error}".lower(),
                call=getattr(error, "call", ""), code=error.errno or 0,
                path=str(error.filename or ""))
        else:
            report = FailureReport(
                message=f"error during container init: {type(error).__name__}: {error}")
        body = _encoder.encode(report)[: _MESSAGE_BYTES - 1]
        try:
            self._sock.sendmsg([b"F", body], (), socket.MSG_NOSIGNAL)
        except OSError:
            os._exit(255)

    def close(self) -> None:
        """Let go, for a process that stays as it is instead of executing something."""
        self._sock.close()


class ShimSide:
    """The parent's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """For polling."""
        return self._sock.fileno()

    def serve_mapping(self, write_maps: Callable[[], None]) -> int:
        """Step 0: have the maps written; return the init's pid.

        Raises:
            StartFailureError: the process between failed.
        """
        while True:
            data = self._sock.recv(_MESSAGE_BYTES)
            if data == b"U":
                write_maps()
                self._sock.send(b"M", socket.MSG_NOSIGNAL)
            elif data[:1] == b"P":
                return int(data[1:])
            elif data[:1] == b"F":
                report = _decoder.decode(data[1:])
                raise StartFailureError(report.message, call=report.call, code=report.code,
                                        path=report.path, plain=report.plain)
            else:
                message = "error during container init: the user namespace's process died"
                raise StartFailureError(message)

    def go(self) -> None:
        """Step 2; an init that is already gone is found out by ``receive``."""
        try:
            self._sock.send(b"G", socket.MSG_NOSIGNAL)
        except OSError:
            return

    def receive(self) -> tuple[bytes, int, FailureReport | None]:
        """Return one message: its letter (b"" at the end of file), a descriptor or -1, a report."""
        try:
            data, ancillary = packets.receive_packet(self._sock)
        except packets.DescriptorsLostError as error:
            error.close()
            raise
        fd = -1
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(rights)
                fd = fds[0]
        letter = data[:1]
        return letter, fd, _decoder.decode(data[1:]) if letter == b"F" else None

    def close(self) -> None:
        """Close the pair's end."""
        self._sock.close()


def pair() -> tuple[ShimSide, InitSide]:
    """Return both ends; each closes on exec."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ShimSide(ours), InitSide(theirs)
