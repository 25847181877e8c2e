"""``docker load``: images out of an archive, unpacked while it arrives.

Owns   the order of a load and what is undone when it fails.
Runs   on the event loop; one thread reads the archive and writes blobs, zygote children unpack.
Needs  the image store, the supervisor, the layer pool of the transfers.
Spec   Engine API ImageLoad.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pallet.aio import run_blocking
from pallet.errors import DataLossError, PalletError, SystemFailureError
from pallet.image.archive.intake import Arrival, Contents, Intake, Pieces
from pallet.image.archive.plan import Plan
from pallet.layer.model import MissingLinkTargetError
from pallet.layer.worker import ApplyReply, ApplyRequest, ProgressWriter
from pallet.spec import digest as digests
from pallet.transfer import progress
from pallet.transfer.layer_job import LayerSource
from pallet.types import DiffID, Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from urllib3.response import HTTPResponse

    from pallet.image.archive.plan import PlannedImage, PlannedName
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.layer.model import Applied
    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.storage.leases import Lease
    from pallet.storage.snapshot import LayerDraft
    from pallet.transfer.layer_job import WorkerRunner
    from pallet.transfer.layers import LayerPool

    Report = Callable[[ProgressMessage], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedImage:
    """What was recorded for one entry of the archive.

    ``replaced`` maps a name to the image that had it before.
    """

    images: Sequence[Image]
    names: Sequence[Reference]
    replaced: dict[str, Image] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Unpacking:
    """A layer being unpacked behind its arrival."""

    arrival: Arrival
    draft: LayerDraft
    feed: ProgressWriter
    fd: int
    task: asyncio.Task[None] | None = None


class Loader:
    """Loads archives. One a daemon: its limit on unpacking spans all loads."""

    def __init__(self, images: ImageStore, workers: WorkerRunner, layers: LayerPool) -> None:
        self._images = images
        self._workers = workers
        self._layers = layers
        self._unpacks = asyncio.Semaphore((os.cpu_count() or 1) + 1)

    async def run(self, source: AsyncIterator[bytes], *, platforms: Sequence[Platform] = (),
                  watch: Report | None = None) -> list[LoadedImage]:
        """Read an archive to its end and record its images.

        Args:
            source: plain or compressed with gzip, bzip2, xz or zstd.
            platforms: load the images for these only; empty loads all.
            watch: told of the bytes of each layer, on the loop.

        Raises:
            InvalidParameterError: no archive of images.
            DataLossError: it is damaged or contradicts itself.
            NotFoundError: nothing for ``platforms``.

        On any failure nothing is left.
        """
        images = self._images
        try:
            with images.lease() as lease:
                contents = await _Load(self, lease, watch).take_in(source)
                plan = Plan(contents, images.content, platforms)
                names = await run_blocking(plan.read)
                arrivals = {arrival.digest: arrival for arrival in contents.layers.values()}
                for entry in names:
                    for image in entry.images:
                        await self._complete(image, arrivals, lease)
                loaded = await _to_its_end(partial(self._record, names, lease))
            await run_blocking(images.collect)  # what no image turned out to need
            return loaded
        except BaseException:
            await _settle(images.collect)
            raise

    async def _complete(self, image: PlannedImage, arrivals: dict[Digest | None, Arrival],
                        lease: Lease) -> None:
        """Check every layer, and unpack those that needed the layers below them.

        Raises:
            DataLossError: a layer is not what the configuration says.
        """
        diff_ids = image.config.rootfs.diff_ids
        for index, (descriptor, diff_id) in enumerate(
                zip(image.layers, diff_ids, strict=True)):
            digests.parse(diff_id)
            arrival = arrivals.get(descriptor.digest)
            if arrival is not None and arrival.diff_id not in (None, diff_id):
                message = (f'invalid diffID for layer {index}: expected "{diff_id}", got '
                           f'"{arrival.diff_id}"')
                raise DataLossError(message)
            if arrival is not None and arrival.failure is not None and not isinstance(
                    arrival.failure, MissingLinkTargetError):
                raise arrival.failure
            lease.add_layer(diff_id)
            if not self._images.snapshotter.has_layer(diff_id):
                await self._layers.obtain(LayerSource(
                    descriptor=descriptor, diff_id=diff_id, open_at=_gone,
                    parents=tuple(diff_ids[:index]), parents_ready=True), _ignore)

    def _record(self, names: Sequence[PlannedName], lease: Lease) -> list[LoadedImage]:
        """Store the documents and record the images, in a worker thread."""
        images = self._images
        loaded: list[LoadedImage] = []
        for entry in names:
            for raw in (*entry.documents, *(raw for one in entry.images for raw in one.documents)):
                lease.add_blob(digests.of_bytes(raw))
                images.content.put(raw)
            replaced: dict[str, Image] = {}
            for name in entry.names:
                before = images.find(name)
                if before is not None and Digest(before.id) not in {
                        image.config_digest for image in entry.images}:
                    replaced[name.familiar()] = before
            found = [self._put(planned, entry) for planned in entry.images]
            loaded.append(LoadedImage(images=found, names=entry.names, replaced=replaced))
        return loaded

    def _put(self, planned: PlannedImage, entry: PlannedName) -> Image:
        images = self._images
        if entry.target is None:
            # A manifest of our own making is worth less than one that came from a registry.
            known = [image for image in images.list() if Digest(image.id) == planned.config_digest
                     and any(images.content.has(digest) for digest in image.manifests)]
            image = known[0] if known else images.put(
                planned.config_digest, manifest_digest=planned.manifest)
            for name in entry.names:
                images.tag(image.id, name)
            return images.get(image.id)
        image = images.put(planned.config_digest, manifest_digest=planned.manifest)
        for name in entry.names:
            image = images.put(planned.config_digest, manifest_digest=planned.manifest,
                               reference=name, target_digest=entry.target)
        return image

    @property
    def unpacks(self) -> asyncio.Semaphore:
        """How many layers may be unpacked at once."""
        return self._unpacks

    @property
    def images(self) -> ImageStore:
        """Where everything goes."""
        return self._images

    @property
    def workers(self) -> WorkerRunner:
        """What unpacks."""
        return self._workers


class _Load:
    """The arrival of one archive."""

    def __init__(self, loader: Loader, lease: Lease, watch: Report | None) -> None:
        self._loader = loader
        self._lease = lease
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[Arrival, _Unpacking] = {}
        self._throttles: dict[Arrival, progress.Throttle] = {}
        self._failed = False

    async def take_in(self, source: AsyncIterator[bytes]) -> Contents:
        """Read the archive; every layer that could be is unpacked and committed."""
        content = self._loader.images.content
        pieces = Pieces(self._loop)
        intake = Intake(content, self._lease, pieces, began=self._began, grew=self._grew,
                        ended=self._ended)
        reading = self._loop.run_in_executor(None, intake.run)
        feeding = asyncio.ensure_future(pieces.feed(source))
        try:
            both: set[asyncio.Future[Any]] = {reading, feeding}
            await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
            if not reading.done():
                feeding.result()  # raises: it came first
            contents = await asyncio.shield(reading)
            await asyncio.gather(*(job.task for job in self._jobs.values() if job.task))
            return contents
        except OSError as error:
            raise SystemFailureError(str(error)) from error
        finally:
            await self._finish(reading, feeding, pieces)

    async def _finish(self, reading: asyncio.Future[Contents], feeding: asyncio.Future[None],
                      pieces: Pieces) -> None:
        """Wait for everything that was begun, whatever happened, and drop what is not committed."""
        self._failed = True
        pieces.cut()
        feeding.cancel()
        await _ended([reading, feeding])
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await _ended(tasks)
        await _settle(self._drop)

    def _drop(self) -> None:
        for job in self._jobs.values():
            job.feed.close()
            os.close(job.fd)
            self._loader.images.snapshotter.abort(job.draft)
        self._jobs.clear()

    # In the intake's thread

    def _began(self, arrival: Arrival) -> None:
        assert arrival.ingest is not None
        job = _Unpacking(arrival=arrival, draft=self._loader.images.snapshotter.draft(),
                         feed=ProgressWriter(), fd=os.dup(arrival.ingest.fileno()))
        self._jobs[arrival] = job
        if self._watch is not None:
            name = _short(arrival.path)
            self._throttles[arrival] = progress.Throttle(
                lambda current: self._tell(name, current, arrival.size))
        self._loop.call_soon_threadsafe(self._start, job)

    def _grew(self, arrival: Arrival, size: int) -> None:
        self._jobs[arrival].feed.advance(size)
        if throttle := self._throttles.get(arrival):
            throttle.report(size)

    def _ended(self, arrival: Arrival, size: int) -> None:
        self._jobs[arrival].feed.finish(size)
        arrival.ingest = None
        if throttle := self._throttles.pop(arrival, None):
            throttle.report(arrival.size, last=True)

    def _tell(self, name: str, current: int, total: int) -> None:
        assert self._watch is not None
        self._loop.call_soon_threadsafe(
            self._watch, progress.count("Loading layer", name, current, total))

    # On the loop

    def _start(self, job: _Unpacking) -> None:
        if not self._failed:
            job.task = self._loop.create_task(self._unpack(job))

    async def _unpack(self, job: _Unpacking) -> None:
        try:
            async with self._loader.unpacks:
                reply = await self._loader.workers.run_worker(
                    "layer.apply", ApplyRequest(target=job.draft.path, growing=True,
                                                hashed=not job.arrival.names_tar),
                    [job.fd, job.feed.read_fd], reply_type=ApplyReply)
            applied = reply.result()
        except PalletError as error:
            job.arrival.failure = error
            return
        diff_id = applied.diff_id or DiffID(job.arrival.digest or "")
        await run_blocking(self._commit, job, applied, diff_id)
        job.arrival.diff_id = diff_id

    def _commit(self, job: _Unpacking, applied: Applied, diff_id: DiffID) -> None:
        self._lease.add_layer(diff_id)
        self._loader.images.snapshotter.commit_layer(
            job.draft, diff_id, applied.size_bytes, implied_dirs=applied.implied_dirs,
            opaque_root=applied.opaque_root)


def _short(path: str) -> str:
    """Twelve characters that tell a layer from its neighbours: of a digest where there is one."""
    head, _, name = path.rpartition("/")
    if name == "layer.tar":
        name = head.rpartition("/")[2]
    return name[:12]


def _gone(_offset_bytes: int) -> HTTPResponse:
    message = "the layer's blob is damaged: load the image again"
    raise DataLossError(message)


def _ignore(_message: ProgressMessage) -> None:
    return None


async def _ended(futures: Sequence[asyncio.Future[Any]]) -> None:
    """Wait until all are done, even while being cancelled; outcomes are somebody else's."""
    cancelled = False
    while any(not future.done() for future in futures):
        try:
            await asyncio.wait(futures)
        except asyncio.CancelledError:
            cancelled = True
    for future in futures:
        if not future.cancelled():
            future.exception()
    if cancelled:
        raise asyncio.CancelledError


async def _settle(fn: Callable[[], object]) -> None:
    """Run clean-up in a thread to its end."""
    await _ended([asyncio.ensure_future(_nothing(fn))])


async def _nothing(fn: Callable[[], object]) -> None:
    await run_blocking(fn)


async def _to_its_end(fn: Callable[[], list[LoadedImage]]) -> list[LoadedImage]:
    """Run ``fn`` in a thread; a cancellation waits for it."""
    work = asyncio.ensure_future(run_blocking(fn))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
