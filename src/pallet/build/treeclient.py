"""A client whose whole context is here already: the classic endpoint's tar, a fetched repository.

Owns   unpacking a tar into the context store, and a ``BuildClient`` over one tree.
Runs   in the daemon, on the loop; a zygote child unpacks.
"""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from pallet.aio import first_error, run_blocking
from pallet.build.contextworker import UntarReply, UntarRequest
from pallet.errors import InvalidParameterError, NotFoundError, SyscallError
from pallet.linux import safepath
from pallet.spec.own.buildwire import IDENTITY_TOKEN_USER, REGISTRY_TOKEN_USER
from pallet.transfer.resolver import login_domain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from typing import TypeVar

    import msgspec

    from pallet.build.context import ContextStore
    from pallet.build.graph import LocalSource
    from pallet.build.ports import AgentDialer, ContextTree, OutputWriter
    from pallet.build.progress import Watch
    from pallet.build.request import Export
    from pallet.spec.engine.auth import AuthConfig
    from pallet.types import Digest

    Reply = TypeVar("Reply", bound=msgspec.Struct)

_BATCH_BYTES = 256 * 1024


class WorkerRunner(Protocol):
    """What runs ``build.untar``: the supervisor."""

    async def run_worker(self, kind: str, request: msgspec.Struct, fds: Iterable[int] = (), *,
                         reply_type: type[Reply]) -> Reply:
        """Run a worker in a child process; cancelling kills it."""
        ...


class TreeClient:
    """A ``BuildClient`` with one tree under every name it is asked for."""

    def __init__(self, store: ContextStore, tree: ContextTree,
                 registries: Mapping[str, AuthConfig] | None = None) -> None:
        """``tree`` stays the caller's."""
        self._store = store
        self._tree = tree
        self._registries = registries or {}

    @property
    def shared_key(self) -> str:
        """It has no directory of its own."""
        return ""

    async def tree(self, source: LocalSource, watch: Watch, vertex: Digest) -> ContextTree:
        """Return the tree; nothing travels."""
        del watch, vertex
        if source.name not in {"context", "dockerfile"}:
            message = f"no local source {source.name} in this build"
            raise NotFoundError(message)
        return self._tree

    async def read_file(self, source: str, path: str, limit_bytes: int) -> bytes | None:
        """Read a file of the tree."""
        del source
        return await run_blocking(read_file, self._tree.root, path, limit_bytes)

    async def release(self, tree: ContextTree) -> None:
        """Nothing: it is held by whoever made this client."""

    async def secret(self, secret_id: str) -> bytes | None:
        """There are none."""
        del secret_id
        return None

    async def ssh_agent(self, agent_id: str) -> AgentDialer | None:
        """There is none."""
        del agent_id
        return None

    async def credentials(self, host: str) -> tuple[str, str] | None:
        """Find what came with the request."""
        for key, auth in self._registries.items():
            if login_domain(key) != login_domain(host):
                continue
            if auth.registrytoken:
                return REGISTRY_TOKEN_USER, auth.registrytoken
            if auth.identitytoken:
                return IDENTITY_TOKEN_USER, auth.identitytoken
            return auth.username, auth.password
        return None

    async def upload(self, url: str) -> AsyncIterator[bytes]:
        """Nothing is piped in beside the context."""
        raise _absent(f"upload {url}")

    async def blob(self, store: str, digest: str) -> AsyncIterator[bytes]:
        """It has no layouts."""
        raise _absent(f"blob {digest} of {store}")

    async def put_blob(self, store: str, digest: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> None:
        """It takes no layouts."""
        del size_bytes, chunks
        raise _absent(f"store {store} for blob {digest}")

    async def open_output(self, export: Export, metadata: Mapping[str, str]) -> OutputWriter:
        """It takes no files."""
        del metadata
        raise _absent(f"output of type {export.kind}")

    async def send_tree(self, export: Export, root: str, metadata: Mapping[str, str]) -> None:
        """It takes no trees."""
        del root, metadata
        raise _absent(f"output of type {export.kind}")


@asynccontextmanager
async def unpacked(store: ContextStore, workers: WorkerRunner,
                   source: AsyncIterator[bytes]) -> AsyncIterator[ContextTree]:
    """Unpack a tar (plain, gzip, bzip2, xz or zstd) into a tree that is gone afterwards.

    Raises:
        InvalidParameterError: it leaves its root, or is no archive.
    """
    async with store.transfer("") as transfer:
        await transfer.settle()
        root = transfer.root
        await _unpack(workers, source, root)
        tree = await transfer.finish()
    try:
        yield tree
    finally:
        await asyncio.shield(store.release(tree))


async def _unpack(workers: WorkerRunner, source: AsyncIterator[bytes], root: str) -> None:
    reply = await feed_pipe(source, lambda read_fd, root_fd: workers.run_worker(
        "build.untar", UntarRequest(), [read_fd, root_fd], reply_type=UntarReply), root)
    reply.result()


async def feed_pipe(source: AsyncIterator[bytes], run: Callable[[int, int], Awaitable[UntarReply]],
                    directory: str) -> UntarReply:
    """Run an unpacking worker on a pipe and a directory, and write ``source`` into the pipe."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    async def work() -> UntarReply:
        return await run(read_fd, root_fd)

    try:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(work())
            group.create_task(_feed(source, write_fd, working))
    except BaseExceptionGroup as problems:
        raise first_error(problems) from None
    finally:
        os.close(read_fd)
        os.close(root_fd)
    return working.result()


async def _feed(source: AsyncIterator[bytes], write_fd: int, work: asyncio.Task[UntarReply]) -> None:
    """Write the archive into the pipe; a worker that has enough ends it, the rest is read and dropped."""
    loop = asyncio.get_running_loop()
    closed = False
    try:
        async for chunk in source:
            view = memoryview(chunk)
            while view and not closed:
                try:
                    view = view[os.write(write_fd, view):]
                except BlockingIOError:
                    await _writable(loop, write_fd, work)
                except BrokenPipeError:
                    closed = True
                closed = closed or work.done()
    finally:
        os.close(write_fd)


async def _writable(loop: asyncio.AbstractEventLoop, fd: int, work: asyncio.Task[UntarReply]) -> None:
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    work.add_done_callback(lambda _: ready.set())
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)


def read_file(root: str, path: str, limit_bytes: int) -> bytes | None:
    """Read a file of a tree, links resolved inside it; None if it is absent. Blocking.

    Raises:
        InvalidParameterError: it is no file, or too large.
    """
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place_fd = safepath.open_in_root(root_fd, path)
    except SyscallError as error:
        if isinstance(error, FileNotFoundError) or error.errno in {2, 20, 40}:
            return None
        raise
    finally:
        os.close(root_fd)
    try:
        mode = os.fstat(place_fd).st_mode
        if not stat.S_ISREG(mode):  # a device of this host may do something when it is opened
            message = f"{path} is {'a directory' if stat.S_ISDIR(mode) else 'no regular file'}"
            raise InvalidParameterError(message)
        with open(f"/proc/self/fd/{place_fd}", "rb") as file:
            data = file.read(limit_bytes + 1)
    finally:
        os.close(place_fd)
    if len(data) > limit_bytes:
        message = f"{path} is larger than {limit_bytes} bytes"
        raise InvalidParameterError(message)
    return data


def _absent(what: str) -> NotFoundError:
    return NotFoundError(f"the client of this build offers no {what}")
