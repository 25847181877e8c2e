"""Snapshots that become layers: how a step's files are committed, on every storage driver.

Owns   the choice between a rename (ADR 12) and, where a driver copies whole trees, a tar of what differs.
Runs   on the loop; disk work in threads and zygote children.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pallet.aio import held, run_blocking
from pallet.build.ops.fileworker import Input
from pallet.layer.diffworker import DiffReply, DiffRequest
from pallet.layer.seal import Sealed, SealReply, SealRequest
from pallet.layer.worker import ApplyReply, ApplyRequest
from pallet.storage import stubs
from pallet.storage.content import Ingest
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.image.importer import WorkerRunner
    from pallet.spec.mounts import RootMount
    from pallet.storage.content import ContentStore
    from pallet.storage.leases import Lease
    from pallet.storage.snapshot import Snapshotter

EMPTY = Sealed(diff_id="sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef", tar_bytes=1024,
               size_bytes=0, root_entry=False)
"""The layer of a step that changed nothing: an empty tar."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A layer that was made."""

    diff_id: DiffID
    size_bytes: int


def new_key() -> str:
    """A key for a snapshot: like a container's id, and no container's."""
    return secrets.token_hex(32)


class Layers:
    """Prepares snapshots for steps and commits them."""

    def __init__(self, *, snapshotter: Snapshotter, workers: WorkerRunner, content: ContentStore) -> None:
        self._snapshotter = snapshotter
        self._workers = workers
        self._content = content

    @property
    def seals(self) -> bool:
        """Whether a worker that has written to a snapshot may seal it at once."""
        return not self._snapshotter.copies

    async def prepare(self, layers: Sequence[DiffID] = ()) -> tuple[str, RootMount]:
        """Make a snapshot; return its key and what to mount."""
        key = new_key()
        await run_blocking(self._snapshotter.prepare, key, layers)
        return key, self._snapshotter.root_mount(key)

    async def remove(self, key: str) -> None:
        """Drop a snapshot; nothing after a commit. Not to be cancelled."""
        await asyncio.shield(run_blocking(self._snapshotter.remove, key))

    async def input(self, layers: Sequence[str]) -> Input:
        """Layers as a worker reads them."""
        root = await run_blocking(self._snapshotter.root_mount_of_layers, [DiffID(layer) for layer in layers])
        return Input(root=root)

    async def commit(self, key: str, base: Sequence[DiffID], lease: Lease, *, points: Sequence[str] = (),
                     sealed: Sealed | None = None) -> Committed:
        """Make a layer of what was written to a snapshot.

        Args:
            base: the layers that it was prepared on.
            points: paths where something was mounted.
            sealed: what a worker has found already.

        Raises:
            PalletError: it cannot be read.
        """
        if self._snapshotter.copies:
            return await self._difference(key, base, lease, points)
        root = self._snapshotter.root_mount(key)
        if sealed is None and _untouched(root):
            sealed = EMPTY
        if sealed is None:
            reply = await self._workers.run_worker(
                "layer.seal", SealRequest(root=root, points=list(points)), reply_type=SealReply)
            sealed = reply.result()
        diff_id = DiffID(sealed.diff_id)
        await run_blocking(self._rename, key, diff_id, sealed, lease)
        return Committed(diff_id, sealed.size_bytes)

    def _rename(self, key: str, diff_id: DiffID, sealed: Sealed, lease: Lease) -> None:
        lease.add_layer(diff_id)
        self._snapshotter.commit_snapshot(key, diff_id, sealed.size_bytes, tar_bytes=sealed.tar_bytes,
                                          root_entry=sealed.root_entry)

    async def difference(self, lower: Sequence[DiffID], upper: Sequence[DiffID], lease: Lease) -> Committed:
        """Make a layer that, on ``lower``, gives what ``upper`` is.

        Raises:
            PalletError: it cannot be read.
        """
        root = await run_blocking(self._snapshotter.root_mount_of_layers, upper)
        return await self._differing(root, lower, lease, [])

    async def _difference(self, key: str, base: Sequence[DiffID], lease: Lease, points: Sequence[str]) -> Committed:
        known = [*stubs.DIRECTORIES, *stubs.FILES, *stubs.LINKS, *_with_parents(points)]
        return await self._differing(self._snapshotter.root_mount(key), base, lease, known)

    async def _differing(self, root: RootMount, base: Sequence[DiffID], lease: Lease,
                         known: Sequence[str]) -> Committed:
        """Write what differs from the base as a tar, which is kept as the layer's blob, and unpack that."""
        snapshotter = self._snapshotter
        below = await run_blocking(snapshotter.root_mount_of_layers, base)
        async with (held(snapshotter.draft, snapshotter.abort) as draft,
                    held(self._content.ingest, Ingest.abort) as ingest):
            (await self._workers.run_worker("layer.diff", DiffRequest(
                root=root, base=below, stubs=list(known)), [ingest.fileno()], reply_type=DiffReply)).result()
            size = os.fstat(ingest.fileno()).st_size
            await run_blocking(ingest.adopt, size)
            applied = (await self._workers.run_worker(
                "layer.apply", ApplyRequest(target=draft.path), [ingest.fileno()], reply_type=ApplyReply)).result()
            lease.add_blob(ingest.digest)
            lease.add_layer(applied.diff_id)
            await run_blocking(ingest.commit)
            await run_blocking(partial(
                snapshotter.commit_layer, draft, applied.diff_id, applied.size_bytes,
                implied_dirs=applied.implied_dirs, opaque_root=applied.opaque_root))
            await run_blocking(snapshotter.settle, [*base, applied.diff_id])
        return Committed(applied.diff_id, applied.size_bytes)


def _with_parents(points: Sequence[str]) -> list[str]:
    found: list[str] = []
    for point in points:
        path = os.path.normpath("/" + point).lstrip("/")
        while path:
            found.append(path)
            path = os.path.dirname(path)
    return found


def _untouched(root: RootMount) -> bool:
    """Whether nothing was written to a snapshot, nor its root directory changed."""
    assert root.upper is not None
    upper = os.path.join(root.base_dir, root.upper)
    with os.scandir(upper) as entries:
        if next(entries, None) is not None:
            return False
    ours = os.stat(upper)
    below = os.stat(os.path.join(root.base_dir, root.lower[0]))
    return (ours.st_mode, ours.st_uid, ours.st_gid) == (below.st_mode, below.st_uid, below.st_gid)
