"""Which proxy a request goes through, from the environment.

Owns   HTTP_PROXY, HTTPS_PROXY and NO_PROXY (either case) as Go programs read them.
Runs   in transfer threads; reads the environment once, when made.
Needs  nothing.
Spec   Go's ``http.ProxyFromEnvironment``: hosts, ``.suffix``, ``*.suffix``, addresses, CIDRs,
       ``host:port``, ``*``; requests to localhost and loopback addresses never use a proxy.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """Proxies by scheme of the target and the targets that go direct."""

    http: str = ""
    https: str = ""
    bypass: tuple[str, ...] = field(default=())

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> ProxySettings:
        """Read the six variables; lower case is a fallback for upper case."""
        def value(name: str) -> str:
            return environ.get(name) or environ.get(name.lower()) or ""

        entries = tuple(entry.strip().lower() for entry in value("NO_PROXY").split(",")
                        if entry.strip())
        return cls(http=_with_scheme(value("HTTP_PROXY")), https=_with_scheme(value("HTTPS_PROXY")),
                   bypass=entries)

    def for_url(self, url: str) -> str | None:
        """Return the proxy's URL for ``url``, or None to connect directly."""
        parts = urlsplit(url)
        proxy = self.https if parts.scheme == "https" else self.http
        host = (parts.hostname or "").lower()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if not proxy or self._direct(host, port):
            return None
        return proxy

    def _direct(self, host: str, port: int) -> bool:
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_bypasses(entry, host, port, address) for entry in self.bypass)


def _with_scheme(proxy: str) -> str:
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(entry: str) -> _Network | None:
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None


def _bypasses(
    entry: str, host: str, port: int,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        network = _network(entry)
        return network is not None and address is not None and address in network
    name, colon, wanted_port = entry.rpartition(":")
    if colon and wanted_port.isdigit() and (":" not in name or name.endswith("]")):
        if int(wanted_port) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    if address is not None:
        return _address(entry) == address
    entry = entry.removeprefix("*")
    if entry.startswith("."):
        return host.endswith(entry)
    return host == entry or host.endswith("." + entry)
