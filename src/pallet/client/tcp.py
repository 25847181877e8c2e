"""``tcp://`` with and without TLS. Loaded only for such an address: ``ssl`` costs 20 ms."""

from __future__ import annotations

import socket

from pallet.client.errors import ConnectionFailedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

    from pallet.client.endpoint import Endpoint, TlsFiles

_CONNECT_TIMEOUT_S = 30


class TcpTransport:
    """A plain or encrypted TCP stream."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected ``sock``; an ``SSLSocket`` is told apart by its methods."""
        self._socket = sock

    def recv(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""
        return self._socket.recv(size)

    def sendall(self, data: bytes, /) -> None:
        """Send all of ``data``."""
        self._socket.sendall(data)

    def close_write(self) -> None:
        """Half-close; TLS sends close_notify only, so that the other direction stays open."""
        try:
            if hasattr(self._socket, "pending"):
                socket.socket.shutdown(self._socket, socket.SHUT_WR)
            else:
                self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def pending(self) -> bool:
        """Return whether decrypted bytes wait in the TLS layer."""
        pending = getattr(self._socket, "pending", None)
        return bool(pending and pending())


def connect_tcp(endpoint: Endpoint) -> TcpTransport:
    """Connect to a ``tcp://``, ``http://`` or ``https://`` endpoint.

    Raises:
        ConnectionFailedError: no route, refused, or the TLS handshake failed.
    """
    address = endpoint.address.split("/")[0]
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        sock = socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S)
    except ValueError:
        message = f"invalid port in {endpoint.url}"
        raise ConnectionFailedError(message) from None
    except OSError as error:
        message = (f"Cannot connect to the Docker daemon at {endpoint.url}. "
                   "Is the docker daemon running?")
        raise ConnectionFailedError(message, error.errno) from None
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if endpoint.tls is None and endpoint.scheme != "https":
        return TcpTransport(sock)
    try:
        return TcpTransport(_context(endpoint.tls).wrap_socket(sock, server_hostname=host))
    except OSError as error:
        sock.close()
        message = f"error during connect: {endpoint.url}: {error}"
        raise ConnectionFailedError(message) from None


def _context(files: TlsFiles | None) -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context(cafile=files.ca if files else None)
    if files is None:
        return context
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if files.cert and files.key:
        context.load_cert_chain(files.cert, files.key)
    return context
