"""Sockets on this host that lead to a client's ssh agent.

Owns   the socket and its connections; not the directory that it lies in.
Runs   on the loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import posixpath
import socket
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

logger = logging.getLogger(__name__)

_BACKLOG = 16
_PIECE_BYTES = 64 * 1024


class Writer(Protocol):
    """The way to an agent; see ``build.ports.AgentWriter``."""

    async def write(self, data: bytes) -> None: ...


class Dial(Protocol):
    """Opens a connection to the agent; see ``build.ports.AgentDialer``."""

    async def __call__(self) -> tuple[AsyncIterator[bytes], Writer]: ...


class AgentRelay:
    """A socket that a step or a program sees; each connection to it is one to the client's agent."""

    def __init__(self, path: str, dial: Dial, *, owner: tuple[int, int] = (0, 0),
                 mode: int = 0o600) -> None:
        """Make the socket; blocking.

        Raises:
            OSError: it cannot be made.
        """
        self.path = path
        self._dial = dial
        self._server: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # By the directory's descriptor: the whole path is longer than a socket's name may be.
        directory_fd = os.open(posixpath.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.bind(f"/proc/self/fd/{directory_fd}/{posixpath.basename(path)}")
            os.chown(path, *owner)
            os.chmod(path, mode)
            self._socket.listen(_BACKLOG)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        finally:
            os.close(directory_fd)

    def serve(self) -> None:
        """Begin to take connections; on the loop."""
        self._server = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """End them all."""
        for task in (*self._connections, *([self._server] if self._server else [])):
            task.cancel()
        self._socket.close()

    async def _accept(self) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(self._socket)
            reader, writer = await asyncio.open_unix_connection(sock=connection)
            task = asyncio.get_running_loop().create_task(self._relay(reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, agent = await self._dial()

            async def forward() -> None:
                while data := await reader.read(_PIECE_BYTES):
                    await agent.write(data)
                await agent.write(b"")

            up = asyncio.ensure_future(forward())
            try:
                async for data in answers:
                    writer.write(data)
                    await writer.drain()
            finally:
                up.cancel()
                await asyncio.wait({up})
        except Exception as error:  # noqa: BLE001 - one connection's end, whatever the client did
            logger.debug("connection to an agent ended: %s", error)
        finally:
            writer.close()
