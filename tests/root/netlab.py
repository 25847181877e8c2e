"""A small world for network tests, inside a throwaway network namespace.

The test's own namespace plays the host; ``neighbour`` is a machine on its other interface; containers
are processes that join a sandbox. The user-land proxy is forked per container as the shim does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ipaddress
import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pallet import aio
from pallet.config import BridgeConfig
from pallet.linux import netlink
from pallet.network.controller import NetworkController
from pallet.network.model import ConnectRequest
from pallet.spec.engine.network import PortBinding
from pallet.zygote import netsandbox
from pallet.zygote.portproxy import Forward, serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from pallet.network.model import Sandbox

CLONE_NEWNET = 0x40000000
HOST = "198.51.100.1"
HOST6 = "fd77::1"
NEIGHBOUR = "198.51.100.2"
NEIGHBOUR6 = "fd77::2"
_libc = ctypes.CDLL(None, use_errno=True)


def setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def child(body: Callable[[], object]) -> int:
    """Fork a process that runs ``body`` and ends with the test; returns its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _libc.prctl(1, signal.SIGKILL, 0, 0, 0)
            body()
            code = 0
        finally:
            os._exit(code)
    return pid


def reap(pid: int, *, kill: bool = True) -> None:
    if kill:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class Store:
    """Network records in memory, as ``Metadata`` keeps them."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, bytes]] = {}
        self.writes = 0

    def put_network(self, network_id: str, name: str, record: bytes) -> None:
        self.rows[network_id] = (name, record)
        self.writes += 1

    def networks(self) -> list[tuple[str, str, bytes]]:
        return [(key, name, record) for key, (name, record) in self.rows.items()]


class Netns:
    """What the zygote does: a child runs the worker and sends its descriptors."""

    def __init__(self) -> None:
        self.forks = 0
        self.fail: OSError | None = None

    async def run_raw_worker(
        self, kind: str, request: bytes, fds: Iterable[int] = (),
    ) -> tuple[bytes, list[int]]:
        assert kind == "network.sandboxes"
        self.forks += 1
        if self.fail is not None:
            raise self.fail
        await asyncio.sleep(0)
        return b"", in_child(lambda: netsandbox.run(request, [])[1])


def in_child(make: Callable[[], list[int]]) -> list[int]:
    """Run ``make`` in a forked process and take over the descriptors it returns."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def body() -> None:
        ours.close()
        socket.send_fds(theirs, [b"x"], make())

    pid = child(body)
    theirs.close()
    _, fds, _, _ = socket.recv_fds(ours, 1, 64)
    os.waitpid(pid, 0)
    ours.close()
    if not fds:
        raise OSError(5, "the child failed")
    for fd in fds:
        os.set_inheritable(fd, False)
    return list(fds)


def new_netns() -> tuple[int, int]:
    """A new namespace and a netlink socket in it."""

    def make() -> list[int]:
        if _libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        return [os.open("/proc/self/ns/net", os.O_RDONLY), route.detach()]

    namespace, route = in_child(make)
    return namespace, route


class Container:
    """A container's servers: TCP and UDP, each answers with who asked and where it arrived."""

    def __init__(self, sandbox: Sandbox, *, ports: tuple[int, ...] = (80,)) -> None:
        assert sandbox.netns_fd is not None
        self.endpoint = sandbox.endpoint
        self.listeners = [
            (os.dup(one.fd), one.proto, one.target_ip, one.target_port)
            for one in sandbox.listeners]
        self.netns_fd = os.dup(sandbox.netns_fd)
        ready, told = os.pipe()
        self.pids = [child(lambda: self._serve(told, ports))]
        os.close(told)
        assert os.read(ready, 1) == b"r"
        os.close(ready)
        sandbox.close()

    def _serve(self, told: int, ports: tuple[int, ...]) -> None:
        setns(self.netns_fd)
        asyncio.run(self._main(told, ports))

    async def _main(self, told: int, ports: tuple[int, ...]) -> None:
        loop = asyncio.get_running_loop()

        async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Reads to the end before it answers: half-close has to get through.
            size = 0
            while data := await reader.read(65536):
                size += len(data)
            peer = writer.get_extra_info("peername")[0]
            writer.write(json.dumps({"peer": peer, "size": size}).encode() + b"\n" + bytes(size))
            writer.write_eof()
            await writer.drain()
            writer.close()

        class Udp(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                answer = json.dumps({"peer": addr[0], "size": len(data)}).encode()
                self.transport.sendto(answer, addr)

        for port in ports:
            await asyncio.start_server(tcp, "0.0.0.0", port)
            with contextlib.suppress(OSError):
                await asyncio.start_server(tcp, "::", port)
            for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                sock = socket.socket(family, socket.SOCK_DGRAM)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setblocking(False)
                sock.bind((address, port))
                await loop.create_datagram_endpoint(Udp, sock=sock)
        os.write(told, b"r")
        await asyncio.Event().wait()

    def start_proxy(self) -> None:
        """Fork the port proxy, as the shim does when a listener becomes readable."""
        forwards = [Forward(os.dup(fd), *rest) for fd, *rest in self.listeners]
        self.pids.append(child(lambda: serve(forwards)))
        for forward in forwards:
            os.close(forward.fd)

    def stop(self) -> None:
        for pid in self.pids:
            reap(pid)
        os.close(self.netns_fd)
        for listener in self.listeners:
            os.close(listener[0])


class Lab:
    """The host's second interface with a neighbour behind it, and a daemon's controller."""

    def __init__(self) -> None:
        # A fork keeps the executor but none of its threads.
        aio._blocking = ThreadPoolExecutor(4)
        self.neighbour_fd, netlink_fd = new_netns()
        with netlink.Netlink() as here, netlink.Netlink(fd=netlink_fd) as there:
            here.request(netlink.link_up(1), netlink.bridge_add(
                "lan0", mac="02:00:00:00:00:01", mtu=1500))
            lan = netlink.find_link(here, "lan0")
            assert lan
            here.request(
                netlink.address_add(lan.number, ipaddress.ip_interface(f"{HOST}/24")),
                netlink.address_add(lan.number, ipaddress.ip_interface(f"{HOST6}/64")),
                netlink.link_up(lan.number),
                netlink.veth_add("lanport", master=lan.number, mtu=1500, peer_name="eth0",
                                 peer_netns_fd=self.neighbour_fd, peer_mac="02:00:00:00:00:02"))
            eth0 = netlink.find_link(there, "eth0")
            assert eth0
            there.request(
                netlink.link_up(1),
                netlink.address_add(eth0.number, ipaddress.ip_interface(f"{NEIGHBOUR}/24")),
                netlink.address_add(eth0.number, ipaddress.ip_interface(f"{NEIGHBOUR6}/64")),
                netlink.link_up(eth0.number),
                # It knows a way to the containers, so that what stops it is the firewall.
                netlink.default_route_add(eth0.number, ipaddress.ip_address(HOST)),
                netlink.default_route_add(eth0.number, ipaddress.ip_address(HOST6)))
        self.store = Store()
        self.netns = Netns()

    def controller(self, **settings: object) -> NetworkController:
        settings.setdefault("bip", "172.17.0.1/16")
        return NetworkController(BridgeConfig(**settings), store=self.store, netns=self.netns)  # type: ignore[arg-type]


def run(body: Callable[[Lab], Awaitable[object]]) -> Callable[[], object]:
    """Make a body for ``in_net_ns`` out of a coroutine function."""
    return lambda: asyncio.run(body(Lab()))  # type: ignore[arg-type]


def ports(*specs: str) -> dict[str, list[PortBinding]]:
    """``8080:80/tcp`` or ``127.0.0.1|8080:80`` to PortBindings."""
    found: dict[str, list[PortBinding]] = {}
    for spec in specs:
        ip, _, rest = spec.rpartition("|")
        host, _, inner = rest.rpartition(":")
        key = inner if "/" in inner else f"{inner}/tcp"
        found.setdefault(key, []).append(PortBinding(host_ip=ip, host_port=host))
    return found


def request(name: str = "c", *specs: str, **more: object) -> ConnectRequest:
    return ConnectRequest(container_name=name, port_bindings=ports(*specs), **more)  # type: ignore[arg-type]


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def ask(
    address: str, port: int, proto: str = "tcp", *, size: int = 10, timeout_s: float = 3.0,
) -> Mapping[str, object] | str:
    """Talk to a container's server from this namespace; a failure comes back as its words."""
    kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
    with socket.socket(_family(address), kind) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect((address, port))
            sock.sendall(bytes(size))
            if proto == "udp":
                return json.loads(sock.recv(65536))  # type: ignore[no-any-return]
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while data := sock.recv(65536):
                answer += data
        except OSError as error:
            return type(error).__name__
    head, _, tail = answer.partition(b"\n")
    assert len(tail) == size, (len(tail), size)
    return json.loads(head)  # type: ignore[no-any-return]


def ask_in(netns_fd: int, *args: object, **kwargs: object) -> Mapping[str, object] | str:
    """``ask`` from another namespace."""
    read_fd, write_fd = os.pipe()

    def body() -> None:
        setns(netns_fd)
        os.write(write_fd, json.dumps(ask(*args, **kwargs)).encode())  # type: ignore[arg-type]

    pid = child(body)
    os.close(write_fd)
    with open(read_fd, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(answer) if answer else "no answer"  # type: ignore[no-any-return]


def links() -> list[str]:
    return sorted(name for _number, name in socket.if_nameindex())


def udp_server(address: str, port: int) -> socket.socket:
    sock = socket.socket(_family(address), socket.SOCK_DGRAM)
    sock.bind((address, port))
    return sock


