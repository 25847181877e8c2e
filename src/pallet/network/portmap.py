"""Published ports: reading the bindings, choosing host ports, reserving them with sockets.

Owns   which host address and port belongs to which container.
Runs   on the daemon's loop; a reservation is a few system calls.
Needs  nothing but the host's network namespace.
Spec   Engine API PortMap; libnetwork portallocator and portmapper; docker/go-connections nat.

The reservation of a port is a listening TCP socket or a bound UDP socket, so the kernel itself
keeps other programs away. The shim holds it for the container's life; what the firewall's NAT does
not carry (IPv6 to an IPv4 container, traffic from containers) arrives there.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError, SystemFailureError
from pallet.linux import sockfilter
from pallet.network.model import Listener, PublishedPort

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from pallet.spec.engine.network import PortBinding

EPHEMERAL_RANGE_FILE = "/proc/sys/net/ipv4/ip_local_port_range"
_EPHEMERAL_DEFAULT = (49153, 65535)
_FOREIGN_ATTEMPTS = 10
"""How often another port of a range is tried when some other program holds the chosen one."""
_BACKLOG = 4096
_SOCKET_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One binding as asked for: host addresses that share one host port out of a range."""

    proto: str
    container_port: int
    host_ips: tuple[str, ...]
    first: int
    last: int
    """Range of host ports; both 0 is any ephemeral one."""


def parse_port(text: str) -> tuple[int, str]:
    """Read ``80/tcp`` (``80`` is tcp).

    Raises:
        InvalidParameterError: not a port, or a protocol we do not publish.
    """
    port, _, proto = text.partition("/")
    proto = proto.lower() or "tcp"
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        message = f"invalid port specification: {text!r}"
        raise InvalidParameterError(message)
    if proto not in {"tcp", "udp", "sctp"}:
        message = f"invalid port specification: {text!r}: unknown protocol {proto}"
        raise InvalidParameterError(message)
    return int(port), proto


def parse_host_port(text: str) -> tuple[int, int]:
    """Read ``""``, ``0``, ``8080`` or ``8000-8010`` as a range; ``(0, 0)`` is an ephemeral port.

    Raises:
        InvalidParameterError: ``invalid port specification``.
    """
    start, dash, end = text.partition("-")
    try:
        first = _port_number(start) if start else 0
        last = _port_number(end) if dash else first
    except ValueError as error:
        message = f"invalid port specification: {text!r}"
        raise InvalidParameterError(message) from error
    if last < first or (dash and not first):
        message = f"invalid port specification: {text!r}"
        raise InvalidParameterError(message)
    return first, last


def _port_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError(text)
    return int(text)


def wanted_ports(
    bindings: Mapping[str, Sequence[PortBinding] | None], *, exposed: Collection[str],
    publish_all: bool, default_ip: str, ipv6_host: bool,
) -> list[Wanted]:
    """Turn PortBindings and ``-P`` into what has to be reserved, in the order of ports.

    Args:
        bindings: as the API has them; an empty list publishes on an ephemeral port.
        exposed: ``80/tcp`` forms.
        publish_all: publish every exposed port that has no binding.
        default_ip: what an empty HostIp means; ``0.0.0.0`` stands for ``::`` as well.
        ipv6_host: the host has IPv6.

    Raises:
        InvalidParameterError: a port or address cannot be read.
    """
    requests: list[tuple[int, str, str, str]] = []
    for key, hosts in bindings.items():
        port, proto = parse_port(key)
        # Go's nil and empty both mean "publish, any port" once the key is there.
        requests += [(port, proto, host.host_ip, host.host_port) for host in hosts or ()]
        if not hosts:
            requests.append((port, proto, "", ""))
    if publish_all:
        bound = {parse_port(key) for key in bindings}
        requests += [(*parse_port(key), "", "") for key in exposed if parse_port(key) not in bound]
    found = []
    for port, proto, host_ip, host_port in sorted(requests, key=lambda item: item[:2]):
        if proto == "sctp":
            message = "publishing SCTP ports is not supported"
            raise InvalidParameterError(message)
        first, last = parse_host_port(host_port)
        addresses = _host_addresses(host_ip, default_ip, ipv6_host=ipv6_host)
        found.append(Wanted(proto, port, addresses, first, last))
    return found


def _host_addresses(host_ip: str, default_ip: str, *, ipv6_host: bool) -> tuple[str, ...]:
    if not host_ip:
        if default_ip in {"", "0.0.0.0"}:
            return ("0.0.0.0", "::") if ipv6_host else ("0.0.0.0",)
        host_ip = default_ip
    try:
        return (str(ipaddress.ip_address(host_ip.strip("[]"))),)
    except ValueError as error:
        message = f"invalid IP address in port binding: {host_ip}"
        raise InvalidParameterError(message) from error


class PortAllocator:
    """Host ports in use by this daemon's containers, and the sockets for new ones."""

    def __init__(self, *, userland_proxy: bool = True) -> None:
        self._userland_proxy = userland_proxy
        self._taken: dict[tuple[str, int], dict[str, str]] = {}
        """(protocol, host port) to host address to container id."""
        self._next_ephemeral = 0

    def adopt(self, container_id: str, ports: Iterable[PublishedPort]) -> None:
        """Note ports that a living container's shim already holds."""
        for port in ports:
            self._note(container_id, port)

    def reserve(
        self, container_id: str, wanted: Iterable[Wanted], *, ip: str, ip6: str,
    ) -> tuple[list[PublishedPort], list[Listener]]:
        """Bind sockets for all of ``wanted``, or for none.

        Args:
            container_id: the owner.
            wanted: from ``wanted_ports``.
            ip: the container's IPv4 address.
            ip6: its IPv6 address, empty if it has none: IPv6 bindings then lead to ``ip``.

        Returns:
            Ports in order and their sockets; the caller closes the sockets.

        Raises:
            SystemFailureError: ``Bind for 0.0.0.0:80 failed: port is already allocated``, or
                ``listen tcp4 0.0.0.0:80: bind: address already in use`` for a foreign program's.
        """
        ports: list[PublishedPort] = []
        listeners: list[Listener] = []
        try:
            for one in wanted:
                for port, sock in self._reserve_one(container_id, one, ip, ip6):
                    ports.append(port)
                    if not self._userland_proxy:
                        sockfilter.drop_all(sock)
                    listeners.append(Listener(
                        sock.detach(), port.proto, port.target_ip, port.container_port))
        except BaseException:
            for listener in listeners:
                socket.close(listener.fd)
            self.release(container_id, ports)
            raise
        return ports, listeners

    def release(self, container_id: str, ports: Iterable[PublishedPort]) -> None:
        """Give ports back; those of another container stay."""
        for port in ports:
            hosts = self._taken.get((port.proto, port.host_port), {})
            if hosts.get(port.host_ip) == container_id:
                del hosts[port.host_ip]
                if not hosts:
                    self._taken.pop((port.proto, port.host_port), None)

    def _note(self, container_id: str, port: PublishedPort) -> None:
        hosts = self._taken.setdefault((port.proto, port.host_port), {})
        hosts[port.host_ip] = container_id

    def _reserve_one(
        self, container_id: str, wanted: Wanted, ip: str, ip6: str,
    ) -> list[tuple[PublishedPort, socket.socket]]:
        ephemeral = not wanted.first
        first, last = ephemeral_range() if ephemeral else (wanted.first, wanted.last)
        foreign: SystemFailureError | None = None
        attempts = 0
        for port in self._candidates(first, last, ephemeral=ephemeral):
            if any(self._is_taken(wanted.proto, host, port) for host in wanted.host_ips):
                continue
            try:
                sockets = _bind_all(wanted.proto, wanted.host_ips, port)
            except SystemFailureError as error:
                foreign = error
                attempts += 1
                if attempts >= _FOREIGN_ATTEMPTS and not ephemeral:
                    break
                continue
            if ephemeral:
                self._next_ephemeral = port + 1
            found = []
            for host, sock in zip(wanted.host_ips, sockets, strict=True):
                target = ip6 if ip6 and ":" in host else ip
                published = PublishedPort(
                    proto=wanted.proto, container_port=wanted.container_port, host_ip=host,
                    host_port=port, target_ip=target)
                self._note(container_id, published)
                found.append((published, sock))
            return found
        if foreign is not None:
            raise foreign
        if first == last:
            where = _pair(wanted.host_ips[0], first)
            raise SystemFailureError(f"Bind for {where} failed: port is already allocated")
        raise SystemFailureError("all ports are allocated")

    def _candidates(self, first: int, last: int, *, ephemeral: bool) -> Iterator[int]:
        start = first
        if ephemeral and first < self._next_ephemeral <= last:
            start = self._next_ephemeral
        yield from range(start, last + 1)
        yield from range(first, start)

    def _is_taken(self, proto: str, host_ip: str, port: int) -> bool:
        hosts = self._taken.get((proto, port))
        if not hosts:
            return False
        if host_ip in {"0.0.0.0", "::"}:
            return any((":" in other) == (":" in host_ip) for other in hosts)
        return host_ip in hosts or ("::" if ":" in host_ip else "0.0.0.0") in hosts


def ephemeral_range() -> tuple[int, int]:
    """Return the host's range of ephemeral ports, both ends included."""
    try:
        first, last = Path(EPHEMERAL_RANGE_FILE).read_text(encoding="ascii").split()
        return int(first), int(last)
    except (OSError, ValueError):
        return _EPHEMERAL_DEFAULT


def _pair(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind_all(proto: str, hosts: Sequence[str], port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            sockets.append(_bind(proto, host, port))  # noqa: PERF401 - closed on failure
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind(proto: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, _SOCKET_TYPES[proto] | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if proto == "tcp":
            # Connections of an earlier container in TIME_WAIT do not keep the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        if proto == "tcp":
            sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        version = 6 if family == socket.AF_INET6 else 4
        reason = {
            errno.EADDRINUSE: "address already in use",
            errno.EADDRNOTAVAIL: "cannot assign requested address",
            errno.EACCES: "permission denied",
        }.get(error.errno or 0, (error.strerror or str(error)).lower())
        message = f"listen {proto}{version} {_pair(host, port)}: bind: {reason}"
        raise SystemFailureError(message) from error
    return sock
