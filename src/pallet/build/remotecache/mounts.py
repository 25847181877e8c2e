"""Cache mounts on their way to and from caches elsewhere: the tar of a directory, by the mount's name.

Owns   which mounts of a build go (those of all its steps), and that one that comes is only ever a beginning:
       a mount that is here stays as it is.
Runs   on the loop; compression in threads, archives in zygote children.
Spec   none of BuildKit's: its caches hold no mounts.
"""

from __future__ import annotations

import logging
import os
import tempfile
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from isal import isal_zlib

from pallet.aio import run_blocking
from pallet.build import graph
from pallet.build.cachekey import in_order
from pallet.build.contextworker import UntarReply, UntarRequest
from pallet.build.ops.cachemounts import name_of
from pallet.build.ops.running import cache_mount_id
from pallet.errors import PalletError
from pallet.layer.diffworker import DiffReply, DiffRequest
from pallet.layer.remove import discard
from pallet.spec import image as spec
from pallet.spec.mounts import RootMount

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pallet.build.graph import Vertex
    from pallet.build.job import Job
    from pallet.build.ops.cachemounts import CacheMounts
    from pallet.image.importer import WorkerRunner
    from pallet.spec.image import Descriptor
    from pallet.storage.content import ContentStore
    from pallet.storage.leases import Lease
    from pallet.types import Digest

logger = logging.getLogger(__name__)

_PIECE_BYTES = 1 << 20
_GZIP_WINDOW = 31
_GZIP_LEVEL = 2
_NAME = "org.opencontainers.image.title"
"""Annotation of the blob, for people: where the mount was."""


class MountExporter:
    """Makes blobs of cache mounts."""

    def __init__(self, caches: CacheMounts, *, content: ContentStore, workers: WorkerRunner) -> None:
        self._caches = caches
        self._content = content
        self._workers = workers

    async def export(self, vertices: Sequence[Vertex], job: Job) -> dict[str, Descriptor]:
        """What the cache mounts of all steps below the vertices hold, by the mounts' names."""
        found: dict[str, Descriptor] = {}
        for vertex in in_order(vertices):
            for mount in vertex.op.mounts if isinstance(vertex.op, graph.RunOp) else ():
                begins = None if mount.input is None else job.results.get(vertex.inputs[mount.input])
                if mount.kind != "cache" or (mount.input is not None and begins is None):
                    continue  # the latter: a step that was cached, whose other stages nobody looked at
                name = name_of(cache_mount_id(mount, begins))
                if name not in found and (blob := await self._pack(name, mount, job)) is not None:
                    found[name] = blob
        return found

    async def _pack(self, name: str, mount: graph.RunMount, job: Job) -> Descriptor | None:
        async with self._caches.reading(name, mount.sharing) as directory:
            if not directory:
                return None
            parent, _, base = directory.rpartition("/")
            with tempfile.TemporaryFile(dir=parent) as tar:
                (await self._workers.run_worker("layer.export", DiffRequest(
                    root=RootMount(base_dir=parent, lower=[base])), [tar.fileno()], reply_type=DiffReply)).result()
                digest, size = await run_blocking(self._compress, tar, job.lease)
        return spec.Descriptor(media_type=spec.OCI_LAYER_GZIP, digest=digest, size=size,
                               annotations={_NAME: mount.target})

    def _compress(self, tar: BinaryIO, lease: Lease) -> tuple[Digest, int]:
        tar.seek(0)
        return compress(tar, self._content, lease)


class MountImporter:
    """Fills new cache mounts with what caches elsewhere have."""

    def __init__(self, *, content: ContentStore, workers: WorkerRunner) -> None:
        self._content = content
        self._workers = workers

    async def fetch(self, name: str, job: Job) -> Callable[[str], Awaitable[bool]] | None:
        """Bring the blob of a mount; None where no cache of the job has it, or it cannot be had.

        The result unpacks it into an empty directory, and says whether that went well: else it is empty again.
        """
        for cache in job.caches:
            blob = cache.mount(name)
            if blob is None:
                continue
            try:
                await cache.fetch(blob)
            except PalletError as error:
                logger.warning("a cache mount could not be fetched: %s", error)
                continue
            return partial(self._unpack, blob.digest)
        return None

    async def _unpack(self, digest: Digest, directory: str) -> bool:
        source = await run_blocking(self._content.open, digest)
        target = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            reply = await self._workers.run_worker("build.untar", UntarRequest(keep_owner=True), [source, target],
                                                   reply_type=UntarReply)
            reply.result()
        except PalletError as error:
            logger.warning("a cache mount could not be unpacked: %s", error)
            await run_blocking(_empty, directory)
            return False
        finally:
            os.close(source)
            os.close(target)
        return True


def compress(source: BinaryIO, content: ContentStore, lease: Lease) -> tuple[Digest, int]:
    """Write a file's bytes, compressed, as a blob under a lease; its digest and size."""
    packer = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
    with content.ingest() as ingest:
        while data := source.read(_PIECE_BYTES):
            ingest.write(packer.compress(data))
        ingest.write(packer.flush())
        lease.add_blob(ingest.digest)
        size = ingest.size
        return ingest.commit(), size


def _empty(directory: str) -> None:
    for name in os.listdir(directory):
        discard(f"{directory}/{name}")
