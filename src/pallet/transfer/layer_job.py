"""The work on one layer: from its descriptor to a committed snapshot and a kept blob.

Owns   the order of download, verification, unpacking and commit, and what is undone on failure.
Runs   on the event loop; blocks only in ``TransferThreads``; unpacks in a zygote child.
Needs  ``LayerTools``.
Spec   image-spec layer.md, config.md#layer-diffid.

A download thread appends to an ingest file and hashes; a worker reads the same file behind it and
is told through a pipe how far it may read. Nothing a layer needs is known of its parents, but for
the rare hard link to a file of a lower layer (``MissingLinkTargetError``): such a layer is unpacked
again, from its blob, once its parents are there.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from pallet.aio import held
from pallet.errors import DataLossError, PalletError, SystemFailureError
from pallet.layer.model import Applied, ArchiveError, MissingLinkTargetError
from pallet.layer.worker import ApplyReply, ApplyRequest, ProgressWriter
from pallet.spec import digest as digests
from pallet.storage.content import DigestMismatchError, Ingest
from pallet.transfer import progress
from pallet.transfer.cancellation import Cancellation
from pallet.transfer.retry import Retries, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import msgspec
    from urllib3.response import HTTPResponse

    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.image import Descriptor
    from pallet.storage.content import ContentStore
    from pallet.storage.snapshot import LayerDraft, Snapshotter
    from pallet.transfer.threads import TransferThreads
    from pallet.types import DiffID

Reply = TypeVar("Reply")
T = TypeVar("T")

_MAX_DAMAGED = 2
"""Whole downloads of a blob whose digest turns out wrong."""
_MISMATCH = "layers from manifest don't match image configuration"


class WorkerRunner(Protocol):
    """The part of ``supervisor.client.Supervisor`` that unpacking needs."""

    async def run_worker(
        self, kind: str, request: msgspec.Struct, fds: Iterable[int] = (), *,
        reply_type: type[Reply],
    ) -> Reply:
        """Run a worker in a child process; cancelling kills it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTools:
    """What layer work uses, shared by all layers of a daemon."""

    content: ContentStore
    snapshotter: Snapshotter
    workers: WorkerRunner
    threads: TransferThreads
    retry: RetryPolicy
    downloads: asyncio.Semaphore
    unpacks: asyncio.Semaphore


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSource:
    """A layer that a pull wants.

    Args:
        open_at: opens the compressed blob at a byte offset; runs in a thread.
        parents: DiffIDs below it, base first.
        parents_ready: the parents are committed and may be looked into for hard links.
    """

    descriptor: Descriptor
    diff_id: DiffID
    open_at: Callable[[int], HTTPResponse]
    parents: tuple[DiffID, ...] = ()
    parents_ready: bool = False

    @property
    def id(self) -> str:
        """Name in progress messages."""
        return digests.short(self.descriptor.digest)


class LayerJob:
    """One layer. ``emit`` is set by whoever wants its progress."""

    def __init__(self, tools: LayerTools, source: LayerSource) -> None:
        self._tools = tools
        self._source = source
        self._descriptor = source.descriptor
        self._loop = asyncio.get_running_loop()
        self.emit: Callable[[ProgressMessage], None] = _ignore

    async def run(self) -> None:
        """Do what is missing. On failure nothing of it is left.

        Raises:
            PalletError: it cannot be had.
            MissingLinkTargetError: the blob is kept; try again with ``parents_ready``.
        """
        for damaged in range(1, _MAX_DAMAGED + 1):
            try:
                await self._run()
                break
            except DigestMismatchError:
                # Damaged on the way, or by the server: once more from the start tells.
                if damaged == _MAX_DAMAGED:
                    raise
        self.emit(progress.update("Pull complete", self._source.id))

    async def _run(self) -> None:
        tools = self._tools
        have_blob = tools.content.has(self._descriptor.digest)
        have_layer = tools.snapshotter.has_layer(self._source.diff_id)
        if have_layer and have_blob:
            return
        if have_layer:
            await self._download(None, None)
            return
        async with held(partial(_on_disk, tools.snapshotter.draft), tools.snapshotter.abort) as draft:
            applied = await (self._unpack_stored(draft) if have_blob else self._bring_in(draft))
            if applied.diff_id != self._source.diff_id:
                raise DataLossError(_MISMATCH)
            size = self._descriptor.size
            self.emit(progress.count("Extracting", self._source.id, size, size))
            await tools.threads.run(partial(
                tools.snapshotter.commit_layer, draft, applied.diff_id, applied.size_bytes,
                implied_dirs=applied.implied_dirs, opaque_root=applied.opaque_root))

    async def _bring_in(self, draft: LayerDraft) -> Applied:
        """Download and unpack at the same time."""
        feed = ProgressWriter()
        growing: asyncio.Future[int] = self._loop.create_future()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._download(feed, growing))
                unpack = group.create_task(self._unpack_growing(draft, feed, growing))
        except BaseExceptionGroup as failures:
            raise _first_cause(failures) from failures
        finally:
            feed.close()
            if growing.done() and not growing.cancelled():
                os.close(growing.result())
        outcome = unpack.result()
        if isinstance(outcome, PalletError):
            raise outcome
        return outcome

    async def _unpack_growing(
        self, draft: LayerDraft, feed: ProgressWriter, growing: asyncio.Future[int]
    ) -> Applied | PalletError:
        """Unpack behind the download.

        Damaged archives and missing link targets are returned, not raised: the download goes on to
        its end, since its digest tells whether the archive was made so or broken on the way, and
        the blob is needed for another try.
        """
        source_fd = await asyncio.shield(growing)
        async with self._tools.unpacks:
            try:
                return await self._apply(draft, source_fd, feed)
            except (ArchiveError, MissingLinkTargetError) as error:
                return error

    async def _download(
        self, feed: ProgressWriter | None, growing: asyncio.Future[int] | None
    ) -> None:
        """Download into the content store; ``growing`` gets a descriptor of the file."""
        tools, layer_id = self._tools, self._source.id
        if tools.downloads.locked():
            self.emit(progress.update("Waiting", layer_id))
        async with tools.downloads:
            cancel = Cancellation()
            new_ingest = partial(tools.content.ingest, self._descriptor.digest)
            async with held(partial(_on_disk, new_ingest), Ingest.abort) as ingest:
                if growing is not None:
                    growing.set_result(os.dup(ingest.fileno()))
                await tools.threads.run(partial(self._fetch, ingest, feed, cancel), cancel)
                self.emit(progress.update("Verifying Checksum", layer_id))
                # Where the layer is committed after this, its sync covers the blob as well.
                await tools.threads.run(partial(ingest.commit, durable=growing is None))
        self.emit(progress.update("Download complete", layer_id))

    def _fetch(self, ingest: Ingest, feed: ProgressWriter | None, cancel: Cancellation) -> None:
        """Thread body of a download."""
        size, layer_id = self._descriptor.size, self._source.id
        throttle = progress.Throttle(lambda current: self._from_thread(
            progress.count("Downloading", layer_id, current, size)))

        def on_bytes(current: int) -> None:
            if feed is not None:
                feed.advance(current)
            throttle.report(current)

        def announce(left_s: int) -> None:
            plural = "" if left_s == 1 else "s"
            self._from_thread(progress.update(f"Retrying in {left_s} second{plural}", layer_id))

        from pallet.transfer.fetch import fetch  # urllib3: a daemon's start does without

        fetch(self._source.open_at, size, ingest, cancel=cancel, on_bytes=on_bytes,
              retries=Retries(self._tools.retry, cancel, announce))
        if feed is not None:
            feed.finish(size)

    async def _unpack_stored(self, draft: LayerDraft) -> Applied:
        """Unpack a blob that is here: its snapshot was lost, or its parents were missing."""
        tools = self._tools
        source_fd = await tools.threads.run(partial(tools.content.open, self._descriptor.digest))
        try:
            async with tools.unpacks:
                applied = await self._apply(draft, source_fd, None)
            if applied.diff_id != self._source.diff_id:
                raise ArchiveError(_MISMATCH)
            return applied
        except ArchiveError as error:
            digest = self._descriptor.digest
            if await tools.threads.run(partial(tools.content.heal, digest)):
                raise
            # A power cut took part of the blob: away with it, and from the start.
            raise DigestMismatchError(str(error)) from error
        finally:
            os.close(source_fd)

    async def _apply(self, draft: LayerDraft, source_fd: int, feed: ProgressWriter | None) -> Applied:
        lower: list[str] = []
        if self._source.parents_ready and self._source.parents:
            mount = await self._tools.threads.run(partial(
                self._tools.snapshotter.root_mount_of_layers, self._source.parents))
            lower = [os.path.join(mount.base_dir, name) for name in mount.lower]
        request = ApplyRequest(target=draft.path, growing=feed is not None, lower_dirs=lower)
        fds = [source_fd] if feed is None else [source_fd, feed.read_fd]
        reply = await self._tools.workers.run_worker(
            "layer.apply", request, fds, reply_type=ApplyReply)
        return reply.result()

    def _from_thread(self, message: ProgressMessage) -> None:
        self._loop.call_soon_threadsafe(self.emit, message)


def _first_cause(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure to tell of: the first that is not a mere consequence."""
    found = [error for error in failures.exceptions
             if not isinstance(error, asyncio.CancelledError)]
    damaged = [error for error in found if isinstance(error, DigestMismatchError)]
    return (damaged or found or list(failures.exceptions))[0]


def _ignore(_message: ProgressMessage) -> None:
    return None


def _on_disk(fn: Callable[[], T]) -> T:
    """Call ``fn``; what the disk refuses is the pull's failure."""
    try:
        return fn()
    except OSError as error:
        raise SystemFailureError(str(error)) from error
