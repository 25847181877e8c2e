"""The registry's sockets: HTTP/1.1, a thread a connection, blobs by ``sendfile``.

Owns   connections, request bodies and the order of start and stop.
Runs   in the calling thread (``serve``) or a thread of its own (``RegistryServer.start``).
Needs  an address to listen on and a directory.
Spec   RFC 9112 (bodies with a length or chunked, keep-alive).
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from pallet import __version__
from pallet.errors import InvalidParameterError
from pallet.registry.auth import BasicAccess, OpenAccess, TokenAccess, Users
from pallet.registry.codes import RegistryHttpError
from pallet.registry.config import RegistryConfig, StorageConfig
from pallet.registry.gc import Collector
from pallet.registry.messages import FileRange, RegistryRequest, RegistryResponse, Stream
from pallet.registry.routes import Routes
from pallet.registry.store import open_store

if TYPE_CHECKING:
    import io
    from collections.abc import Callable
    from pathlib import Path

    from pallet.registry.auth import AccessControl

logger = logging.getLogger(__name__)

_DRAIN_BYTES = 1 << 20
"""Of a refused request's body that is read to keep the connection."""
_IDLE_S = 120.0


class _Body:
    """A request's body, with a length or chunked."""

    def __init__(self, source: io.BufferedIOBase, length: int | None, *, chunked: bool) -> None:
        self.length = None if chunked else (length or 0)
        self._source = source
        self._left = 0 if chunked else (length or 0)
        self._chunked = chunked
        self.ended = not chunked and not self._left

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, b"" at the end.

        Raises:
            ConnectionError: the client broke off.
        """
        if self._chunked and not self._left and not self.ended:
            self._next_chunk()
        if self.ended:
            return b""
        data = self._source.read(min(size, self._left))
        if not data:
            message = "the client broke off its request"
            raise ConnectionError(message)
        self._left -= len(data)
        if not self._left:
            if self._chunked:
                self._source.readline()
            else:
                self.ended = True
        return data

    def _next_chunk(self) -> None:
        line = self._source.readline(1024)
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError as error:
            message = "malformed chunk"
            raise ConnectionError(message) from error
        if not self._left:
            while self._source.readline(8192) not in {b"\r\n", b"\n", b""}:
                continue
            self.ended = True


class Handler(BaseHTTPRequestHandler):
    """One connection: requests in, replies out."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"
    """What garbage (a TLS handshake) is answered with: clients then know to try plain HTTP."""
    server_version = f"pallet/{__version__}"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: RegistryServer

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = headers.get("content-length", "")
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        if (length and not length.isdigit()) or (length and chunked):
            self.close_connection = True
            self.send_error(400)
            return
        body = _Body(self.rfile, int(length) if length else None,
                     chunked=chunked)
        host = headers.get("host", self.server.authority)
        request = RegistryRequest(
            method=self.command, path=parts.path, query=parts.query, headers=headers, body=body,
            base_url=f"{self.server.scheme}://{host}")
        try:
            response = self.server.routes.handle(request)
        except RegistryHttpError as error:
            response = RegistryResponse(
                status=error.status, body=error.body(),
                headers={"Content-Type": "application/json; charset=utf-8", **error.headers})
        except (ConnectionError, TimeoutError):
            self.close_connection = True
            return
        except OSError as error:
            logger.exception("registry request failed: %s %s", self.command, self.path)
            self.close_connection = True
            self.send_error(507 if error.errno == errno.ENOSPC else 500)
            return
        self._drain(body)
        self.send(response)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815

    def _drain(self, body: _Body) -> None:
        """Read what a refused request still sends; too much of it ends the connection."""
        taken = 0
        with suppress(OSError):
            while not body.ended and taken < _DRAIN_BYTES:
                taken += len(body.read(1 << 16))
        if not body.ended:
            self.close_connection = True

    def send(self, response: RegistryResponse) -> None:
        """Write one reply."""
        body = response.body
        size = len(body) if isinstance(body, bytes) else body.length
        self.send_response(response.status)
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        for name, value in response.headers.items():
            self.send_header(name, value)
        if response.status != 204:
            self.send_header("Content-Length", str(size))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD" or not size:
            self.wfile.flush()
        elif isinstance(body, FileRange):
            self.wfile.flush()
            with body.path.open("rb") as file:
                self.connection.sendfile(file, body.offset, body.length)
        elif isinstance(body, Stream):
            try:
                for chunk in body.chunks:
                    self.wfile.write(chunk)
                self.wfile.flush()
            finally:
                body.close()
        else:
            self.wfile.write(body)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """One line a request, at debug level."""
        text = (format % args).encode("ascii", "backslashreplace").decode()
        logger.debug("%s %s", self.address_string(), text)


class RegistryServer(ThreadingMixIn, TCPServer):
    """A listening registry.

    Args:
        address: ``(host, port)``; port 0 takes a free one.
        root: where content is kept; made if it is not there.
        config: storage, database, collection; None is everything below ``root``.
        tls: certificate and key files.
    """

    handler_class: type[Handler] = Handler
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], root: Path, *, access: AccessControl | None = None,
        allow_delete: bool = True, tls: tuple[Path, Path] | None = None,
        config: RegistryConfig | None = None,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.store = open_store(config or RegistryConfig(storage=StorageConfig(root=str(root))))
        self.routes = Routes(self.store, access or OpenAccess(), allow_delete=allow_delete)
        self._collector = Collector(self.store)
        self.scheme = "https" if tls else "http"
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        super().__init__(address, self.handler_class)
        self._tls: ssl.SSLContext | None = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*tls)

    @property
    def authority(self) -> str:
        """``host:port`` it listens on."""
        host, port = cast("tuple[str, int]", self.socket.getsockname()[:2])
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Hand a connection to a thread; the TLS handshake happens there."""
        assert isinstance(request, socket.socket)
        request.settimeout(_IDLE_S)
        if self._tls is not None:
            request = self._tls.wrap_socket(request, server_side=True,
                                            do_handshake_on_connect=False)
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Close a connection."""
        assert isinstance(request, socket.socket)
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error; anything else is logged."""
        error = sys.exception()
        level = logging.DEBUG if isinstance(error, (ConnectionError, TimeoutError, ssl.SSLError)) \
            else logging.ERROR
        logger.log(level, "registry connection from %s: %s", client_address, error,
                   exc_info=error if level == logging.ERROR else None)

    def start(self) -> None:
        """Serve in a thread of its own until ``stop``."""
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,),
                                        name="pallet-registry", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, close every connection. Uploads stay, for another replica or a restart."""
        if self._thread is not None:
            self.shutdown()
            self._thread.join()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        self._collector.stop()
        self.store.close()


def serve(
    address: str, root: Path, *, users_file: Path | None = None, tokens: bool = False,
    anonymous_pull: bool = False, allow_delete: bool = True,
    tls_cert: Path | None = None, tls_key: Path | None = None,
    config: RegistryConfig | None = None, ready: Callable[[str], None] | None = None,
) -> None:
    """Run a registry in the foreground until interrupted (KeyboardInterrupt or SystemExit).

    Args:
        address: ``host:port``, ``:port`` or ``[v6]:port``.
        root: where content is kept.
        config: storage, database, collection; None is everything below ``root``.
        users_file: lines ``name:hash`` (``auth.hash_password``); None is open to everybody.
        tokens: bearer tokens from this server's own ``/token`` instead of basic authentication.
        ready: called with ``host:port`` once it listens.

    Raises:
        InvalidParameterError: contradictory arguments or a malformed users file.
        OSError: the address cannot be listened on.
    """
    access = _access(users_file, tokens=tokens, anonymous_pull=anonymous_pull)
    if (tls_cert is None) != (tls_key is None):
        message = "a TLS certificate needs its key"
        raise InvalidParameterError(message)
    tls = (tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None
    server = RegistryServer(parse_address(address), root, access=access,
                            allow_delete=allow_delete, tls=tls, config=config)
    if ready is not None:
        ready(server.authority)
    try:
        server.serve_forever(0.2)
    finally:
        server.stop()


def parse_address(text: str) -> tuple[str, int]:
    """Split ``host:port``; an empty host is every IPv4 address.

    Raises:
        InvalidParameterError: no port, or not a number.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        message = f"invalid address {text!r}: want HOST:PORT"
        raise InvalidParameterError(message)
    return host.strip("[]") or "0.0.0.0", int(port)


def _access(users_file: Path | None, *, tokens: bool, anonymous_pull: bool) -> AccessControl:
    if users_file is None:
        if tokens or anonymous_pull:
            message = "tokens and anonymous pulls need a users file"
            raise InvalidParameterError(message)
        return OpenAccess()
    users = Users.read(users_file)
    if tokens:
        return TokenAccess(users, anonymous_pull=anonymous_pull)
    return BasicAccess(users, anonymous_pull=anonymous_pull)
