"""HTTP to registries: pooled connections, proxies, TLS, redirects, cancellation.

Owns   urllib3 and everything that touches a socket in this package.
Runs   in transfer threads; one ``Transport`` serves all of them.
Needs  the network; reads ``certs.d`` on first contact with a host.
Spec   RFC 9110 redirects; Authorization is dropped when a redirect leaves the host.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urljoin, urlsplit

import urllib3
import urllib3.exceptions as u3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import BaseHTTPResponse, HTTPResponse

from pallet import __version__
from pallet.transfer import cancellation, tls
from pallet.transfer.failures import BadContentError, from_exception
from pallet.transfer.proxies import ProxySettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CHUNK_BYTES = 1 << 20
USER_AGENT = f"pallet/{__version__}"
_MAX_REDIRECTS = 10
_MAX_DOCUMENT_BYTES = 8 << 20
_MAX_DRAIN_BYTES = 64 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONNECT_TIMEOUT_S = 30.0
_READ_TIMEOUT_S = 60.0
_BLOCK_BYTES = 256 << 10

class BodyFile(Protocol):
    """A request body that is read while it is sent, and again after a redirect or a challenge."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, b"" at the end."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to ``offset``."""
        ...

    def tell(self) -> int:
        """Return the position."""
        ...


Body = bytes | BodyFile | None


@contextmanager
def _shut_on_cancel(connection: HTTPConnection) -> Iterator[None]:
    """While a request is sent or its answer awaited, cancelling ends that. Making a connection is not interrupted."""
    cancel = cancellation.current()
    if cancel is None:
        yield
        return

    def shut() -> None:
        if isinstance(connection.sock, socket.socket):
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)  # below TLS, which another thread is reading

    cancel.add(shut)
    try:
        yield
    finally:
        cancel.discard(shut)


class _Cancelled:
    """What a connection of either kind does under ``_shut_on_cancel``."""

    def request(self, *args: Any, **options: Any) -> None:
        with _shut_on_cancel(cast("HTTPConnection", self)):
            super().request(*args, **options)  # type: ignore[misc]  # the connection's

    def getresponse(self) -> HTTPResponse:
        with _shut_on_cancel(cast("HTTPConnection", self)):
            return super().getresponse()  # type: ignore[misc,no-any-return]


class _Connection(_Cancelled, HTTPConnection):  # type: ignore[misc]  # as urllib3 itself has it
    pass


class _TlsConnection(_Cancelled, HTTPSConnection):  # type: ignore[misc]
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _InsecureConnection(_TlsConnection):
    def connect(self) -> None:
        super().connect()
        # The registry was listed as insecure: a warning on every connection tells nobody anything.
        self.is_verified = True


class _InsecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _InsecureConnection


class Transport:
    """Sends requests. Thread-safe; keeps connections open between requests until ``close``."""

    def __init__(
        self, *, proxies: ProxySettings | None = None,
        certificates: tuple[Path, ...] = tls.CERTIFICATE_DIRECTORIES,
        connect_timeout_s: float = _CONNECT_TIMEOUT_S, read_timeout_s: float = _READ_TIMEOUT_S,
        max_connections: int = 16, guarded: bool = False,
    ) -> None:
        """``guarded`` refuses redirects from public addresses to private ones and the host's own: see ``reach``."""
        self._guarded = guarded
        self._proxies = proxies or ProxySettings()
        self._certificates = certificates
        self._timeout = urllib3.Timeout(connect=connect_timeout_s, read=read_timeout_s)
        self._max_connections = max_connections
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, str, bool], urllib3.PoolManager] = {}

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: Body = None,
        insecure: bool = False,
    ) -> HTTPResponse:
        """Send one request and return the reply, its body unread, after following redirects.

        The caller reads the body and calls ``finish`` (or ``abandon``). A file body is sent from
        where it stands and must allow seeking back there for a redirect.

        Args:
            insecure: accept any certificate.

        Raises:
            UnreachableError: no reply.
            BadContentError: too many or broken redirects.
        """
        current, sent = url, dict(headers)
        start = body.tell() if body is not None and not isinstance(body, bytes) else 0
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._send(method, current, sent, body, insecure=insecure)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return response
            finish(response)
            target = urljoin(current, location)
            if urlsplit(target).scheme not in {"http", "https"}:
                message = f"unsupported redirect target {target!r}"
                raise BadContentError(message)
            if self._guarded and reach(target) < reach(current):
                message = f"a redirect from {_authority(current)} to {_authority(target)}, which is less public"
                raise BadContentError(message)
            if _origin(target) != _origin(current):
                sent = {name: value for name, value in sent.items()
                        if name.lower() not in {"authorization", "cookie"}}
            if response.status == 303 and method != "HEAD":
                method, body = "GET", None
            if body is not None and not isinstance(body, bytes):
                body.seek(start)
            current = target
        message = f"stopped after {_MAX_REDIRECTS} redirects"
        raise BadContentError(message)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: Body, *, insecure: bool
    ) -> HTTPResponse:
        pool = self._pool(url, insecure=insecure)
        again = body is None and method in {"GET", "HEAD"}
        while True:
            try:
                response = pool.request(
                    method, url, headers={"User-Agent": USER_AGENT, **headers},
                    body=cast("bytes | IO[bytes] | None", body), timeout=self._timeout,
                    retries=False, redirect=False, preload_content=False, decode_content=False)
            except u3.ProtocolError as error:
                # A pooled connection the server had closed meanwhile: once more on a new one.
                cancel = cancellation.current()
                if again and _never_answered(error) and not (cancel and cancel.cancelled):
                    again = False
                    continue
                raise from_exception(method, url, error) from error
            except (u3.HTTPError, OSError) as error:
                raise from_exception(method, url, error) from error
            assert isinstance(response, HTTPResponse)
            return response

    def _pool(self, url: str, *, insecure: bool) -> urllib3.PoolManager:
        parts = urlsplit(url)
        authority = parts.netloc.rpartition("@")[2]
        proxy = self._proxies.for_url(url) or ""
        key = (authority if parts.scheme == "https" else "", proxy, insecure)
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = self._new_pool(parts.scheme, authority, proxy,
                                                         insecure=insecure)
            return pool

    def _new_pool(
        self, scheme: str, authority: str, proxy: str, *, insecure: bool
    ) -> urllib3.PoolManager:
        context = None
        if scheme == "https":
            context = tls.context_for(authority, insecure=insecure, directories=self._certificates)
        size = self._max_connections
        pool: urllib3.PoolManager
        if proxy:
            pool = urllib3.ProxyManager(proxy, maxsize=size, ssl_context=context,
                                        proxy_headers=_proxy_headers(proxy), blocksize=_BLOCK_BYTES)
        else:
            pool = urllib3.PoolManager(maxsize=size, ssl_context=context, blocksize=_BLOCK_BYTES)
        pool.pool_classes_by_scheme = {"http": _Pool, "https": _InsecurePool if insecure else _TlsPool}
        return pool

    def close(self) -> None:
        """Close every idle connection."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.clear()


def reach(url: str) -> int:
    """How public a URL's host is: 2 anybody's, 1 private, 0 this host and its link (metadata services).

    The least public of its addresses counts; a name that is not known here (a proxy may know it) is public.
    """
    host = urlsplit(url).hostname or ""
    try:
        found = {str(item[4][0]).partition("%")[0] for item in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return 2
    return min((_reach_of(ipaddress.ip_address(text)) for text in found), default=2)


def _reach_of(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        return 0
    return 1 if address.is_private else 2


def _authority(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def finish(response: BaseHTTPResponse) -> None:
    """Read what is left of a small body and give the connection back; end it after a long one."""
    left = _MAX_DRAIN_BYTES
    try:
        while piece := response.read(_MAX_DRAIN_BYTES, decode_content=False):
            left -= len(piece)
            if left < 0:
                response.close()
                return
    except (u3.HTTPError, OSError):
        response.close()  # whatever it was, nobody wanted it
        return
    response.release_conn()


def abandon(response: HTTPResponse) -> None:
    """Close a reply whose body is not wanted, and its connection."""
    response.close()


def read_document(response: HTTPResponse, *, limit: int = _MAX_DOCUMENT_BYTES) -> bytes:
    """Read a small body whole and release the connection.

    Raises:
        BadContentError: it is larger than ``limit``.
        UnreachableError: the transfer broke.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        while piece := response.read(CHUNK_BYTES, decode_content=False):
            size += len(piece)
            if size > limit:
                abandon(response)
                message = f"reply is larger than {limit} bytes"
                raise BadContentError(message)
            pieces.append(piece)
    except (u3.HTTPError, OSError) as error:
        abandon(response)
        raise from_exception("GET", response.url or "", error) from error
    response.release_conn()
    return b"".join(pieces)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname or "", parts.port or default


def _never_answered(error: u3.ProtocolError) -> bool:
    names = {type(arg).__name__ for arg in error.args}
    return bool(names & {"RemoteDisconnected", "ConnectionResetError", "BrokenPipeError"})


def _proxy_headers(proxy: str) -> Mapping[str, str] | None:
    auth = urlsplit(proxy).netloc.rpartition("@")[0]
    return urllib3.make_headers(proxy_basic_auth=auth) if auth else None
