"""``docker import``: a one-layer image out of a tar of a root file system.

Owns   the making of config and manifest for it.
Runs   in the daemon, on the loop; compression and disk work in its thread pool, unpacking in a
       zygote child while the tar arrives.
Spec   Engine API ImageCreate with ``fromSrc``; Docker image manifest v2 schema 2, image-spec.

The layer is kept as a blob like a pulled one, so that the image can be pushed and saved with the
same digests for ever: gzip and zstd as they came, everything else compressed with gzip.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

import msgspec
from isal import isal_zlib

from pallet.aio import first_error, held, run_blocking
from pallet.errors import DataLossError
from pallet.image.changes import apply_changes
from pallet.image.moments import now
from pallet.layer.source import detect
from pallet.layer.worker import ApplyReply, ApplyRequest, ProgressWriter
from pallet.spec import digest as digests
from pallet.spec import image as spec
from pallet.spec import platform as platforms
from pallet.storage.content import Ingest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.layer.model import Applied
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.storage.leases import Lease
    from pallet.storage.snapshot import LayerDraft
    from pallet.types import DiffID, Digest


P = ParamSpec("P")
T = TypeVar("T")
Reply = TypeVar("Reply", bound=msgspec.Struct)

_BATCH_BYTES = 256 * 1024
_DETECT_BYTES = 6
_PIECE_BYTES = 1 << 20
_GZIP_WINDOW = 31
_GZIP_LEVEL = 2


class WorkerRunner(Protocol):
    """What runs ``layer.apply``: the supervisor."""

    async def run_worker(self, kind: str, request: msgspec.Struct, fds: Iterable[int] = (), *,
                         reply_type: type[Reply]) -> Reply:
        """Run a worker in a child process; cancelling kills it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedLayer:
    """A layer that is stored and unpacked."""

    descriptor: spec.Descriptor
    applied: Applied

    @property
    def is_empty(self) -> bool:
        """Whether it has no entry; ``add_layer`` may then have kept nothing of it."""
        return not self.applied.entries


class Importer:
    """Makes images of tars."""

    def __init__(self, images: ImageStore, workers: WorkerRunner) -> None:
        self._images = images
        self._workers = workers

    async def run(self, source: AsyncIterator[bytes], *, reference: Reference | None,
                  message: str = "", changes: Sequence[str] = (),
                  platform: Platform | None = None) -> Image:
        """Read a tar to its end and record the image.

        Args:
            source: the tar, plain or compressed with gzip, bzip2, xz or zstd.
            reference: name to give it; ``latest`` is added.
            message: comment in its history; "" is Docker's "Imported from -".
            changes: Dockerfile instructions (``image/changes.py``).
            platform: None is the host's.

        Raises:
            InvalidParameterError: a change, or an entry that leaves the root.
            DataLossError: the archive is damaged.

        On any failure nothing is left.
        """
        config = apply_changes(spec.RunConfig(), changes)

        def record(lease: Lease, layer: AddedLayer) -> Image:
            return self._record(lease, layer.descriptor, layer.applied.diff_id, config,
                                message or "Imported from -", platform or platforms.host(), reference)

        return await self.add_layer(source, record)

    async def add_layer(self, source: AsyncIterator[bytes],
                        record: Callable[[Lease, AddedLayer], T], *,
                        keep_empty: bool = True) -> T:
        """Store and unpack one layer's tar, and have ``record`` make the image it is in.

        Args:
            source: as in ``run``. The same pieces give the same compressed bytes.
            record: called in a worker thread while the lease protects the layer.
            keep_empty: keep a layer without entries, too.

        Raises:
            InvalidParameterError, DataLossError: as ``run``.
        """
        images = self._images
        with images.lease() as lease:
            async with (held(images.snapshotter.draft, images.snapshotter.abort) as draft,
                        held(images.content.ingest, Ingest.abort) as ingest):
                recoder = Recoder(ingest)
                applied = await self._bring_in(source, recoder, draft)
                if applied.entries or keep_empty:
                    layer = await _to_its_end(
                        self._keep, lease, ingest, recoder.media_type, draft, applied)
                else:
                    layer = spec.Descriptor(
                        media_type=recoder.media_type, digest=ingest.digest, size=ingest.size)
            return await run_blocking(record, lease, AddedLayer(descriptor=layer, applied=applied))

    async def _bring_in(self, source: AsyncIterator[bytes], recoder: Recoder,
                        draft: LayerDraft) -> Applied:
        """Store and unpack at the same time; the first of the two to fail ends the other."""
        fd = os.dup(recoder.ingest.fileno())
        try:
            with ProgressWriter() as progress:
                async with asyncio.TaskGroup() as group:
                    unpacking = group.create_task(self._unpack(draft, fd, progress))
                    group.create_task(_feed(source, recoder, progress))
        except BaseExceptionGroup as problems:
            raise first_error(problems) from None
        finally:
            os.close(fd)
        return unpacking.result()

    async def _unpack(self, draft: LayerDraft, fd: int, progress: ProgressWriter) -> Applied:
        request = ApplyRequest(target=draft.path, growing=True)
        reply = await self._workers.run_worker(
            "layer.apply", request, [fd, progress.read_fd], reply_type=ApplyReply)
        return reply.result()

    def _keep(self, lease: Lease, ingest: Ingest, media_type: str, draft: LayerDraft,
              applied: Applied) -> spec.Descriptor:
        lease.add_blob(ingest.digest)
        lease.add_layer(applied.diff_id)
        size = ingest.size
        digest = ingest.commit()
        self._images.snapshotter.commit_layer(
            draft, applied.diff_id, applied.size_bytes, implied_dirs=applied.implied_dirs,
            opaque_root=applied.opaque_root)
        return spec.Descriptor(media_type=media_type, digest=digest, size=size)

    def _record(self, lease: Lease, layer: spec.Descriptor, diff_id: DiffID,  # noqa: PLR0917
                config: spec.RunConfig, message: str, platform: Platform,
                reference: Reference | None) -> Image:
        created = now()
        config_raw = spec.encode(spec.ImageConfigFile(
            architecture=platform.architecture, os=platform.os, variant=platform.variant,
            created=created, comment=message, config=config,
            rootfs=spec.RootFS(diff_ids=[diff_id]),
            history=[spec.History(created=created, comment=message)]))
        docker = layer.media_type == spec.DOCKER_LAYER_GZIP
        config_digest = self.put(lease, config_raw)
        manifest_digest = self.put(lease, spec.encode(spec.Manifest(
            media_type=spec.DOCKER_MANIFEST if docker else spec.OCI_MANIFEST,
            config=spec.Descriptor(
                media_type=spec.DOCKER_CONFIG if docker else spec.OCI_CONFIG,
                digest=config_digest, size=len(config_raw)),
            layers=[layer])))
        image = self._images.put(config_digest, manifest_digest=manifest_digest)
        if reference is not None:
            self._images.tag(image.id, reference)
        return self._images.get(image.id)

    def put(self, lease: Lease, raw: bytes) -> Digest:
        """Store a small blob; blocking."""
        digest = digests.of_bytes(raw)
        lease.add_blob(digest)
        return self._images.content.put(raw, digest)


class Recoder:
    """Brings a stream into a form that a registry's layer may have, and writes it to an ingest.

    Called in threads, one call at a time.
    """

    def __init__(self, ingest: Ingest) -> None:
        self.ingest = ingest
        self.media_type = spec.DOCKER_LAYER_GZIP
        """Of what is written; right after the first ``_DETECT_BYTES`` bytes."""
        self._head = b""
        self._started = False
        self._decompressor: bz2.BZ2Decompressor | lzma.LZMADecompressor | None = None
        self._new: type[bz2.BZ2Decompressor | lzma.LZMADecompressor] | None = None
        self._compressor = isal_zlib.compressobj(
            _GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
        self._recode = True

    def write(self, data: bytes) -> int:
        """Take the next bytes of the stream; return the bytes that are in the file now.

        Raises:
            DataLossError: bzip2 or xz data is damaged.
        """
        if not self._started:
            self._head += data
            if len(self._head) < _DETECT_BYTES:
                return self.ingest.size
            data = self._start()
        self._take(data)
        return self.ingest.size

    def finish(self) -> int:
        """End the stream; return the size of the file.

        Raises:
            DataLossError: bzip2 or xz data ends early.
        """
        if not self._started:
            self._take(self._start())
        if self._decompressor is not None:
            message = "unexpected EOF"
            raise DataLossError(message)
        if self._recode:
            self.ingest.write(self._compressor.flush())
        return self.ingest.size

    def _start(self) -> bytes:
        found = detect(self._head)
        self._started = True
        self._recode = found not in ("gzip", "zstd")
        if found == "zstd":
            self.media_type = spec.OCI_LAYER_ZSTD
        self._new = {"bzip2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}.get(found)
        head, self._head = self._head, b""
        return head

    def _take(self, data: bytes) -> None:
        if self._new is None:
            self._put(data)
            return
        while data:
            if self._decompressor is None:
                self._decompressor = self._new()
            try:
                self._put(self._decompressor.decompress(data, _PIECE_BYTES))
                while not self._decompressor.eof and not self._decompressor.needs_input:
                    self._put(self._decompressor.decompress(b"", _PIECE_BYTES))
            except (OSError, lzma.LZMAError) as error:
                message = f"corrupt archive: {error}"
                raise DataLossError(message) from error
            data = b""
            if self._decompressor.eof:
                data, self._decompressor = self._decompressor.unused_data, None

    def _put(self, data: bytes) -> None:
        if self._recode:
            data = self._compressor.compress(data)
        if data:
            self.ingest.write(data)


async def _feed(source: AsyncIterator[bytes], recoder: Recoder, progress: ProgressWriter) -> None:
    """Write the stream in batches: a hop to a thread for each packet would cost more."""
    batch: list[bytes] = []
    size = 0
    async for chunk in source:
        batch.append(chunk)
        size += len(chunk)
        if size >= _BATCH_BYTES:
            progress.advance(await _to_its_end(recoder.write, b"".join(batch)))
            batch, size = [], 0
    if batch:
        await _to_its_end(recoder.write, b"".join(batch))
    progress.finish(await _to_its_end(recoder.finish))


async def _to_its_end(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``fn`` in a thread; when cancelled, wait for it before the cancellation goes on.

    What it works on is closed and removed right after.
    """
    work = asyncio.ensure_future(run_blocking(fn, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
