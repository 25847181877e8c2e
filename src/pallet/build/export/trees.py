"""Outputs ``local`` and ``tar``: the files of a build's result.

Owns   the stream of a root file system's tar; the directory that a tree is laid out in for a client
       that takes files one by one.
Runs   on the loop; zygote children read and unpack.
Spec   BuildKit's exporters ``local`` and ``tar``.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pallet.aio import run_blocking
from pallet.build.contextworker import UntarReply, UntarRequest
from pallet.build.export.values import flag
from pallet.build.treeclient import feed_pipe
from pallet.layer.diffworker import DiffReply, DiffRequest
from pallet.layer.remove import discard
from pallet.spec.mounts import RootMount
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping

    from pallet.build.export.model import ExportJob
    from pallet.build.ports import SolvedTarget
    from pallet.build.request import Export
    from pallet.build.treeclient import WorkerRunner

_PIECE_BYTES = 256 * 1024


@runtime_checkable
class TakesTar(Protocol):
    """A client that unpacks a tree's tar itself."""

    async def send_tar(self, export: Export, chunks: AsyncIterator[bytes], metadata: Mapping[str, str]) -> None:
        """Make what the tar holds the output's directory there."""
        ...


async def pipe_of(run: Callable[[int], Awaitable[None]]) -> AsyncGenerator[bytes, None]:
    """Yield what ``run`` has written into the descriptor it is given; raises what it failed with."""
    loop = asyncio.get_running_loop()
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)

    async def work_to_its_end() -> None:
        try:
            await run(write_fd)
        finally:
            os.close(write_fd)

    work = asyncio.ensure_future(work_to_its_end())
    try:
        while True:
            try:
                data = os.read(read_fd, _PIECE_BYTES)
            except BlockingIOError:
                ready = asyncio.Event()
                loop.add_reader(read_fd, ready.set)
                try:
                    await ready.wait()
                finally:
                    loop.remove_reader(read_fd)
                continue
            if not data:
                break
            yield data
        await work
    finally:
        os.close(read_fd)
        work.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await work


async def worker_tar(workers: WorkerRunner, request: DiffRequest, kind: str) -> AsyncGenerator[bytes, None]:
    """Yield what a worker writes; raises what it failed with."""
    async def run(write_fd: int) -> None:
        reply = await workers.run_worker(kind, request, [write_fd], reply_type=DiffReply)
        reply.result()

    async with aclosing(pipe_of(run)) as tar:
        async for data in tar:
            yield data


async def root_tar(job: ExportJob, target: SolvedTarget) -> AsyncGenerator[bytes, None]:
    """Yield the tar of a target's whole root file system; SOURCE_DATE_EPOCH is the time of all its files."""
    layers = [DiffID(layer) for layer in target.layers]
    root = await run_blocking(job.images.snapshotter.root_mount_of_layers, layers)
    async with aclosing(worker_tar(job.workers, DiffRequest(root=root, time_s=job.epoch_s), "layer.export")) as tar:
        async for data in tar:
            yield data


async def directory_tar(workers: WorkerRunner, directory: str) -> AsyncGenerator[bytes, None]:
    """Yield the tar of a directory of the daemon's own."""
    parent, name = os.path.split(directory)
    root = RootMount(base_dir=parent, lower=[name], upper=None, work=None, options=[])
    async with aclosing(worker_tar(workers, DiffRequest(root=root), "layer.export")) as tar:
        async for data in tar:
            yield data


async def export_local(job: ExportJob, export: Export) -> dict[str, str]:
    """Output ``local``: a directory at the client's."""
    client = job.client
    with job.progress.vertex("exporting to client directory") as vertex, vertex.status("copying files"):
        if isinstance(client, TakesTar) and not _laid(job, export):
            async with aclosing(root_tar(job, job.targets[0])) as tar:
                await client.send_tar(export, tar, {})
            return {}
        directory = await _laid_out(job, export)
        try:
            if isinstance(client, TakesTar):
                async with aclosing(directory_tar(job.workers, directory)) as tar:
                    await client.send_tar(export, tar, {})
            else:
                await client.send_tree(export, directory, {})
        finally:
            await asyncio.shield(run_blocking(discard, directory))
    return {}


async def export_tar(job: ExportJob, export: Export) -> dict[str, str]:
    """Output ``tar``: the root file system in one archive."""
    with job.progress.vertex("exporting to client tarball") as vertex, vertex.status("sending tarball"):
        output = await job.client.open_output(export, {})
        try:
            if _laid(job, export):
                directory = await _laid_out(job, export)
                try:
                    async with aclosing(directory_tar(job.workers, directory)) as tar:
                        async for data in tar:
                            await output.write(data)
                finally:
                    await asyncio.shield(run_blocking(discard, directory))
            else:
                async with aclosing(root_tar(job, job.targets[0])) as tar:
                    async for data in tar:
                        await output.write(data)
            await output.close()
        except BaseException:
            await output.abort()
            raise
    return {}


def _split(job: ExportJob, export: Export) -> bool:
    """Whether every platform gets a directory of its own."""
    return flag(export.attributes, "platform-split", default=len(job.targets) > 1 or job.multi_platform)


def _laid(job: ExportJob, export: Export) -> bool:
    """Whether there is more than the files of one target, which then is laid out in a directory."""
    return bool(job.attestations) or _split(job, export)


async def _laid_out(job: ExportJob, export: Export) -> str:
    """Unpack the targets below a temporary directory."""
    os.makedirs(job.scratch, mode=0o700, exist_ok=True)
    directory = tempfile.mkdtemp(dir=job.scratch)
    os.chmod(directory, 0o755)
    try:
        for target in job.targets:
            below, platform = directory, str(target.platform).replace("/", "_")
            if _split(job, export):
                below = f"{directory}/{platform}"
                os.makedirs(below)
            async with aclosing(root_tar(job, target)) as tar:
                await unpack_into(job.workers, tar, below)
            if job.attestations:
                from pallet.build.export import statements  # few outputs of files have any

                several = below == directory and len(job.targets) > 1
                await statements.put(job, export.attributes, target, below, suffix=platform if several else "")
            if job.epoch_s is not None:
                os.utime(below, (job.epoch_s, job.epoch_s))
    except BaseException:
        await asyncio.shield(run_blocking(discard, directory))
        raise
    return directory


async def unpack_into(workers: WorkerRunner, tar: AsyncIterator[bytes], directory: str) -> None:
    """Unpack a tar into a directory, owners as they are."""
    reply = await feed_pipe(tar, lambda read_fd, root_fd: workers.run_worker(
        "build.untar", UntarRequest(keep_owner=True), [read_fd, root_fd], reply_type=UntarReply), directory)
    reply.result()
