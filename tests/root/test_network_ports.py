"""Published ports, carried by the kernel and by the port proxy, from everywhere they can be asked for."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pallet.errors import SystemFailureError
from pallet.linux import netlink
from pallet.network import bridge
from tests.root import netlab
from tests.root.netlab import HOST, HOST6, Container, Lab, ask, ask_in, request

if TYPE_CHECKING:
    from pallet.network.model import Endpoint

pytestmark = pytest.mark.needs("root", "nft")
Isolated = Callable[[Callable[[], Any]], Any]

BRIDGE = "172.17.0.1"


async def _ask_everywhere(lab: Lab, proto: str, port: int, **settings: object) -> dict[str, Any]:
    controller = lab.controller(**settings)
    await controller.start({})
    a = Container(await controller.connect("a", request("a", f"{port}:80/{proto}")))
    b = Container(await controller.connect("b", request("b")))
    a.start_proxy()
    found = {
        "127.0.0.1": ask("127.0.0.1", port, proto),
        "host": ask(HOST, port, proto),
        "bridge": ask(BRIDGE, port, proto),
        "::1": ask("::1", port, proto),
        "host6": ask(HOST6, port, proto),
        "neighbour": ask_in(lab.neighbour_fd, HOST, port, proto),
        "neighbour6": ask_in(lab.neighbour_fd, HOST6, port, proto),
        "other container": ask_in(b.netns_fd, HOST, port, proto),
        "other container, bridge": ask_in(b.netns_fd, BRIDGE, port, proto),
        "itself": ask_in(a.netns_fd, HOST, port, proto),
        "direct": ask_in(b.netns_fd, a.endpoint.ip, 80, proto),
    }
    a.stop()
    b.stop()
    await controller.release("a")
    await controller.release("b")
    await controller.close(keep=False)
    found["warnings"] = controller.warnings
    found["b"] = b.endpoint.ip
    return found


@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("bridged", ["0", "1"])
def test_a_port_is_reached_from_everywhere(in_net_ns: Isolated, proto: str, bridged: str) -> None:
    """From host addresses, 127.0.0.1, IPv6, the neighbour, another container and the container itself."""

    async def body(lab: Lab) -> dict[str, Any]:
        bridge.write_sysctl("bridge/bridge-nf-call-iptables", bridged)
        return await _ask_everywhere(lab, proto, 8080)

    found = in_net_ns(netlab.run(body))
    assert found.pop("warnings") == []
    b_ip = found.pop("b")
    peers = {where: answer["peer"] for where, answer in found.items()}
    assert peers == {
        "127.0.0.1": BRIDGE, "host": HOST, "bridge": BRIDGE, "::1": BRIDGE, "host6": BRIDGE,
        # The neighbour's own address gets through: NAT keeps the source.
        "neighbour": netlab.NEIGHBOUR, "neighbour6": BRIDGE,
        "other container": BRIDGE, "other container, bridge": BRIDGE, "itself": BRIDGE,
        "direct": b_ip,
    }


@pytest.mark.parametrize("bridged", ["0", "1"])
def test_without_userland_proxy_the_kernel_carries_all_of_ipv4(in_net_ns: Isolated, bridged: str) -> None:
    """``--userland-proxy=false``: containers reach published ports by NAT, itself included."""

    async def body(lab: Lab) -> dict[str, Any]:
        bridge.write_sysctl("bridge/bridge-nf-call-iptables", bridged)
        controller = lab.controller(userland_proxy=False)
        await controller.start({})
        a = Container(await controller.connect("a", request("a", "8080:80")))
        b = Container(await controller.connect("b", request("b")))
        found = {
            "127.0.0.1": ask("127.0.0.1", 8080), "host": ask(HOST, 8080),
            "other container": ask_in(b.netns_fd, HOST, 8080),
            "itself": ask_in(a.netns_fd, HOST, 8080),
            "host6": ask(HOST6, 8080, timeout_s=0.3),
        }
        a.stop()
        b.stop()
        await controller.close(keep=True)
        return found

    found = in_net_ns(netlab.run(body))
    assert found.pop("host6") == "TimeoutError"  # held, not served
    assert {answer["size"] for answer in found.values()} == {10}


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_without_nftables_the_proxy_carries_everything(in_net_ns: Isolated, proto: str) -> None:
    """``--iptables=false``."""
    found = in_net_ns(netlab.run(
        lambda lab: _ask_everywhere(lab, proto, 8080, firewall=False)))
    assert found.pop("warnings") == []
    found.pop("b")
    assert {answer["size"] for answer in found.values()} == {10}


def test_ipv6_container_is_reached_by_nat(in_net_ns: Isolated) -> None:
    """With ``--ipv6`` an IPv6 binding leads to the container's IPv6 address and keeps the source."""

    async def body(lab: Lab) -> dict[str, Any]:
        controller = lab.controller(ipv6=True, fixed_cidr_v6="fd99::/64")
        await controller.start({})
        a = Container(await controller.connect("a", request("a", "8080:80", "5353:80/udp")))
        b = Container(await controller.connect("b", request("b")))
        a.start_proxy()
        found = {
            "ip": a.endpoint.ip6, "b": b.endpoint.ip6,
            "neighbour": ask_in(lab.neighbour_fd, HOST6, 8080),
            "neighbour udp": ask_in(lab.neighbour_fd, HOST6, 5353, "udp"),
            "::1": ask("::1", 8080),
            "direct from outside": ask_in(lab.neighbour_fd, a.endpoint.ip6, 80, timeout_s=0.3),
            "container": ask_in(b.netns_fd, a.endpoint.ip6, 80),
            "itself": ask_in(a.netns_fd, HOST6, 8080),
        }
        a.stop()
        b.stop()
        await controller.close(keep=True)
        return found

    found = in_net_ns(netlab.run(body))
    assert found["ip"].startswith("fd99::")
    assert found["neighbour"]["peer"] == netlab.NEIGHBOUR6
    assert found["neighbour udp"]["peer"] == netlab.NEIGHBOUR6
    assert found["::1"]["size"] == found["itself"]["size"] == 10
    assert found["container"]["peer"] == found["b"]
    assert found["direct from outside"] == "TimeoutError"


def test_what_is_not_published_is_not_reached(in_net_ns: Isolated) -> None:
    """From outside only published ports; a binding to 127.0.0.1 not even by a forged packet."""

    async def body(lab: Lab) -> dict[str, Any]:
        controller = lab.controller()
        await controller.start({})
        a = Container(await controller.connect("a", request("a", "127.0.0.1|9000:80")), ports=(80, 81))
        b = Container(await controller.connect("b", request("b")))
        a.start_proxy()
        found = {
            "loopback": ask("127.0.0.1", 9000),
            "neighbour": ask_in(lab.neighbour_fd, HOST, 9000, timeout_s=0.3),
            "neighbour direct": ask_in(lab.neighbour_fd, a.endpoint.ip, 80, timeout_s=0.3),
            "container": ask_in(b.netns_fd, HOST, 9000, timeout_s=0.3),
            "container to the bridge": ask_in(b.netns_fd, BRIDGE, 9000, timeout_s=0.3),
            "unpublished": ask(HOST, 81, timeout_s=0.3),
        }
        a.stop()
        b.stop()
        await controller.close(keep=True)
        return found

    found = in_net_ns(netlab.run(body))
    assert found.pop("loopback")["peer"] == BRIDGE
    assert set(found.values()) <= {"TimeoutError", "ConnectionRefusedError"}
    assert found["neighbour direct"] == "TimeoutError"


def test_containers_cannot_reach_the_hosts_loopback(in_net_ns: Isolated) -> None:
    """route_localnet on the bridge alone would let a forged frame to 127.0.0.1 in (CVE-2020-8558)."""

    async def body(lab: Lab) -> list[bytes]:
        controller = lab.controller()
        await controller.start({})
        sandbox = await controller.connect("a", request("a"))
        with netlink.Netlink() as link:
            frame = _udp_frame(netlink.find_link(link, "pallet0").mac, sandbox.endpoint)
        found = []
        with netlab.udp_server("127.0.0.1", 7000) as server:
            server.settimeout(0.2)
            for guarded in (True, False):
                if not guarded:  # shows that the frame is a good one
                    subprocess.run(["nft", "flush", "chain", "inet", "pallet", "guard"], check=True)
                netlab.reap(netlab.child(lambda: _send(sandbox.netns_fd, frame)), kill=False)
                try:
                    found.append(server.recv(100))
                except TimeoutError:
                    found.append(b"")
        sandbox.close()
        await controller.close(keep=True)
        return found

    assert in_net_ns(netlab.run(body)) == [b"", b"forged"]


def _udp_frame(bridge_mac: str, endpoint: Endpoint) -> bytes:
    payload = b"forged"
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 1, 0, 64, 17, 0,
                       socket.inet_aton(endpoint.ip), socket.inet_aton("127.0.0.1"))  # fmt: skip
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    udp = struct.pack(">HHHH", 1234, 7000, 8 + len(payload), 0)
    return netlink.mac_bytes(bridge_mac) + netlink.mac_bytes(endpoint.mac) + b"\x08\x00" + head + udp + payload


def _send(netns_fd: int, frame: bytes) -> None:
    netlab.setns(netns_fd)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        sock.send(frame)


@pytest.mark.parametrize("bridged", ["0", "1"])
def test_icc_false_separates_containers(in_net_ns: Isolated, bridged: str) -> None:
    """``--icc=false``: no direct way between containers; published ports still work."""

    async def body(lab: Lab) -> dict[str, Any]:
        bridge.write_sysctl("bridge/bridge-nf-call-iptables", bridged)
        controller = lab.controller(icc=False)
        await controller.start({})
        a = Container(await controller.connect("a", request("a", "8080:80")))
        b = Container(await controller.connect("b", request("b")))
        a.start_proxy()
        found = {
            "direct": ask_in(b.netns_fd, a.endpoint.ip, 80, timeout_s=0.3),
            "published": ask_in(b.netns_fd, HOST, 8080),
            "neighbour": ask_in(lab.neighbour_fd, HOST, 8080),
        }
        a.stop()
        b.stop()
        await controller.close(keep=True)
        return found

    found = in_net_ns(netlab.run(body))
    assert found["direct"] in {"TimeoutError", "OSError"}
    assert found["published"]["size"] == found["neighbour"]["size"] == 10


def test_containers_reach_the_world_masqueraded(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> tuple[Any, Any]:
        controller = lab.controller()
        await controller.start({})
        b = Container(await controller.connect("b", request("b")))

        def server() -> None:
            netlab.setns(lab.neighbour_fd)
            sock = netlab.udp_server("0.0.0.0", 7777)
            while True:
                data, peer = sock.recvfrom(1000)
                sock.sendto(f'{{"peer": "{peer[0]}", "size": {len(data)}}}'.encode(), peer)

        pid = netlab.child(server)
        answer: Any = "not yet"
        for _ in range(20):
            answer = ask_in(b.netns_fd, netlab.NEIGHBOUR, 7777, "udp", timeout_s=0.2)
            if isinstance(answer, dict):
                break
        netlab.reap(pid)
        b.stop()
        await controller.close(keep=True)
        return answer

    assert in_net_ns(netlab.run(body)) == {"peer": HOST, "size": 10}


def test_taken_ports_are_refused_in_dockers_words(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> list[str]:
        controller = lab.controller()
        await controller.start({})
        first = await controller.connect("a", request("a", "8080:80"))
        found = []

        async def refused(*specs: str) -> None:
            with pytest.raises(SystemFailureError) as caught:
                await controller.connect("b", request("web", *specs))
            found.append(str(caught.value))

        await refused("8080:80")
        await refused("9000:80", "127.0.0.1|8080:81")
        with socket.create_server(("0.0.0.0", 8081)):
            await refused("8081:80")
        await refused("203.0.113.9|8082:80")
        # Nothing of the refused ones is left: the same ports can be had now.
        second = await controller.connect("b", request("web", "9000:80", "8081:80"))
        first.close()
        second.close()
        await controller.release("a")
        await controller.release("b")
        # Docker takes the ports of a range in order.
        third = await controller.connect("c", request("c", "8079-8081:80"))
        found.append(third.endpoint.ports[0].host_port)
        third.close()
        await controller.close(keep=True)
        return found

    own, own_loopback, foreign, no_such, port = in_net_ns(netlab.run(body))
    start = "driver failed programming external connectivity on endpoint web ("
    assert own.startswith(start)
    assert own.endswith("): Bind for 0.0.0.0:8080 failed: port is already allocated")
    assert own_loopback.endswith("): Bind for 127.0.0.1:8080 failed: port is already allocated")
    assert foreign.endswith("): listen tcp4 0.0.0.0:8081: bind: address already in use")
    assert no_such.endswith("): listen tcp4 203.0.113.9:8082: bind: cannot assign requested address")
    assert port == 8079


def test_ephemeral_ports_are_one_for_both_families_and_rotate(in_net_ns: Isolated) -> None:
    async def body(lab: Lab) -> list[Any]:
        bridge.write_sysctl("ipv4/ip_local_port_range", "50000\t50003")
        controller = lab.controller()
        await controller.start({})
        found = []
        for name in "abc":
            sandbox = await controller.connect(
                name, request(name, exposed=("80/tcp",), publish_all=True))
            found.append([(p.host_ip, p.host_port) for p in sandbox.endpoint.ports])
            sandbox.close()
            await controller.release(name)
        await controller.close(keep=True)
        return found

    assert in_net_ns(netlab.run(body)) == [
        [("0.0.0.0", port), ("::", port)] for port in (50000, 50001, 50002)]


def test_udp_clients_are_led_to_the_new_container(in_net_ns: Isolated) -> None:
    """A client that keeps its source port is tracked by the kernel; a release forgets that."""

    async def body(lab: Lab) -> tuple[Any, Any]:
        controller = lab.controller()
        await controller.start({})
        a = Container(await controller.connect("a", request("a", "5353:80/udp")))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(2.0)
            client.connect((HOST, 5353))
            client.send(b"x")
            first = client.recv(1000)
            a.stop()
            await controller.release("a")
            b = Container(await controller.connect("b", request("b", "5353:80/udp")))
            client.send(b"x")
            second = client.recv(1000)
        b.stop()
        await controller.release("b")
        await controller.close(keep=True)
        return first, second

    first, second = in_net_ns(netlab.run(body))
    assert b'"size": 1' in first
    assert b'"size": 1' in second


def test_large_transfers_survive_slow_readers(in_net_ns: Isolated) -> None:
    """Back-pressure and half-close through the proxy: 8 MB there, 8 MB back, to a slow client."""

    async def body(lab: Lab) -> tuple[Any, int]:
        controller = lab.controller()
        await controller.start({})
        a = Container(await controller.connect("a", request("a", "8080:80")))
        a.start_proxy()
        fast = ask("::1", 8080, size=8_000_000, timeout_s=20)
        with socket.create_connection(("::1", 8080)) as sock:
            sock.sendall(bytes(2_000_000))
            sock.shutdown(socket.SHUT_WR)
            received = 0
            while data := sock.recv(20_000):
                received += len(data)
                time.sleep(0.001)
        a.stop()
        await controller.close(keep=True)
        return fast, received

    fast, received = in_net_ns(netlab.run(body))
    assert fast["size"] == 8_000_000
    assert received > 2_000_000
