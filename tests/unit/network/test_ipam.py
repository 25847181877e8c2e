"""Address pools, addresses, MACs."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallet.config import BridgeConfig
from pallet.errors import InvalidParameterError, SystemFailureError
from pallet.network import ipam


def _plan(config: BridgeConfig, *, in_use: tuple[str, ...] = (), existing: str | None = None) -> ipam.Plan:
    return ipam.plan_bridge(
        config, in_use=[IPv4Network(n) for n in in_use], host_key="host",
        existing=IPv4Interface(existing) if existing else None)


@pytest.mark.parametrize(("in_use", "expected"), [
    ((), "172.17.0.0/16"),
    (("172.17.0.0/16",), "172.18.0.0/16"),
    (("172.16.0.0/12",), "192.168.0.0/20"),
    (("172.17.5.0/24", "172.18.0.0/15"), "172.20.0.0/16"),
    (("172.16.0.0/12", "192.168.0.0/24"), "192.168.16.0/20"),
])
def test_pools_avoid_what_the_host_uses(in_use: tuple[str, ...], expected: str) -> None:
    plan = _plan(BridgeConfig(), in_use=in_use)
    assert str(plan.subnet) == expected
    assert plan.gateway == plan.subnet[1] == plan.route


def test_no_pool_left() -> None:
    with pytest.raises(SystemFailureError, match="non-overlapping IPv4 address pool"):
        _plan(BridgeConfig(), in_use=("172.16.0.0/12", "192.168.0.0/16"))


def test_configured_pools() -> None:
    config = BridgeConfig(address_pools=(("10.9.0.0/16", 24),))
    assert str(_plan(config, in_use=("10.9.0.0/24",)).subnet) == "10.9.1.0/24"


def test_the_address_of_before_is_kept_unless_it_collides() -> None:
    assert str(_plan(BridgeConfig(), existing="10.5.0.1/16").subnet) == "10.5.0.0/16"
    plan = _plan(BridgeConfig(), existing="10.5.0.1/16", in_use=("10.0.0.0/8",))
    assert str(plan.subnet) == "172.17.0.0/16"


def test_bip_wins_and_keeps_its_host_part() -> None:
    plan = _plan(BridgeConfig(bip="172.30.5.9/16"), existing="10.5.0.1/16", in_use=("172.30.0.0/16",))
    assert (str(plan.subnet), str(plan.gateway)) == ("172.30.0.0/16", "172.30.5.9")


@pytest.mark.parametrize("settings", [
    {"bip": "172.30.0.0/16"}, {"bip": "nonsense"}, {"bip": "172.30.0.1/16", "fixed_cidr": "10.0.0.0/24"},
    {"bip": "172.30.0.1/16", "default_gateway": "10.0.0.1"},
    {"ipv6": True, "fixed_cidr_v6": "10.0.0.0/8"},
])
def test_contradictions_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InvalidParameterError):
        _plan(BridgeConfig(**settings))


def test_ipv6_prefix() -> None:
    assert str(_plan(BridgeConfig(ipv6=True, fixed_cidr_v6="fd99::/64")).gateway6) == "fd99::1"
    one = _plan(BridgeConfig(ipv6=True)).subnet6
    assert one is not None
    assert one.subnet_of(IPv6Network("fc00::/7"))
    assert one == _plan(BridgeConfig(ipv6=True)).subnet6
    assert one != _plan(BridgeConfig(ipv6=True, name="other0")).subnet6


def test_mac_follows_the_address() -> None:
    assert ipam.mac_of(IPv4Address("172.17.0.2")) == "02:42:ac:11:00:02"


def _space(subnet: str, **more: object) -> ipam.AddressSpace:
    network = IPv4Network(subnet)
    return ipam.AddressSpace(network, reserved={network[1]}, **more)  # type: ignore[arg-type]


def test_addresses_go_round_and_come_back_late() -> None:
    space = _space("10.0.0.0/29")
    first = [str(space.take()) for _ in range(3)]
    assert first == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    space.free(IPv4Address("10.0.0.2"))
    assert [str(space.take()) for _ in range(3)] == ["10.0.0.5", "10.0.0.6", "10.0.0.2"]
    with pytest.raises(SystemFailureError, match="no available IPv4 addresses"):
        space.take()


def test_ranges_and_cursor() -> None:
    space = _space("10.0.0.0/16", ip_range=IPv4Network("10.0.9.0/30"), cursor=2)
    assert [str(space.take()) for _ in range(4)] == ["10.0.9.2", "10.0.9.3", "10.0.9.0", "10.0.9.1"]


def test_claiming() -> None:
    space = _space("10.0.0.0/24")
    space.claim(IPv4Address("10.0.0.9"))
    with pytest.raises(SystemFailureError, match="Address already in use"):
        space.claim(IPv4Address("10.0.0.9"))
    with pytest.raises(SystemFailureError, match="Address already in use"):
        space.claim(IPv4Address("10.0.0.1"))
    with pytest.raises(InvalidParameterError, match="no configured subnet contains"):
        space.claim(IPv4Address("10.1.0.9"))
    space.free(IPv4Address("10.0.0.1"))  # the gateway stays reserved
    assert IPv4Address("10.0.0.1") in space


@given(st.lists(st.one_of(st.none(), st.integers(0, 31)), max_size=80), st.integers(0, 40))
def test_no_address_is_out_twice(steps: list[int | None], cursor: int) -> None:
    """Any sequence of takes (None) and frees: never a double, never a reserved one."""
    space = _space("10.0.0.0/27", cursor=cursor)
    out: set[IPv4Address] = set()
    for step in steps:
        if step is None:
            if len(out) == 29:
                with pytest.raises(SystemFailureError):
                    space.take()
                continue
            address = space.take()
            assert address not in out
            assert address not in {IPv4Address("10.0.0.0"), IPv4Address("10.0.0.1"), IPv4Address("10.0.0.31")}
            out.add(address)
        else:
            address = IPv4Network("10.0.0.0/27")[step]
            space.free(address)
            out.discard(address)


def test_ipv6_suffix() -> None:
    subnet4 = IPv4Network("172.17.0.0/16")
    address = ipam.with_suffix_of(IPv6Network("fd99::/64"), IPv4Address("172.17.1.2"), subnet4)
    assert str(address) == "fd99::102"
    with pytest.raises(InvalidParameterError):
        ipam.with_suffix_of(IPv6Network("fd99::/124"), IPv4Address("172.17.1.2"), subnet4)
