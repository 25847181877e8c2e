"""Published ports of one container: their reservations, and the proxy behind them.

Owns   the listening sockets for the container's life, and the proxy process once there is one.
Runs   in a shim.
Spec   docs/dev/seams.md "network"; NAT carries nearly everything, so the proxy is only forked when
       a packet really reaches one of these sockets.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Protocol

from pallet.zygote import portproxy
from pallet.zygote.poller import READ

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.zygote.messages import Listener
    from pallet.zygote.poller import Poller


_MOST_DEATHS = 20


class Fork(Protocol):
    """``Shim.fork_helper``."""

    def __call__(self, body: Callable[[], None], keep_fds: Sequence[int] = ()) -> int: ...


class Ports:
    """The reservations of one container."""

    def __init__(self, poller: Poller, fork: Fork, listeners: Sequence[Listener],
                 fds: Sequence[int]) -> None:
        self._poller = poller
        self._fork = fork
        self._forwards = [
            portproxy.Forward(fd, listener.proto, listener.target_ip, listener.target_port)
            for fd, listener in zip(fds, listeners, strict=True)]
        self._proxy_pid = 0
        self._deaths = 0
        self._watch()

    def _watch(self) -> None:
        for forward in self._forwards:
            self._poller.watch(forward.fd, READ, lambda _events: self._start_proxy())

    def reaped(self, pid: int) -> None:
        """A child of the shim has ended: if it was the proxy, the next packet starts another."""
        if pid != self._proxy_pid:
            return
        self._proxy_pid = 0
        self._deaths += 1
        if self._deaths < _MOST_DEATHS:  # one that cannot live must not be forked for ever
            self._watch()

    def _start_proxy(self) -> None:
        if self._proxy_pid:
            return
        for forward in self._forwards:
            self._poller.forget(forward.fd)
        self._proxy_pid = self._fork(lambda: portproxy.serve(self._forwards),
                                     [forward.fd for forward in self._forwards])

    def close(self) -> None:
        """End the proxy and give the ports back."""
        if self._proxy_pid:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._proxy_pid, signal.SIGKILL)
                os.waitpid(self._proxy_pid, 0)
        for forward in self._forwards:
            self._poller.forget(forward.fd)
            os.close(forward.fd)
        self._forwards = []
