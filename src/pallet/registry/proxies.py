"""Balancers and proxies in front of a registry: whose request it is, and how the client reached it.

Owns   which proxies are believed. What others write into these fields is not looked at.
Runs   anywhere, for each request.
Needs  nothing.
Spec   the fields ``X-Forwarded-For`` and ``X-Forwarded-Proto``, as every balancer writes them.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Proxies:
    """Networks of proxies that are believed."""

    def __init__(self, networks: Sequence[str]) -> None:
        """Read them (InvalidParameterError)."""
        try:
            self._networks = [ipaddress.ip_network(network) for network in networks]
        except ValueError as error:
            message = f"http.trusted_proxies: {error}"
            raise InvalidParameterError(message) from error

    def client(self, peer: str, headers: Mapping[str, str]) -> str:
        """Address of the client behind ``peer``: the last one in the chain that is no trusted proxy."""
        if not self._networks or not self._trusts(peer):
            return peer
        found = peer
        for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
            address = hop.strip().strip("[]")
            if not _is_address(address):
                break
            found = address
            if not self._trusts(address):
                break
        return found

    def base_url(self, base_url: str, peer: str, headers: Mapping[str, str]) -> str:
        """``base_url`` with ``https`` where a trusted proxy speaks TLS with the client."""
        secure = headers.get("x-forwarded-proto", "").lower() == "https"
        if secure and base_url.startswith("http://") and self._networks and self._trusts(peer):
            return f"https://{base_url.removeprefix('http://')}"
        return base_url

    def _trusts(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
