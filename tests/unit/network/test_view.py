"""Endpoints as the Engine API shows them."""

from __future__ import annotations

import msgspec
import pytest

from pallet.errors import InvalidParameterError
from pallet.network import view
from pallet.network.model import Endpoint, PublishedPort
from pallet.spec.engine.config import ContainerConfig
from pallet.spec.engine.host_config import HostConfig
from pallet.spec.engine.network import EndpointIPAMConfig, EndpointSettings, PortBinding

ENDPOINT = Endpoint(
    network_name="bridge", network_id="n" * 64, endpoint_id="e" * 64, sandbox_id="s" * 64,
    ip="172.17.0.2", prefix_len=16, gateway="172.17.0.1", mac="02:42:ac:11:00:02", link="vetheeeeeee",
    exposed=("53/udp", "80/tcp"), ports=tuple(
        PublishedPort(proto="tcp", container_port=80, host_ip=ip, host_port=8080, target_ip="172.17.0.2")
        for ip in ("0.0.0.0", "::")))


def test_network_settings() -> None:
    found = msgspec.to_builtins(view.network_settings(ENDPOINT, 42))
    assert found == {
        "Bridge": "", "SandboxID": "s" * 64, "SandboxKey": "/proc/42/ns/net",
        "Ports": {"53/udp": None, "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"},
                                             {"HostIp": "::", "HostPort": "8080"}]},
        "HairpinMode": False, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None, "SecondaryIPv6Addresses": None, "EndpointID": "e" * 64,
        "Gateway": "172.17.0.1", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "IPAddress": "172.17.0.2", "IPPrefixLen": 16, "IPv6Gateway": "",
        "MacAddress": "02:42:ac:11:00:02",
        "Networks": {"bridge": {
            "IPAMConfig": None, "Links": None, "Aliases": None, "MacAddress": "02:42:ac:11:00:02",
            "DriverOpts": None, "GwPriority": 0, "NetworkID": "n" * 64, "EndpointID": "e" * 64,
            "Gateway": "172.17.0.1", "IPAddress": "172.17.0.2", "IPPrefixLen": 16,
            "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": None}},
    }


def test_without_an_endpoint() -> None:
    assert view.network_settings(None, 0).networks == {}
    assert view.port_list(None) == []


def test_port_list() -> None:
    assert msgspec.to_builtins(view.port_list(ENDPOINT)) == [
        {"PrivatePort": 53, "Type": "udp"},
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}]


def test_endpoints_survive_their_record() -> None:
    assert msgspec.json.decode(msgspec.json.encode(ENDPOINT), type=Endpoint) == ENDPOINT


@pytest.mark.parametrize(("host", "settings", "words"), [
    (HostConfig(port_bindings={"x": None}), None, "invalid port specification"),
    (HostConfig(port_bindings={"80/tcp": [PortBinding(host_port="x")]}), None, "invalid port specification"),
    (HostConfig(network_mode="bridge"),
     EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.0.0.1")),
     "invalid config for network bridge: .*\n.*user defined networks only"),
    (HostConfig(network_mode="default"), EndpointSettings(aliases=["x"]), "aliases"),
])
def test_refused_at_create(host: HostConfig, settings: EndpointSettings | None, words: str) -> None:
    with pytest.raises(InvalidParameterError, match=words):
        view.check_request(ContainerConfig(), host, settings)


def test_accepted_at_create() -> None:
    view.check_request(ContainerConfig(), HostConfig(
        network_mode="bridge", port_bindings={"80/tcp": [PortBinding(host_port="8000-8010")]}),
        EndpointSettings(mac_address="02:42:00:00:00:01"))
