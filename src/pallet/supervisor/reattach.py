"""Finding a shim again by its directory.

Owns   the order of questions: is it alive, did it leave an exit, was it lost.
Runs   on the event loop.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.linux import procfs
from pallet.supervisor.shims import Exit, Shim
from pallet.zygote import channel, messages

if TYPE_CHECKING:
    from collections.abc import Callable

_HELLO_TIMEOUT_S = 10.0
_LISTEN_INTERVAL_S = 0.01
_LISTEN_LOOKS = 200
_END_INTERVAL_S = 0.01
_END_LOOKS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The shim is gone without an exit file; what it ran has to be killed."""

    exit: Exit

    @classmethod
    def now(cls) -> Lost:
        """A loss that is noticed at this moment."""
        return cls(exit=Exit(
            exit_code=137, oom_killed=False, finished_at_ns=time.time_ns(),
            error="the container's shim was killed, and the container with it"))


async def find(shim_dir: str, on_close: Callable[[Shim], None]) -> Shim | Exit | Lost | None:
    """Connect to the shim in ``shim_dir``, or say how it ended; None where none ever started."""
    for _ in range(_LISTEN_LOOKS):
        if (shim := await _connect(shim_dir, on_close)) is not None:
            return shim
        # A shim that ends writes ``exit`` before it closes its socket, so look only now.
        if (document := _read(os.path.join(shim_dir, "exit"))) is not None:
            await _wait_for_end(shim_dir)
            event = messages.exit_decoder.decode(document)
            return Exit(exit_code=event.exit_code, oom_killed=event.oom_killed,
                        finished_at_ns=event.finished_at_ns, error=event.error,
                        started_at_ns=_started_at_ns(shim_dir))
        # One that has just started its process listens only after it has said so.
        if not _is_served(shim_dir):
            break
        await asyncio.sleep(_LISTEN_INTERVAL_S)
    return Lost.now() if has_state(shim_dir) else None


def _is_served(shim_dir: str) -> bool:
    document = _read(os.path.join(shim_dir, "state.json"))
    if document is None:
        return False
    state = messages.state_decoder.decode(document)
    return procfs.is_alive(state.shim_pid, state.shim_start_time)


def has_state(shim_dir: str) -> bool:
    """True when a shim in ``shim_dir`` came so far that something may run."""
    return os.path.exists(os.path.join(shim_dir, "state.json"))


def _started_at_ns(shim_dir: str) -> int:
    document = _read(os.path.join(shim_dir, "state.json"))
    return messages.state_decoder.decode(document).started_at_ns if document is not None else 0


async def _wait_for_end(shim_dir: str) -> None:
    """Wait until a shim that has told its exit has also taken everything down.

    It removes its socket's name then; or it was killed.
    """
    if (document := _read(os.path.join(shim_dir, "state.json"))) is None:
        return
    state = messages.state_decoder.decode(document)
    for _ in range(_END_LOOKS):
        if not _has_socket(shim_dir) or not procfs.is_alive(
                state.shim_pid, state.shim_start_time):
            return
        await asyncio.sleep(_END_INTERVAL_S)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, on_readable)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def _connect(shim_dir: str, on_close: Callable[[Shim], None]) -> Shim | None:
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    try:
        # A socket's path has at most 107 bytes, an exec root and a 64-digit id may have more.
        directory_fd = os.open(shim_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await loop.sock_connect(sock, f"/proc/self/fd/{directory_fd}/sock")
        finally:
            os.close(directory_fd)
        async with asyncio.timeout(_HELLO_TIMEOUT_S):
            received = await _receive(sock)
    except channel.DescriptorsLostError as error:
        error.close()
        sock.close()
        return None
    except (OSError, TimeoutError):
        sock.close()
        return None
    if received is None:
        sock.close()
        return None
    hello = messages.event_decoder.decode(received[0])
    assert isinstance(hello, messages.Hello)
    return Shim(shim_id=hello.id, pid=hello.pid, shim_pid=hello.shim_pid,
                started_at_ns=hello.started_at_ns, shim_dir=shim_dir, pidfd=received[1][0],
                control=sock, on_close=on_close)


async def _receive(sock: socket.socket) -> tuple[bytes, list[int]] | None:
    await _readable(sock.fileno())
    return channel.receive(sock)


def _has_socket(shim_dir: str) -> bool:
    return os.path.exists(os.path.join(shim_dir, "sock"))


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
