"""A container's files as streams: export, changes, and the layer that a commit makes of them.

Owns   the pipes between workers and the daemon. Engine API ContainerExport, ContainerChanges.
Runs   on the loop; zygote children read the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Protocol

from pallet.aio import run_blocking
from pallet.engine.status import Status
from pallet.errors import ConflictError
from pallet.layer.diffworker import DiffReply, DiffRequest
from pallet.storage import stubs

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from pallet.engine.container import Container
    from pallet.engine.index import ContainerIndex
    from pallet.spec.engine.options import CommitOptions
    from pallet.storage.snapshot import Snapshotter
    from pallet.supervisor.client import Supervisor

_PIPE_BYTES = 1 << 20
_PIECE_BYTES = 256 * 1024


class Result(Protocol):
    """A worker's reply."""

    def result(self) -> object:
        """Raise what went wrong."""
        ...


class WorkerStream:
    """What a worker writes, in pieces. An asynchronous iterator; ``aclose`` ends the worker.

    All pieces but the last have ``_PIECE_BYTES``, so that the same bytes come in the same pieces.
    """

    def __init__(
        self, supervisor: Supervisor, kind: str, request: msgspec.Struct, pidfd: int = -1, *,
        reply_type: type[Result] = DiffReply, at_end: Callable[[], None] | None = None,
    ) -> None:
        """Start the worker; ``pidfd`` is closed here.

        Args:
            at_end: called once everything has come; what it raises ends the stream.
        """
        self._at_end = at_end
        self._fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        with contextlib.suppress(OSError):  # a user's share of pipes may be used up
            fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        fds = [write_fd] if pidfd < 0 else [write_fd, pidfd]
        self._task = asyncio.get_running_loop().create_task(
            _run(supervisor, kind, request, fds, reply_type))

    def __aiter__(self) -> WorkerStream:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece.

        Raises:
            PalletError: the worker failed.
        """
        parts: list[bytes] = []
        missing = _PIECE_BYTES
        while missing and self._fd >= 0:
            try:
                data = os.read(self._fd, missing)
            except BlockingIOError:
                await readable(self._fd)
                continue
            if not data:
                (await self._task).result()  # raises what went wrong
                if self._at_end is not None:
                    self._at_end()
                self._close()
            parts.append(data)
            missing -= len(data)
        piece = b"".join(parts)
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """End the worker if it still works, and wait for that."""
        self._close()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


async def _run(supervisor: Supervisor, kind: str, request: msgspec.Struct, fds: list[int],
               reply_type: type[Result]) -> Result:
    try:
        return await supervisor.run_worker(kind, request, fds, reply_type=reply_type)
    finally:
        # The worker is done: only now can the reader's end of file be the end of everything.
        for fd in fds:
            os.close(fd)


async def readable(fd: int) -> None:
    """Wait until there is something to read, or the end."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def writable(fd: int) -> None:
    """Wait until a pipe takes more, or has lost its reader."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_writer(fd)


class CommitMaker(Protocol):
    """What makes images of containers."""

    async def commit(self, options: CommitOptions) -> str:
        """See ``TreeBackend.commit``."""
        ...


class ContainerTrees:
    """Implements ``api.treebackend.TreeBackend``; commits are ``engine/commit.py``'s."""

    commits: CommitMaker

    def __init__(self, *, index: ContainerIndex, snapshotter: Snapshotter, supervisor: Supervisor) -> None:
        self._index = index
        self._snapshotter = snapshotter
        self._supervisor = supervisor

    async def changes(self, name_or_id: str) -> bytes:
        """See ``TreeBackend.changes``."""
        stream = await self._open("layer.changes", self._index.get(name_or_id))
        try:
            return b"".join([piece async for piece in stream])
        finally:
            await stream.aclose()

    async def export(self, name_or_id: str) -> WorkerStream:
        """See ``TreeBackend.export``."""
        container = self._index.get(name_or_id)
        check_readable(container, "export")
        pidfd = container.shim.pidfd() if container.shim is not None else -1
        return await self._open("layer.export", container, pidfd=pidfd, verb="export")

    async def commit(self, options: CommitOptions) -> str:
        """See ``TreeBackend.commit``."""
        return await self.commits.commit(options)

    async def layer(self, container: Container, epoch_s: int | None) -> WorkerStream:
        """Return what the container adds to its image, as a layer's tar."""
        return await self._open("layer.diff", container, epoch_s=epoch_s, verb="commit")

    async def _open(self, kind: str, container: Container, *, epoch_s: int | None = None,
                    pidfd: int = -1, verb: str = "read") -> WorkerStream:
        def whole() -> None:
            if not self._snapshotter.has(container.id):
                msg = f"You cannot {verb} container {container.id} which is being removed"
                raise ConflictError(msg)

        root = stubs.under(self._snapshotter.root_mount(container.id))
        plain = not root.lower
        # A copy of a tree has nothing that says what changed in it: it is compared with the image.
        base = await run_blocking(self._snapshotter.root_mount_of_layers, container.layers) if plain else None
        return WorkerStream(self._supervisor, kind, DiffRequest(
            root=root, epoch_s=epoch_s, running=pidfd >= 0,
            base=base,
            stubs=[*stubs.DIRECTORIES, *stubs.FILES, *stubs.LINKS] if plain else []), pidfd,
            at_end=whole)


def check_readable(container: Container, verb: str) -> None:
    """Refuse what is on its way out.

    Raises:
        ConflictError: in Docker's words.
    """
    if container.status is Status.DEAD:
        msg = f"You cannot {verb} container {container.id} which is Dead"
        raise ConflictError(msg)
    if container.status is Status.REMOVING or container.removed or container.hidden:
        msg = f"You cannot {verb} container {container.id} which is being removed"
        raise ConflictError(msg)
