"""Byte streams to a daemon: the interface, and the one for unix sockets.

Owns   connecting. ``tcp://`` with or without TLS is in ``tcp.py`` and ``ssh://`` in ``ssh.py``,
       which load ``socket``, ``ssl`` and ``subprocess``; a unix socket needs ``_socket`` alone.
"""

from __future__ import annotations

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Transport(Protocol):
        """A connected, blocking byte stream with half-close."""

        def recv(self, size: int, /) -> bytes:
            """Return up to ``size`` bytes, ``b""`` at the end."""

        def sendall(self, data: bytes, /) -> None:
            """Send all of ``data``."""

        def close_write(self) -> None:
            """Tell the peer that nothing more comes; reading goes on."""

        def close(self) -> None:
            """Close both ways; harmless when repeated."""

        def fileno(self) -> int:
            """Return the descriptor to poll for reading."""

        def pending(self) -> bool:
            """Return whether bytes are buffered that polling ``fileno`` does not show."""


class UnixTransport:
    """A stream over an ``AF_UNIX`` socket."""

    __slots__ = ("_socket", "fileno", "recv", "sendall")

    def __init__(self, path: str) -> None:
        """Connect to ``path``; a leading ``@`` names an abstract socket.

        Raises:
            OSError: as connect(2) does.
        """
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
        except BaseException:
            self._socket.close()
            raise
        self.recv = self._socket.recv
        self.sendall = self._socket.sendall
        self.fileno = self._socket.fileno

    def close_write(self) -> None:
        """Half-close; a peer that is already gone is no error."""
        try:
            self._socket.shutdown(_socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def pending(self) -> bool:
        """Return False: the kernel holds everything."""
        return False
