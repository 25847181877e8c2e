"""Reading bindings and choosing host ports (sockets on loopback)."""

from __future__ import annotations

import os
import socket

import pytest

from pallet.errors import InvalidParameterError, SystemFailureError
from pallet.network import portmap
from pallet.network.model import Listener, PublishedPort
from pallet.network.portmap import Wanted
from pallet.spec.engine.network import PortBinding


def _wanted(
    bindings: dict[str, list[PortBinding] | None], *, exposed: tuple[str, ...] = (),
    publish_all: bool = False, default_ip: str = "0.0.0.0", ipv6_host: bool = True,
) -> list[Wanted]:
    return portmap.wanted_ports(bindings, exposed=exposed, publish_all=publish_all,
                                default_ip=default_ip, ipv6_host=ipv6_host)


BOTH = ("0.0.0.0", "::")


@pytest.mark.parametrize(("bindings", "expected"), [
    ({"80/tcp": [PortBinding(host_port="8080")]}, [Wanted("tcp", 80, BOTH, 8080, 8080)]),
    ({"80": [PortBinding(host_port="8080")]}, [Wanted("tcp", 80, BOTH, 8080, 8080)]),
    ({"53/UDP": [PortBinding()]}, [Wanted("udp", 53, BOTH, 0, 0)]),
    ({"53/udp": [PortBinding(host_port="0")]}, [Wanted("udp", 53, BOTH, 0, 0)]),
    ({"80/tcp": []}, [Wanted("tcp", 80, BOTH, 0, 0)]),
    ({"80/tcp": None}, [Wanted("tcp", 80, BOTH, 0, 0)]),
    ({"80/tcp": [PortBinding(host_port="8000-8010")]}, [Wanted("tcp", 80, BOTH, 8000, 8010)]),
    ({"80/tcp": [PortBinding(host_ip="127.0.0.1", host_port="1")]}, [Wanted("tcp", 80, ("127.0.0.1",), 1, 1)]),
    ({"80/tcp": [PortBinding(host_ip="::1", host_port="1")]}, [Wanted("tcp", 80, ("::1",), 1, 1)]),
    ({"80/tcp": [PortBinding(host_ip="[::1]", host_port="1")]}, [Wanted("tcp", 80, ("::1",), 1, 1)]),
    ({"80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="1")]}, [Wanted("tcp", 80, ("0.0.0.0",), 1, 1)]),
    ({"81/tcp": [PortBinding(host_port="2")], "80/tcp": [PortBinding(host_port="1"), PortBinding(host_port="3")]},
     [Wanted("tcp", 80, BOTH, 1, 1), Wanted("tcp", 80, BOTH, 3, 3), Wanted("tcp", 81, BOTH, 2, 2)]),
])
def test_forms_of_bindings(bindings: dict[str, list[PortBinding] | None], expected: list[Wanted]) -> None:
    assert _wanted(bindings) == expected


def test_publish_all_takes_what_is_not_bound() -> None:
    found = _wanted({"80/tcp": [PortBinding(host_port="8080")]}, exposed=("80/tcp", "81/tcp", "53/udp"),
                    publish_all=True)
    assert found == [Wanted("udp", 53, BOTH, 0, 0), Wanted("tcp", 80, BOTH, 8080, 8080),
                     Wanted("tcp", 81, BOTH, 0, 0)]
    assert _wanted({}, exposed=("81/tcp",)) == []


def test_default_addresses() -> None:
    one = {"80/tcp": [PortBinding(host_port="1")]}
    assert _wanted(one, default_ip="127.0.0.1")[0].host_ips == ("127.0.0.1",)
    assert _wanted(one, ipv6_host=False)[0].host_ips == ("0.0.0.0",)


@pytest.mark.parametrize("key", ["0/tcp", "65536/tcp", "x/tcp", "80/icmp", "", "/tcp", "-1/tcp", "٨/tcp"])
def test_bad_container_ports(key: str) -> None:
    with pytest.raises(InvalidParameterError, match="invalid port specification"):
        _wanted({key: [PortBinding(host_port="1")]})


@pytest.mark.parametrize("text", ["x", "1-", "-1", "5-4", "70000", "0-5", "1-2-3", "²"])
def test_bad_host_ports(text: str) -> None:
    with pytest.raises(InvalidParameterError, match="invalid port specification"):
        portmap.parse_host_port(text)


def test_bad_addresses_and_protocols() -> None:
    with pytest.raises(InvalidParameterError, match="invalid IP address"):
        _wanted({"80/tcp": [PortBinding(host_ip="localhost")]})
    with pytest.raises(InvalidParameterError, match="SCTP"):
        _wanted({"80/sctp": [PortBinding()]})


def _reserve(allocator: portmap.PortAllocator, owner: str, *wanted: Wanted) -> list[PublishedPort]:
    ports, listeners = allocator.reserve(owner, wanted, ip="172.17.0.2", ip6="")
    _close(listeners)
    return ports


def _close(listeners: list[Listener]) -> None:
    for listener in listeners:
        os.close(listener.fd)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_reservation_listens_and_tells_where_it_leads() -> None:
    port = _free_port()
    ports, listeners = portmap.PortAllocator().reserve(
        "a", [Wanted("tcp", 80, ("127.0.0.1",), port, port)], ip="172.17.0.2", ip6="")
    try:
        assert ports == [PublishedPort(proto="tcp", container_port=80, host_ip="127.0.0.1", host_port=port,
                                       target_ip="172.17.0.2")]
        assert (listeners[0].target_ip, listeners[0].target_port) == ("172.17.0.2", 80)
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            pass
    finally:
        _close(listeners)


def test_without_the_proxy_nothing_comes_through() -> None:
    port = _free_port()
    _ports, listeners = portmap.PortAllocator(userland_proxy=False).reserve(
        "a", [Wanted("udp", 53, ("127.0.0.1",), port, port)], ip="172.17.0.2", ip6="")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, socket.socket(fileno=listeners[0].fd) as held:
        client.sendto(b"x", ("127.0.0.1", port))
        with pytest.raises(BlockingIOError):
            held.recv(10)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", port))


def test_conflicts_between_containers() -> None:
    allocator = portmap.PortAllocator()
    port = _free_port()
    taken = Wanted("tcp", 80, ("127.0.0.1",), port, port)
    _reserve(allocator, "a", taken)
    with pytest.raises(SystemFailureError, match=rf"^Bind for 127.0.0.1:{port} failed: port is already allocated$"):
        _reserve(allocator, "b", taken)
    with pytest.raises(SystemFailureError, match=rf"^Bind for 0.0.0.0:{port} failed"):
        _reserve(allocator, "b", Wanted("tcp", 80, ("0.0.0.0",), port, port))
    # Another address, protocol or family is no conflict.
    _reserve(allocator, "b", Wanted("tcp", 80, ("127.0.0.2",), port, port))
    _reserve(allocator, "b", Wanted("udp", 80, ("127.0.0.1",), port, port))


def test_all_or_nothing() -> None:
    allocator = portmap.PortAllocator()
    one, two = _free_port(), _free_port()
    ports = _reserve(allocator, "a", Wanted("tcp", 80, ("127.0.0.1",), two, two))
    with pytest.raises(SystemFailureError):
        _reserve(allocator, "b", Wanted("tcp", 80, ("127.0.0.1",), one, one),
                 Wanted("tcp", 81, ("127.0.0.1",), two, two))
    _reserve(allocator, "c", Wanted("tcp", 80, ("127.0.0.1",), one, one))
    allocator.release("x", ports)  # not its owner
    with pytest.raises(SystemFailureError):
        _reserve(allocator, "b", Wanted("tcp", 80, ("127.0.0.1",), two, two))
    allocator.release("a", ports)
    _reserve(allocator, "b", Wanted("tcp", 80, ("127.0.0.1",), two, two))


def test_adopted_ports_are_taken() -> None:
    allocator = portmap.PortAllocator()
    port = _free_port()
    allocator.adopt("a", [PublishedPort(proto="tcp", container_port=80, host_ip="0.0.0.0", host_port=port,
                                        target_ip="172.17.0.2")])
    with pytest.raises(SystemFailureError, match="already allocated"):
        _reserve(allocator, "b", Wanted("tcp", 80, ("127.0.0.1",), port, port))


def test_a_range_gives_its_ports_out_until_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = portmap.PortAllocator()
    held: list[Listener] = []
    monkeypatch.setattr(portmap, "_bind_all", lambda proto, hosts, port: [socket.socket() for _ in hosts])
    wanted = Wanted("tcp", 80, ("127.0.0.1",), 7000, 7002)
    found = []
    for owner in "abc":
        ports, listeners = allocator.reserve(owner, [wanted], ip="172.17.0.2", ip6="")
        found.append(ports[0].host_port)
        held += listeners
    with pytest.raises(SystemFailureError, match=r"^all ports are allocated$"):
        allocator.reserve("d", [wanted], ip="172.17.0.2", ip6="")
    _close(held)
    assert found == [7000, 7001, 7002]


def test_ephemeral_ports_pass_over_foreign_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    first = _free_port()
    monkeypatch.setattr(portmap, "ephemeral_range", lambda: (first, first + 50))
    with socket.create_server(("127.0.0.1", first)):
        ports = _reserve(portmap.PortAllocator(), "a", Wanted("tcp", 80, ("127.0.0.1",), 0, 0))
    assert first < ports[0].host_port <= first + 50


def test_foreign_ports_in_dockers_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SystemFailureError, match=rf"^listen tcp4 127.0.0.1:{port}: bind: address already in use$"):
            _reserve(portmap.PortAllocator(), "a", Wanted("tcp", 80, ("127.0.0.1",), port, port))


def test_ipv6_bindings_lead_to_the_ipv6_address_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portmap, "_bind_all", lambda proto, hosts, port: [socket.socket() for _ in hosts])
    for ip6, expected in (("fd99::2", ["172.17.0.2", "fd99::2"]), ("", ["172.17.0.2", "172.17.0.2"])):
        ports, listeners = portmap.PortAllocator().reserve(
            "a", [Wanted("tcp", 80, BOTH, 8080, 8080)], ip="172.17.0.2", ip6=ip6)
        _close(listeners)
        assert [port.target_ip for port in ports] == expected
