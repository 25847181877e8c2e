"""The disk budget: when images take more than they may, those not used for longest go.

Owns   when images were last used, and the choice of what goes.
Runs   on the event loop as one background task, never inside a start or a pull; disk work in worker
       threads. Uses are collected in memory and written once a minute.
Spec   ``docs/disk.md``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Protocol

from pallet.aio import run_blocking
from pallet.errors import PalletError
from pallet.image.moments import unix_seconds
from pallet.types import ImageId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.engine.events import EventBus
    from pallet.engine.index import ContainerIndex
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.engine.event import EventMessage

logger = logging.getLogger(__name__)

_PERIOD_S = 60.0
_USES = frozenset({"create", "start"})
_GROWTH = frozenset({"pull", "import", "load", "tag", "commit", "build", "create"})


class BuildCache(Protocol):
    """What the builder keeps: ``build/cachegc.py``."""

    def extra_bytes(self) -> int:
        """What is kept beside layers and blobs."""
        ...

    def oldest(self) -> float | None:
        """When what would go next was last used (Unix seconds); None where nothing may go."""
        ...

    async def evict(self, excess_bytes: int) -> int:
        """Remove the least recently used until so much is gone; return how many records."""
        ...


class DiskBudget:
    """Watches what images and the build cache take."""

    def __init__(self, limit_bytes: int, *, images: ImageStore, index: ContainerIndex, events: EventBus) -> None:
        """``limit_bytes`` 0 is no limit: uses are noted all the same."""
        self.limit_bytes = limit_bytes
        self._images = images
        self._index = index
        self._events = events
        self._uses: dict[ImageId, float] = {}
        self._grown = asyncio.Event()
        self._complained = False
        self.cache: BuildCache | None = None
        """What builds keep goes, too, in the order of its last use."""
        events.observe(self._observe)

    def _observe(self, event: EventMessage) -> None:
        if event.type == "container" and event.action in _USES:
            container = self._index.find(event.actor.id)
            if container is not None:
                self._uses[ImageId(container.image_id)] = time.time()
        elif event.type == "image" and event.action in _GROWTH:
            self._grown.set()

    def last_used(self, image: Image) -> float:
        """Unix seconds of the last create, start, pull or tag."""
        return max(self._uses.get(image.id, 0.0), image.last_used_at, unix_seconds(image.last_tagged_at))

    async def run(self) -> None:
        """Check after whatever adds content, and once a minute. Ends by cancellation."""
        try:
            while True:
                self._grown.clear()
                try:
                    await self._flush()
                    await self.enforce()
                except (PalletError, OSError):
                    logger.exception("the disk budget could not be checked")
                try:
                    async with asyncio.timeout(_PERIOD_S):
                        await self._grown.wait()
                except TimeoutError:
                    continue
        finally:
            # At the daemon's end; the loop still runs, but nothing may be awaited any more.
            self._images.note_uses(self._uses)
            self._uses.clear()

    async def _flush(self) -> None:
        uses, self._uses = self._uses, {}
        if uses:
            await run_blocking(self._images.note_uses, uses)

    async def enforce(self) -> int:
        """Evict until the budget is kept or nothing may go; return how many images went."""
        if not self.limit_bytes:
            return 0
        gone = 0
        size = await run_blocking(self.size)
        for image in self._candidates() if size > self.limit_bytes else ():
            gone += await self._evict_cache(size, before=self.last_used(image))
            size = await run_blocking(self.size)
            if size <= self.limit_bytes:
                break
            if await self._evict(image, size):
                gone += 1
                size = await run_blocking(self.size)
                if size <= self.limit_bytes:
                    break
        if size > self.limit_bytes:
            gone += await self._evict_cache(size)
            size = await run_blocking(self.size)
        if size > self.limit_bytes and not self._complained:
            logger.warning("images take %d bytes of a disk budget of %d, and the rest is in use, pinned or new",
                           size, self.limit_bytes)
        self._complained = size > self.limit_bytes
        return gone

    async def _evict_cache(self, size: int, *, before: float | None = None) -> int:
        """Let what builds keep go; with ``before`` only if it was last used earlier. How many records."""
        if self.cache is None:
            return 0
        oldest = self.cache.oldest()
        if oldest is None or (before is not None and oldest > before):
            return 0
        count = await self.cache.evict(size - self.limit_bytes)
        if count:
            logger.info("%d records of the build cache are evicted: images and cache take %d bytes of a disk "
                        "budget of %d", count, size, self.limit_bytes)
        return count

    def size(self) -> int:
        """Bytes of all blobs, unpacked layers and what builds keep; not on the loop."""
        snapshotter = self._images.snapshotter
        layers = sum(snapshotter.layer_size(layer) for layer in snapshotter.layers()
                     if snapshotter.has_layer(layer))
        kept = self.cache.extra_bytes() if self.cache is not None else 0
        return kept + layers + sum(size for _, size in self._images.content.walk())

    def _candidates(self) -> Sequence[Image]:
        """What may go, least recently used first.

        The most recently used image stays whatever it takes: a container may be about to be made
        of what was just pulled.
        """
        order = sorted(self._images.list(), key=self.last_used)
        return [image for image in order[:-1]
                if not image.pinned and not self._images.users(image.id) and not self._images.children(image.id)]

    async def _evict(self, image: Image, size: int) -> bool:
        try:
            await run_blocking(self._images.evict, image.id)
        except PalletError as error:
            logger.debug("image %s stays: %s", image.id, error)
            return False
        name = image.repo_tags[0] if image.repo_tags else image.id
        idle_s = int(time.time() - self.last_used(image))
        reason = (f"images take {size} bytes of a disk budget of {self.limit_bytes}; "
                  f"not used for {idle_s} s, longer than any other that may go")
        logger.info("image %s (%s) is evicted: %s", image.id, name, reason)
        self._events.emit("image", "delete", image.id, {"name": image.id})
        self._events.emit("image", "evict", image.id, {"name": name, "reason": reason})
        return True
