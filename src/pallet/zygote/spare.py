"""A shim between containers: forked ahead, or done with one and ready for the next.

A fork of the zygote and the first touch of each page of its heap cost more than a whole start does
in a process that has made one before. So a shim whose container has ended, and in which nothing of
it is left, waits for another one if the daemon wants it.

Owns   the wait for a request.
Runs   in a shim.
Spec   zygote/messages.py; docs/adr/0009-spare-shims.md.
"""

from __future__ import annotations

import contextlib
import gc
import os
from typing import TYPE_CHECKING

import msgspec

from pallet.zygote import channel, failures, launch, messages, rehearsal
from pallet.zygote import shim as shims

if TYPE_CHECKING:
    import socket

    from pallet.runtime.cgroupahead import Ahead

_LIVES = 200
"""Containers a shim serves before it ends: what each may leave in its heap stays bounded."""


def wait(sock: socket.socket) -> None:
    """Serve requests that come on ``sock`` until the daemon closes it."""
    shims.become_shim()
    shim = shims.Shim(sock)
    launch.rehearse()
    rehearsal.of_shim()
    ahead: Ahead | None = None
    try:
        for _ in range(_LIVES):
            received = _next_request(sock)
            if received is None:
                return
            shim.run(*received)
            del received
            ahead = shim.next_ahead or ahead
            if not shim.release():
                return
            gc.collect(0)
            gc.disable()
            shim = shims.Shim(sock, ahead)
            try:
                channel.send(sock, messages.encoder.encode(messages.Idle()))
            except OSError:
                return
    finally:
        if ahead is not None:
            ahead.drop()


def _next_request(sock: socket.socket) -> tuple[shims.Request, list[int]] | None:
    """Wait for a start; drop what was meant for the container before."""
    while True:
        try:
            received = channel.receive(sock)
        except channel.DescriptorsLostError as error:
            error.close()
            with contextlib.suppress(OSError):
                channel.send(sock, messages.encoder.encode(failures.of_loss(error)))
            return None
        except ConnectionError:
            return None
        if received is None:
            return None
        body, fds = received
        try:
            return shims.decode(channel.split(body)[0]), fds
        except msgspec.MsgspecError:
            for fd in fds:
                os.close(fd)
