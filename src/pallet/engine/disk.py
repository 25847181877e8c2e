"""Disk space and integrity: what Docker has no call for.

``Disk`` implements ``api.backends.DiskBackend``. Runs on the event loop; reading in worker threads
and zygote children.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from msgspec import UNSET

from pallet.aio import run_blocking
from pallet.spec.own.disk import CheckMessage, ImageFacts, ImageUse, StoreUsage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pallet.engine.budget import DiskBudget
    from pallet.engine.events import EventSink
    from pallet.engine.explore import Explorer
    from pallet.engine.integrity import Integrity
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.engine.auth import AuthConfig
    from pallet.spec.engine.options import Stream
    from pallet.types import DiffID


class Disk:
    """The disk half of Pallet's own API."""

    def __init__(
        self, *, images: ImageStore, budget: DiskBudget, integrity: Integrity, explorer: Explorer, events: EventSink,
    ) -> None:
        self._images = images
        self._budget = budget
        self._integrity = integrity
        self._explorer = explorer
        self._events = events

    async def usage(self) -> StoreUsage:
        """See ``DiskBackend.usage``."""
        snapshotter = self._images.snapshotter
        layers = sum(snapshotter.layer_size(layer) for layer in snapshotter.layers()
                     if snapshotter.has_layer(layer))
        blobs = await run_blocking(lambda: sum(size for _, size in self._images.content.walk()))
        sharing = self._images.layer_sharing()
        return StoreUsage(
            layers_size=layers, blobs_size=blobs, budget=self._budget.limit_bytes,
            images=[self._use(image, sharing) for image in self._images.list()])

    def facts(self, image: Image) -> ImageFacts:
        """Sizes of one image and whether it is pinned."""
        unique = self._unique(image, self._images.layer_sharing())
        hidden = self._explorer.hidden_bytes(image)
        return ImageFacts(unique_size=unique, shared_size=image.size_bytes - unique,
                          hidden_size=UNSET if hidden is None else hidden, pinned=image.pinned)

    def _unique(self, image: Image, sharing: dict[DiffID, int]) -> int:
        snapshotter = self._images.snapshotter
        return sum(snapshotter.layer_size(layer) for layer in image.diff_ids
                   if sharing.get(layer, 0) == 1 and snapshotter.has_layer(layer))

    def _use(self, image: Image, sharing: dict[DiffID, int]) -> ImageUse:
        unique = self._unique(image, sharing)
        hidden = self._explorer.hidden_bytes(image)
        moment = datetime.datetime.fromtimestamp(self._budget.last_used(image), datetime.UTC)
        return ImageUse(
            id=image.id, repo_tags=list(image.repo_tags), size=image.size_bytes, unique_size=unique,
            hidden_size=UNSET if hidden is None else hidden,
            last_used=moment.isoformat(timespec="seconds").replace("+00:00", "Z"), pinned=image.pinned,
            in_use=bool(self._images.users(image.id)))

    async def pin(self, name: str, *, pinned: bool) -> None:
        """See ``DiskBackend.pin``."""
        image = self._images.resolve(name)
        await run_blocking(self._images.pin, image.id, pinned=pinned)
        self._events.emit("image", "pin" if pinned else "unpin", image.id, {"name": name})

    async def explore(self, name: str, *, entries: bool) -> Stream[bytes]:
        """See ``DiskBackend.explore``."""
        return await self._explorer.explore(self._images.resolve(name), entries=entries)

    async def check(self, *, repair: bool, credentials: Mapping[str, AuthConfig],
                    report: Callable[[CheckMessage], None]) -> None:
        """See ``DiskBackend.check``."""
        await self._integrity.check(repair=repair, credentials=credentials, report=report)
