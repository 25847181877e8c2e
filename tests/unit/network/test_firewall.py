"""Which map element a published port becomes."""

from __future__ import annotations

import pytest

from pallet.network.firewall import MAPS, RuleOptions, map_element
from pallet.network.model import PublishedPort


def _port(host_ip: str, target_ip: str, proto: str = "tcp") -> PublishedPort:
    return PublishedPort(proto=proto, container_port=80, host_ip=host_ip, host_port=8080, target_ip=target_ip)


@pytest.mark.parametrize(("port", "name", "key", "value"), [
    (_port("0.0.0.0", "172.17.0.2"), "any4", "06000000 1f900000", "ac110002 00500000"),
    (_port("10.0.0.1", "172.17.0.2", "udp"), "addr4", "0a000001 11000000 1f900000", "ac110002 00500000"),
    (_port("::", "fd99::2"), "any6", "06000000 1f900000", "fd990000000000000000000000000002 00500000"),
    (_port("fd00::1", "fd99::2"), "addr6", "fd000000000000000000000000000001 06000000 1f900000",
     "fd990000000000000000000000000002 00500000"),
])
def test_elements(port: PublishedPort, name: str, key: str, value: str) -> None:
    """Every field fills whole 32-bit registers, as nf_tables concatenations do."""
    found = map_element(port)
    assert found == (name, bytes.fromhex(key), bytes.fromhex(value))
    key_type, value_type = MAPS[name]
    assert len(found[1]) == key_type.size
    assert len(found[2]) == value_type.size


def test_nat_does_not_cross_families() -> None:
    assert map_element(_port("::", "172.17.0.2")) is None


def test_each_bridge_has_a_table_of_its_own() -> None:
    names = {RuleOptions(bridge=name, subnet=None).table for name in ("pallet0", "t1")}  # type: ignore[arg-type]
    assert names == {"pallet", "pallet-t1"}
