"""The port proxy in a process of its own, over loopback."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pallet.zygote import portproxy
from pallet.zygote.portproxy import Forward

if TYPE_CHECKING:
    from collections.abc import Iterator


class Running:
    """A proxy that leads from ``address`` to ``target``."""

    def __init__(self, proto: str, target: tuple[str, int], host: str = "127.0.0.1", *, idle_s: float = 90.0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
        sock.bind((host, 0))
        if proto == "tcp":
            sock.listen(100)
        self.address: tuple[str, int] = sock.getsockname()[:2]
        ready, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            fd, told = os.dup(sock.detach()), os.dup(told)
            for other in set(range(3, 200)) - {fd, told}:  # the test's own sockets
                with contextlib.suppress(OSError):
                    os.close(other)
            os.close(told)
            portproxy.UDP_IDLE_S = idle_s
            portproxy._TICK_S = min(5.0, idle_s)
            portproxy.serve([Forward(fd, proto, *target)])
        sock.close()
        os.close(told)
        os.read(ready, 1)  # until the child has closed its copies
        os.close(ready)

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_ticks(self) -> int:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


@contextlib.contextmanager
def proxied(proto: str, target: tuple[str, int], **more: object) -> Iterator[Running]:
    running = Running(proto, target, **more)  # type: ignore[arg-type]
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(3)
        yield sock


def _connect(running: Running) -> socket.socket:
    return socket.create_connection(running.address, timeout=3)


def _read_all(sock: socket.socket) -> bytes:
    found = b""
    while data := sock.recv(65536):
        found += data
    return found


def test_both_ways_with_half_close(server: socket.socket) -> None:
    """The client ends its side first and still gets the whole answer."""
    with proxied("tcp", server.getsockname()) as running, _connect(running) as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        inner, _ = server.accept()
        with inner:
            inner.settimeout(3)
            assert _read_all(inner) == b"question"
            inner.sendall(b"answer" * 1000)
        assert _read_all(client) == b"answer" * 1000


def test_the_container_may_end_first(server: socket.socket) -> None:
    with proxied("tcp", server.getsockname()) as running, _connect(running) as client:
        inner, _ = server.accept()
        with inner:
            inner.settimeout(3)
            inner.sendall(b"greeting")
            inner.shutdown(socket.SHUT_WR)
            assert _read_all(client) == b"greeting"
            client.sendall(b"still listening?")
            client.shutdown(socket.SHUT_WR)
            assert _read_all(inner) == b"still listening?"


def test_a_closed_connection_leaves_no_descriptor(server: socket.socket) -> None:
    with proxied("tcp", server.getsockname()) as running:
        busy = 0
        for _ in range(5):
            with _connect(running) as client:
                inner, _ = server.accept()
                client.sendall(b"x")
                inner.recv(1)
                busy = busy or running.descriptors()
                inner.close()
        deadline = time.monotonic() + 3
        while running.descriptors() > busy - 2:
            assert time.monotonic() < deadline


def test_back_pressure_and_no_spinning(server: socket.socket) -> None:
    """A reader that stands still stops the writer, and the proxy sleeps meanwhile."""
    with proxied("tcp", server.getsockname()) as running, _connect(running) as client:
        inner, _ = server.accept()
        with inner:
            inner.settimeout(3)
            client.setblocking(False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += client.send(bytes(1 << 20))
            threading.Event().wait(0.05)
            before = running.cpu_ticks()
            threading.Event().wait(0.1)
            assert running.cpu_ticks() - before <= 2
            client.settimeout(3)
            # What was taken arrives once the reader goes on.
            client.shutdown(socket.SHUT_WR)
            assert len(_read_all(inner)) == sent


def test_a_refused_connection_is_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        nobody = sock.getsockname()
    # The reset may already end the connect.
    with proxied("tcp", nobody) as running, pytest.raises(ConnectionResetError), _connect(running) as client:
        client.recv(10)


def test_a_reset_is_passed_on(server: socket.socket) -> None:
    with proxied("tcp", server.getsockname()) as running, _connect(running) as client:
        inner, _ = server.accept()
        inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sendall(b"x")
        inner.close()
        with pytest.raises(ConnectionResetError):
            while client.recv(10):
                pass


def test_ipv6_leads_to_ipv4(server: socket.socket) -> None:
    with proxied("tcp", server.getsockname(), host="::1") as running, _connect(running) as client:
        inner, _ = server.accept()
        inner.sendall(b"hello")
        inner.close()
        assert _read_all(client) == b"hello"


@pytest.fixture
def udp_server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(3)
        yield sock


def _udp_client(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(3)
    return sock


def test_datagrams_of_several_clients_do_not_mix(udp_server: socket.socket) -> None:
    with proxied("udp", udp_server.getsockname()) as running, _udp_client() as one, _udp_client() as two:
        one.sendto(b"1", running.address)
        two.sendto(b"2", running.address)
        for _ in range(2):
            data, peer = udp_server.recvfrom(10)
            udp_server.sendto(b"answer " + data, peer)
        assert one.recv(20) == b"answer 1"
        assert two.recv(20) == b"answer 2"
        two.sendto(b"", running.address)  # an empty datagram is one, too
        assert udp_server.recvfrom(10)[0] == b""


def test_answers_come_from_where_the_client_sent_to(udp_server: socket.socket) -> None:
    """A client with several ways to the host must not get its answer from another address."""
    with proxied("udp", udp_server.getsockname(), host="0.0.0.0") as running, _udp_client() as client:
        client.connect(("127.0.0.5", running.address[1]))  # drops answers from elsewhere
        client.send(b"x")
        data, peer = udp_server.recvfrom(10)
        udp_server.sendto(data, peer)
        assert client.recv(10) == b"x"


def test_silent_clients_are_forgotten(udp_server: socket.socket) -> None:
    with proxied("udp", udp_server.getsockname(), idle_s=0.01) as running, _udp_client() as client:
        client.sendto(b"x", running.address)
        udp_server.recvfrom(10)
        with_client = running.descriptors()
        deadline = time.monotonic() + 3
        while running.descriptors() >= with_client:
            assert time.monotonic() < deadline


def test_a_closed_container_port_does_not_stop_the_proxy(udp_server: socket.socket) -> None:
    """ICMP "port unreachable" arrives as an error of the next call."""
    target = udp_server.getsockname()
    with proxied("udp", target) as running, _udp_client() as client:
        udp_server.close()
        for _ in range(3):
            client.sendto(b"lost", running.address)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(target)
            again.settimeout(3)
            deadline = time.monotonic() + 3
            while True:
                client.sendto(b"heard", running.address)
                again.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    if again.recv(10) == b"heard":
                        break
                assert time.monotonic() < deadline


def test_connections_leave_no_garbage(server: socket.socket) -> None:
    """The process runs without a cycle collector."""
    with socket.create_server(("127.0.0.1", 0)) as front:
        proxy = portproxy.Proxy([Forward(os.dup(front.fileno()), "tcp", *server.getsockname())])
        gc.collect()
        gc.disable()
        try:
            for ending in ("close", "reset"):
                with socket.create_connection(front.getsockname(), timeout=3):
                    proxy.turn(1)
                    proxy.turn(1)
                    inner, _ = server.accept()
                    if ending == "reset":
                        inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    inner.close()
                    proxy.turn(1)
                proxy.turn(0.1)
                proxy.turn(0.1)
            left = [one for one in gc.get_objects() if isinstance(one, portproxy._Connection | portproxy._Side)]
        finally:
            gc.enable()
        assert left == []
        assert len(proxy.handlers) == 1
        (listener,) = [handler.__self__ for handler in proxy.handlers.values()]  # type: ignore[attr-defined]
        listener._sock.close()
        proxy.poll.close()
