"""What systemd hands in and wants to hear: activated sockets, readiness.

Runs   in the daemon, at start and end. Without systemd every function does nothing.
Spec   sd_listen_fds(3), sd_notify(3).
"""

from __future__ import annotations

import os
import socket
import time
from typing import Final

_FIRST_FD: Final = 3


def take_listeners() -> list[tuple[str, socket.socket]]:
    """Return the sockets systemd opened, by name, and forget them in the environment.

    Returns:
        ``(name, socket)`` in descriptor order; close-on-exec is set.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    for offset in range(int(count)):
        fd = _FIRST_FD + offset
        os.set_inheritable(fd, False)
        name = names[offset] if offset < len(names) else "unknown"
        found.append((name, socket.socket(fileno=fd)))
    return found


def notify(state: str) -> None:
    """Tell systemd ``READY=1``, ``STOPPING=1`` or ``RELOADING=1``; silent when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if state == "RELOADING=1":
        state += f"\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            # The manager is gone or does not want to know; that is no reason to fail.
            return
