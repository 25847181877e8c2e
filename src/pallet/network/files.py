"""The text of a container's ``/etc/hosts``, ``/etc/resolv.conf`` and ``/etc/hostname``.

Owns   pure functions; the engine reads the host's file and writes the results.
Runs   anywhere.
Spec   libnetwork's etchosts and resolvconf; resolv.conf(5), hosts(5).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST_RESOLV_CONF = "/etc/resolv.conf"
SYSTEMD_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
"""Lists the real servers where the host's own file only names the local stub."""
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
FALLBACK_SERVERS_IPV6 = ("2001:4860:4860::8888", "2001:4860:4860::8844")
HOST_GATEWAY = "host-gateway"

_HOSTS_HEAD = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_HOSTS_HEAD_IPV4 = "127.0.0.1\tlocalhost\n"


def hosts_file(
    *, hostname: str, domainname: str = "", addresses: Sequence[str] = (),
    extra_hosts: Sequence[str] = (), host_gateway: str = "", ipv6: bool = True,
) -> str:
    """Return ``/etc/hosts``.

    Args:
        hostname: the container's; may hold a domain of its own.
        domainname: appended to it with a dot.
        addresses: the container's own addresses; one line each.
        extra_hosts: ``name:address`` or ``name=address``; IPv6 addresses may be in brackets.
        host_gateway: what ``host-gateway`` stands for.
        ipv6: the container has IPv6 at least on its loopback.

    Raises:
        InvalidParameterError: an extra host cannot be read, or there is no host gateway.
    """
    head = _HOSTS_HEAD if ipv6 else _HOSTS_HEAD_IPV4
    names = hostname
    if domainname:
        names = f"{hostname}.{domainname} {hostname}"
    elif "." in hostname:
        names = f"{hostname} {hostname.partition('.')[0]}"
    own = "".join(f"{address}\t{names}\n" for address in addresses if address)
    return head + _extra_lines(extra_hosts, host_gateway) + own


def step_hosts_file(*, hostname: str, extra_hosts: Sequence[str] = (), host_gateway: str = "") -> str:
    """Return ``/etc/hosts`` of a build's command, as BuildKit has it: the same in whatever network it runs.

    Raises:
        InvalidParameterError: as ``hosts_file``.
    """
    return (f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
            + _extra_lines(extra_hosts, host_gateway))


def _extra_lines(extra_hosts: Sequence[str], host_gateway: str) -> str:
    lines = []
    for extra in extra_hosts:
        name, address = split_extra_host(extra)
        if address == HOST_GATEWAY:
            if not host_gateway:
                raise InvalidParameterError(
                    "unable to derive the IP value for host-gateway")
            address = host_gateway
        lines.append(f"{address}\t{name}\n")
    return "".join(lines)


def split_extra_host(text: str) -> tuple[str, str]:
    """Read one of HostConfig.ExtraHosts as name and address.

    Raises:
        InvalidParameterError: ``bad format for add-host: "x"``, ``invalid IP address in add-host``.
    """
    at = min((found for sep in ":=" if (found := text.find(sep)) >= 0), default=-1)
    if at <= 0 or at == len(text) - 1:
        message = f'bad format for add-host: "{text}"'
        raise InvalidParameterError(message)
    name, address = text[:at], text[at + 1:]
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address != HOST_GATEWAY:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            message = f'invalid IP address in add-host: "{address}"'
            raise InvalidParameterError(message) from error
    return name, address


def hostname_file(hostname: str) -> str:
    """Return ``/etc/hostname``."""
    return f"{hostname}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """What a resolv.conf says. Words of other keywords are kept as ``other`` lines."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> Resolver:
    """Read a resolv.conf; of several ``search`` and ``domain`` lines the last counts."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    other: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        keyword, values = words[0], words[1:]
        if keyword == "nameserver" and values:
            servers.append(values[0])
        elif keyword in {"search", "domain"}:
            search = tuple(values)
        elif keyword == "options":
            options += values
        else:
            other.append(" ".join(words))
    return Resolver(servers=tuple(servers), search=search, options=tuple(options),
                    other=tuple(other))


def resolv_conf(
    host: Resolver, *, servers: Sequence[str] = (), search: Sequence[str] = (),
    options: Sequence[str] = (), ipv6: bool = False, keep_loopback: bool = False,
) -> str:
    """Return ``/etc/resolv.conf`` of a container on the default bridge.

    Args:
        host: the host's own.
        servers: ``--dns`` of container or daemon; replaces the host's.
        search: likewise; a single ``.`` means none.
        options: likewise.
        ipv6: the container has an IPv6 address; otherwise IPv6 servers are left out.
        keep_loopback: the container shares the host's network, so servers there can be reached.
    """
    chosen = list(servers)
    if not chosen:
        chosen = [server for server in host.servers
                  if keep_loopback or _reachable(server, ipv6=ipv6)]
        if not chosen and not keep_loopback:
            chosen = [*FALLBACK_SERVERS, *(FALLBACK_SERVERS_IPV6 if ipv6 else ())]
    domains = [domain for domain in (search or host.search) if domain != "."]
    lines = [f"nameserver {server}" for server in chosen]
    if domains:
        lines.append("search " + " ".join(domains))
    if chosen_options := (options or host.options):
        lines.append("options " + " ".join(chosen_options))
    lines += host.other
    return "\n".join(lines) + "\n"


def is_local_stub(host: Resolver) -> bool:
    """Tell whether a host lists only systemd-resolved's stub: ``SYSTEMD_RESOLV_CONF`` has more."""
    return host.servers == ("127.0.0.53",)


def _reachable(server: str, *, ipv6: bool) -> bool:
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return False
    if address.is_loopback:
        return False
    # A zone names an interface of the host, which the container does not have.
    return address.version == 4 or (ipv6 and "%" not in server)
