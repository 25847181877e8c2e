"""Clients behind balancers."""

from __future__ import annotations

import pytest

from pallet.errors import InvalidParameterError
from pallet.registry.proxies import Proxies

PROXIES = Proxies(("10.0.0.0/8", "fd00::/8"))


@pytest.mark.parametrize(("peer", "forwarded", "client"), [
    ("192.0.2.1", "198.51.100.1", "192.0.2.1"), ("10.0.0.1", "", "10.0.0.1"),
    ("10.0.0.1", "198.51.100.1", "198.51.100.1"), ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
    ("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.2.3.4", "198.51.100.1"), ("10.0.0.1", "10.2.3.4", "10.2.3.4"),
    ("fd00::1", "2001:db8::1", "2001:db8::1"), ("fd00::1", "[2001:db8::1]", "2001:db8::1"),
    ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"), ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
    ("10.0.0.1", "198.51.100.1,,", "10.0.0.1"), ("somebody", "198.51.100.1", "somebody")])
def test_the_client_is_the_last_that_no_proxy_is(peer: str, forwarded: str, client: str) -> None:
    """What a client writes into the chain itself comes before, and is not believed."""
    assert PROXIES.client(peer, {"x-forwarded-for": forwarded}) == client
    assert Proxies(()).client(peer, {"x-forwarded-for": forwarded}) == peer


def test_tls_at_the_balancer() -> None:
    secure = {"x-forwarded-proto": "https"}
    assert PROXIES.base_url("http://r", "10.0.0.1", secure) == "https://r"
    assert PROXIES.base_url("http://r", "10.0.0.1", {}) == "http://r"
    assert PROXIES.base_url("http://r", "192.0.2.1", secure) == "http://r"
    assert Proxies(()).base_url("http://r", "10.0.0.1", secure) == "http://r"


def test_networks_that_are_none() -> None:
    with pytest.raises(InvalidParameterError, match="trusted_proxies"):
        Proxies(("10.0.0.1/8",))
