"""Attaching clients to a container's streams, and what may be asked of a terminal.

The client's socket goes to the shim: with the start message for clients that attach first, at once
otherwise. Engine API ContainerAttach; semantics rows "stream".
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pallet.engine.container import Container, PendingAttach
from pallet.engine.status import Status
from pallet.errors import ConflictError, InvalidParameterError

if TYPE_CHECKING:
    import socket

    from pallet.engine.containerlogs import LogReader
    from pallet.engine.store import ContainerStore
    from pallet.engine.tasks import Tasks
    from pallet.spec.engine.options import AttachOptions, OpenStream
    from pallet.supervisor.shims import AttachResult

_DEFAULT_DETACH_KEYS = b"\x10\x11"
_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_detach_keys(text: str) -> bytes:
    """Docker's key syntax: ``ctrl-p,ctrl-q``, single characters, comma separated; "" is the default.

    Raises:
        InvalidParameterError: an unknown key.
    """
    if not text:
        return _DEFAULT_DETACH_KEYS
    keys = bytearray()
    for part in text.split(","):
        if len(part) == 1:
            keys += part.encode()
            continue
        control = part.removeprefix("ctrl-")
        if control == part or len(control) != 1:
            msg = f'Invalid detach keys ("{text}") provided'
            raise InvalidParameterError(msg)
        if "a" <= control <= "z":
            keys.append(ord(control) - ord("a") + 1)
        elif control in _CONTROL:
            keys.append(_CONTROL[control])
        else:
            msg = f'Invalid detach keys ("{text}") provided'
            raise InvalidParameterError(msg)
    return bytes(keys)


def detach_keys_of(container: Container, options: AttachOptions) -> str:
    """The keys the shim heeds for this client, as Latin-1 text; "" for none."""
    if not (container.config.tty and options.stdin):
        return ""
    return parse_detach_keys(options.detach_keys).decode("latin-1")


def check_attachable(container: Container) -> None:
    """Refuse an attach that the status forbids.

    Raises:
        ConflictError: paused or restarting.
    """
    if container.status is Status.PAUSED:
        msg = f"container {container.id} is paused, unpause the container before attach"
        raise ConflictError(msg)
    if container.status is Status.RESTARTING:
        msg = f"container {container.id} is restarting, wait until the container is running"
        raise ConflictError(msg)


class Attacher:
    """Hands clients to shims."""

    def __init__(self, store: ContainerStore, logs: LogReader, tasks: Tasks) -> None:
        self._store = store
        self._logs = logs
        self._tasks = tasks

    async def attach(self, container: Container, options: AttachOptions, open_stream: OpenStream) -> None:
        """See ``api.backends.ContainerBackend.attach``."""
        check_attachable(container)
        keys = parse_detach_keys(options.detach_keys)
        sock = await open_stream(multiplexed=not container.config.tty)
        self._store.emit(container, "attach")
        try:
            if options.logs:
                await self._replay(container, options, sock)
            # A start that is under way has taken its clients along already: see how it ends.
            async with container.lock:
                shim = container.shim
                if not options.stream or container.removed:
                    sock.close()
                    return
                if shim is None or container.status is not Status.RUNNING:
                    done: asyncio.Future[AttachResult] = asyncio.get_running_loop().create_future()
                    container.pending.append(PendingAttach(sock, options, done))
                    self._tasks.spawn(self._report(container, done), f"attach of {container.id[:12]}")
                    return
        except BaseException:
            sock.close()
            raise
        stdin = options.stdin and container.config.open_stdin
        ended = await shim.attach(
            sock, stdin=stdin, stdout=options.stdout, stderr=options.stderr,
            mux=not container.config.tty, detach_keys=keys if container.config.tty and stdin else b"")
        self._tasks.spawn(self._report(container, ended), f"attach of {container.id[:12]}")

    async def _report(self, container: Container, ended: asyncio.Future[AttachResult]) -> None:
        if await ended == "detached":
            self._store.emit(container, "detach")

    async def _replay(self, container: Container, options: AttachOptions, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async for chunk in self._logs.history(container, stdout=options.stdout, stderr=options.stderr):
            await loop.sock_sendall(sock, chunk)
