"""Sessions that come through a call instead of a connection of their own (Control.Session).

Owns   the relay between the call's messages and a socket pair; the session sees a socket.
Runs   on the event loop: the call's own task and one beside it.
Spec   buildkit-wire Control/Session; bake shares one such session among its targets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

from pallet.api.buildkit.wire.control_pb2 import BytesMessage

if TYPE_CHECKING:
    from pallet.api.buildkit.grpc import Handler, ServerCall
    from pallet.api.buildkit.session import Sessions

_PREFIX: Final = "x-docker-expose-session-"
_CHUNK_BYTES: Final = 64 * 1024


def serve_session(sessions: Sessions) -> Handler:
    """Make the handler of Control.Session."""

    async def handle(call: ServerCall) -> None:
        session_id = call.first(f"{_PREFIX}uuid")
        sessions.claim(session_id)
        here, there = socket.socketpair()
        here.setblocking(False)
        there.setblocking(False)
        try:
            call.start()
            await sessions.add(there, session_id=session_id, name=call.first(f"{_PREFIX}name"),
                               shared_key=call.first(f"{_PREFIX}sharedkey"),
                               methods=call.metadata.get(f"{_PREFIX}grpc-method", []))
            await _relay(call, here)
        finally:
            sessions.drop_claim(session_id)
            here.close()

    return handle


async def _relay(call: ServerCall, sock: socket.socket) -> None:
    """Pass bytes both ways until either side ends."""
    inbound = asyncio.ensure_future(_from_call(call, sock))
    outbound = asyncio.ensure_future(_to_call(call, sock))
    try:
        await asyncio.wait((inbound, outbound), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (inbound, outbound):
            task.cancel()
        await asyncio.gather(inbound, outbound, return_exceptions=True)


async def _from_call(call: ServerCall, sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while (message := await call.read(BytesMessage)) is not None:
            await asyncio.get_running_loop().sock_sendall(sock, message.data)


async def _to_call(call: ServerCall, sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := await asyncio.get_running_loop().sock_recv(sock, _CHUNK_BYTES):
            await call.send(BytesMessage(data=data))
