"""A container frozen for as long as somebody holds a pipe.

Owns   the promise that it goes on whatever happens: to the daemon, the zygote or this worker.
Runs   in a zygote child and in a child of that, which is in a session of its own and therefore not
       killed with the daemon's workers.
Spec   Engine API ImageCommit ``pause``; cgroup-v1/freezer-subsystem.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

import msgspec

from pallet.errors import SystemFailureError
from pallet.linux import process as kernel
from pallet.runtime.cgroup import open_cgroup

if TYPE_CHECKING:
    from collections.abc import Sequence


class FreezeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """fds: the read end of the pipe that is held, the write end of one that tells the state.

    ``b"f"`` comes through the second once everything has stopped, or an error's text; its end says
    that everything goes on again, which is when the first one's last writer has closed it.
    """

    cgroups_path: str
    driver: str


class FreezeReply(msgspec.Struct, frozen=True, kw_only=True):
    """The container goes on."""


_request = msgspec.json.Decoder(FreezeRequest)


def run(request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``container.freeze``: ``FreezeRequest`` to ``FreezeReply``."""
    wanted = _request.decode(request)
    hold_fd, state_fd = fds
    child = os.fork()
    if child == 0:
        _hold(wanted, hold_fd, state_fd)
    os.close(state_fd)
    _, status = os.waitpid(child, 0)
    if status:
        message = "the container was let go of before its time"
        raise SystemFailureError(message)
    return msgspec.json.encode(FreezeReply())


def _hold(wanted: FreezeRequest, hold_fd: int, state_fd: int) -> NoReturn:
    code = 1
    try:
        os.setsid()
        kernel.set_name("pallet-freeze")
        _close_others(hold_fd, state_fd)
        cgroup = open_cgroup(wanted.cgroups_path, driver=wanted.driver)
        try:
            cgroup.freeze()
            os.write(state_fd, b"f")
            while os.read(hold_fd, 1):
                pass
        except OSError as error:
            os.write(state_fd, str(error).encode())
        finally:
            if cgroup.exists():
                cgroup.thaw()
        code = 0
    finally:
        os._exit(code)


def _close_others(*kept: int) -> None:
    """Let nobody wait for this process on the worker's own connections."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept and int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                continue
