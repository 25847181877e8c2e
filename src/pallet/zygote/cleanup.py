"""Killing what a lost shim left running.

Owns   the judgement from ``state.json``: what may be killed, and what must be another's by now.
Runs   in a zygote child, for the daemon.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

from pallet.linux import procfs
from pallet.runtime.cgroup import open_cgroup
from pallet.zygote import messages

_DEATH_TIMEOUT_S = 5.0


def run(request: bytes, fds: list[int]) -> bytes:
    """Kill and remove what the shim in directory ``request`` was responsible for.

    Idempotent; a directory without ``state.json`` has nothing to kill.
    """
    del fds
    try:
        with open(os.path.join(os.fsdecode(request), "state.json"), "rb") as file:
            state = messages.state_decoder.decode(file.read())
    except FileNotFoundError:
        return b""
    _kill(state.pid, state.pid_start_time)
    if state.kill_cgroup and state.cgroups_path:
        cgroup = open_cgroup(state.cgroups_path, driver=state.cgroup_driver)
        if cgroup.exists():
            cgroup.kill_all()
            cgroup.delete()
    return b""


def _kill(pid: int, started: int) -> None:
    """SIGKILL ``pid`` if it is still that process, and wait for its end."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Only now, with the descriptor in hand, is the check free of races.
        if not procfs.is_alive(pid, started):
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.poll(_DEATH_TIMEOUT_S * 1000)
    finally:
        os.close(pidfd)
