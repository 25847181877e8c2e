"""A container's published ports: the proxy is forked on demand, and again when it has died."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING

from pallet.zygote.messages import Listener
from pallet.zygote.poller import Poller
from pallet.zygote.ports import Ports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def test_a_proxy_that_died_is_replaced_by_the_next_packet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as container, socket.create_server(("127.0.0.1", 0)) as published:
        container.settimeout(10)
        host, port = container.getsockname()
        address = published.getsockname()
        poller, pids = Poller(), []

        def fork(body: Callable[[], None], keep_fds: Sequence[int] = ()) -> int:
            pid = os.fork()
            if pid:
                pids.append(pid)
                return pid
            try:
                for fd in set(range(3, 200)) - set(keep_fds):
                    with contextlib.suppress(OSError):
                        os.close(fd)
                body()
            finally:
                os._exit(1)

        ports = Ports(poller, fork, [Listener(proto="tcp", target_ip=host, target_port=port)], [published.detach()])
        try:
            for number in (1, 2, 3):
                with socket.create_connection(address, timeout=10) as client:
                    poller.turn()
                    assert len(pids) == number
                    with container.accept()[0] as inside:
                        client.sendall(b"through")
                        assert inside.recv(100) == b"through"
                os.kill(pids[-1], signal.SIGKILL)
                os.waitpid(pids[-1], 0)
                ports.reaped(pids[-1])
        finally:
            ports.close()


def test_the_end_of_another_child_is_nothing_to_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as published:
        poller = Poller()
        ports = Ports(poller, lambda body, keep_fds=(): 77, [
            Listener(proto="tcp", target_ip="127.0.0.1", target_port=1)], [fd := os.dup(published.fileno())])
        with socket.create_connection(published.getsockname(), timeout=10):
            poller.turn()
            assert not poller.watches(fd)
            ports.reaped(76)
            assert not poller.watches(fd)
            ports.reaped(77)
            assert poller.watches(fd)
        ports.close()


def test_one_that_cannot_live_is_not_forked_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as published:
        poller = Poller()
        made: list[int] = []

        def fork(body: Callable[[], None], keep_fds: Sequence[int] = ()) -> int:
            del body, keep_fds
            made.append(1000 + len(made))
            return made[-1]

        ports = Ports(poller, fork, [Listener(proto="tcp", target_ip="127.0.0.1", target_port=1)],
                      [fd := os.dup(published.fileno())])
        with socket.create_connection(published.getsockname(), timeout=10):
            while poller.watches(fd):
                poller.turn()
                ports.reaped(made[-1])
        assert len(made) == 20
        ports.close()
