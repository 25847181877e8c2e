"""One health probe: an exec whose output is read by the daemon, with a time limit."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from pallet.spec.engine.exec import ExecConfig

if TYPE_CHECKING:
    from pallet.engine.container import Container
    from pallet.engine.exec import ExecInstances

_MAX_OUTPUT_BYTES = 4096
_HEADER_BYTES = 8


async def run_probe(
    execs: ExecInstances, container: Container, command: tuple[str, ...], timeout_s: float
) -> tuple[int, str]:
    """Run ``command`` in the container; return exit code and the first 4096 bytes of output.

    A probe that takes too long is killed and counts as -1.

    Raises:
        PalletError: the exec could not be started.
    """
    instance = execs.make(container, ExecConfig(cmd=list(command), attach_stdout=True, attach_stderr=True))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    try:
        await execs.run(instance, theirs, None)
        try:
            async with asyncio.timeout(timeout_s):
                output = await _read_frames(ours)
                await instance.ended.wait()
        except TimeoutError:
            if instance.shim is not None:
                instance.shim.kill(9)
            return -1, f"Health check exceeded timeout ({_go_duration(timeout_s)})"
    finally:
        ours.close()
    return instance.exit_code if instance.exit_code is not None else -1, output


def _go_duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours}h{minutes}m{rest:g}s"
    return f"{minutes}m{rest:g}s" if minutes else f"{rest:g}s"


async def _read_frames(sock: socket.socket) -> str:
    """Read stdcopy frames to the end; keep the first bytes of both streams together."""
    loop = asyncio.get_running_loop()
    kept = bytearray()
    buffer = bytearray()
    while data := await loop.sock_recv(sock, 65536):
        buffer += data
        while len(buffer) >= _HEADER_BYTES:
            size = int.from_bytes(buffer[4:8], "big")
            if len(buffer) < _HEADER_BYTES + size:
                break
            if len(kept) <= _MAX_OUTPUT_BYTES:
                kept += buffer[_HEADER_BYTES : _HEADER_BYTES + size]
            del buffer[: _HEADER_BYTES + size]
    text = bytes(kept[:_MAX_OUTPUT_BYTES]).decode("utf-8", "replace")
    return text + "..." if len(kept) > _MAX_OUTPUT_BYTES else text
