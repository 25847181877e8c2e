"""Opens the sockets the API listens on.

Owns   the ``-H`` syntax, the unix socket's mode, group and removal, the rule that plain TCP stays
       on loopback, and the TLS context.
Runs   at start, before the daemon has threads (binding sets the umask for a moment).
Spec   dockerd ``--host``; issue: 0660 root:docker, plain TCP only on loopback unless forced.
"""

from __future__ import annotations

import contextlib
import grp
import ipaddress
import logging
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pallet.daemon import systemd
from pallet.errors import InvalidParameterError, SystemFailureError
from pallet.http.server import BACKLOG

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from pallet.config import Config, TlsConfig

logger = logging.getLogger(__name__)

DEFAULT_GROUP: Final = "docker"
_PORT: Final = 2375
_TLS_PORT: Final = 2376


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A bound socket; ``path`` and ``inode`` are those of a unix socket we made."""

    url: str
    sock: socket.socket
    tls: ssl.SSLContext | None = None
    path: Path | None = None
    inode: int = 0

    def remove(self) -> None:
        """Delete the unix socket's file unless another daemon has put its own there."""
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                if self.path.lstat().st_ino == self.inode:
                    self.path.unlink()


def parse_host(text: str, *, tls: bool) -> tuple[str, str, int]:
    """Split a ``-H`` value into scheme (unix, tcp or fd), address and port.

    Raises:
        InvalidParameterError: "Invalid bind address format: …".
    """
    text = text.strip()
    scheme, separator, address = text.partition("://")
    if not separator:
        scheme, address = "tcp", text
    if scheme in ("unix", "fd"):
        if scheme == "unix" and not address:
            _bad_host(text)
        return scheme, address, 0
    if scheme != "tcp" or not text:
        _bad_host(text)
    default = _TLS_PORT if tls else _PORT
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            _bad_host(text)
        port = rest[1:]
    else:
        host, _, port = address.rpartition(":") if ":" in address else (address, "", "")
        if ":" in host or "/" in host or "/" in port:
            _bad_host(text)
    if port and not (port.isdigit() and int(port) < 65536):
        _bad_host(text)
    return "tcp", host or "127.0.0.1", int(port) if port else default


def _bad_host(text: str) -> None:
    msg = f"Invalid bind address format: {text}"
    raise InvalidParameterError(msg)


def open_all(config: Config, *, allow_plain_tcp: bool) -> list[Listener]:
    """Bind every host of the configuration; on failure close what was opened.

    Raises:
        InvalidParameterError: a host cannot be understood, or would be open to everyone.
        SystemFailureError: a socket cannot be bound.
    """
    context = tls_context(config.tls) if config.tls else None
    parsed = [(url, *parse_host(url, tls=context is not None)) for url in config.hosts]
    activated = systemd.take_listeners() if any(scheme == "fd" for _, scheme, *_ in parsed) else []
    opened: list[Listener] = []
    try:
        for url, scheme, address, port in parsed:
            if scheme == "unix":
                opened.append(_open_unix(url, Path(address), config.group))
            elif scheme == "fd":
                opened += _pick_activated(url, address, activated, context)
            else:
                opened += _open_tcp(url, address, port, context, allow_plain=allow_plain_tcp)
    except BaseException:
        close_all(opened)
        raise
    return opened


def close_all(listeners: Sequence[Listener]) -> None:
    """Close the sockets and delete the unix ones."""
    for listener in listeners:
        listener.sock.close()
        listener.remove()


def _open_unix(url: str, path: Path, group: str) -> Listener:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _clear_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    umask = os.umask(0o117)  # never, not for a moment, open to others
    try:
        sock.bind(os.fspath(path))
    except OSError as error:
        sock.close()
        msg = f"can't create unix socket {path}: {str(error.strerror or error).lower()}"
        raise SystemFailureError(msg) from error
    finally:
        os.umask(umask)
    try:
        _give_to_group(path, group)
    except BaseException:
        sock.close()
        path.unlink()
        raise
    sock.listen(BACKLOG)
    return Listener(url=url, sock=sock, path=path, inode=path.lstat().st_ino)


def _clear_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; refuse anything else that is in the way."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        msg = f"can't create unix socket {path}: a file that is no socket is in the way"
        raise SystemFailureError(msg)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            pass  # a full queue: somebody is there
        except OSError:
            path.unlink(missing_ok=True)
            return
    msg = f"can't create unix socket {path}: another daemon listens on it"
    raise SystemFailureError(msg)


def _give_to_group(path: Path, group: str) -> None:
    if not group:
        return
    try:
        gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        if group != DEFAULT_GROUP:
            msg = f"group {group} not found"
            raise InvalidParameterError(msg) from None
        logger.info("could not change group of %s: group %s not found", path, group)
        return
    if gid != os.getegid():
        os.chown(path, -1, gid)


def _pick_activated(
    url: str, wanted: str, activated: Sequence[tuple[str, socket.socket]],
    context: ssl.SSLContext | None,
) -> list[Listener]:
    """Choose systemd's sockets: all for ``fd://``, else by name or number."""
    if not activated:
        msg = "no sockets found via socket activation: make sure the service was started by systemd"
        raise SystemFailureError(msg)
    chosen = [
        sock for number, (name, sock) in enumerate(activated, 3)
        if wanted in ("", "*", name, str(number))
    ]
    if not chosen:
        msg = f"failed to find activated socket {wanted}"
        raise SystemFailureError(msg)
    return [
        Listener(url=url, sock=sock, tls=None if sock.family == socket.AF_UNIX else context)
        for sock in chosen
    ]


def _open_tcp(
    url: str, host: str, port: int, context: ssl.SSLContext | None, *, allow_plain: bool
) -> list[Listener]:
    try:
        resolved = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        msg = f"lookup {host}: {error.strerror}"
        raise InvalidParameterError(msg) from error
    addresses = list(dict.fromkeys(
        (family, (str(address[0]), port)) for family, _, _, _, address in resolved))
    if context is None:
        for _, address in addresses:
            if ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
                continue
            if not allow_plain:
                msg = (f"{url}: whoever reaches this address without TLS becomes root on this "
                       "host: use --tlsverify, or insist with --allow-plain-tcp")
                raise InvalidParameterError(msg)
            logger.warning("[!] DON'T BIND ON ANY IP ADDRESS WITHOUT setting --tlsverify "
                           "IF YOU DON'T KNOW WHAT YOU'RE DOING [!] (%s)", url)
    opened: list[Listener] = []
    for family, address in addresses:
        try:
            opened.append(Listener(
                url=url, sock=_bind_tcp(family, address), tls=context))
        except OSError as error:
            if opened:
                continue  # "localhost" on a host without IPv6: one address is enough
            msg = f"listen tcp {host}:{port}: bind: {str(error.strerror or error).lower()}"
            raise SystemFailureError(msg) from error
    return opened


def _bind_tcp(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def tls_context(config: TlsConfig) -> ssl.SSLContext:
    """Load the certificates.

    Raises:
        InvalidParameterError: a file is missing or is not what it should be.
    """
    import ssl  # costs 10 ms that a unix socket need not pay

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.cert, config.key)
    except (OSError, ssl.SSLError) as error:
        msg = (f'Could not load X509 key pair (cert: "{config.cert}", key: "{config.key}"): '
               f"{error}")
        raise InvalidParameterError(msg) from error
    if config.verify:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(config.ca_cert)
        except (OSError, ssl.SSLError) as error:
            msg = f"could not read CA certificate {config.ca_cert}: {error}"
            raise InvalidParameterError(msg) from error
    return context
