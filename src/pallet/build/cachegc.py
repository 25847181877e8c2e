"""What the build cache takes, and what goes when it is to take less.

Owns   the order in which records go: least recently used first, none that another one stands on, none that
       a build uses. With a record its layer goes at the next collection, unless an image has it too.
Runs   on the loop; disk work in threads.
Spec   Engine API BuildPrune; BuildKit's Prune and DiskUsage.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from pallet.aio import run_blocking
from pallet.build.cachefilter import accepts
from pallet.build.ops.cachemounts import KIND as CACHE_MOUNT
from pallet.build.usage import CachePrune, CacheUsage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.build.cachefilter import Accepts
    from pallet.build.cachestore import CacheRecord, CacheStore
    from pallet.build.ops.cachemounts import CacheMounts
    from pallet.image.store import ImageStore

_SOURCE = "source.local"
_HIDDEN = frozenset({"internal", "frontend"})
_NANO = 1_000_000_000


class KeptTree(Protocol):
    """``build.context.ContextUsage``."""

    @property
    def id(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def used_at(self) -> float: ...
    @property
    def in_use(self) -> bool: ...


class KeptTrees(Protocol):
    """``build.context.ContextStore``: clients' trees count, too."""

    def usage(self) -> Sequence[KeptTree]: ...
    async def remove(self, ids: Iterable[str]) -> int: ...


class CacheKeeper:
    """Usage and pruning of the build cache."""

    def __init__(self, *, cache: CacheStore, mounts: CacheMounts, images: ImageStore, root: str) -> None:
        self._cache = cache
        self._mounts = mounts
        self._images = images
        self._root = root
        self._pruning = asyncio.Lock()
        self.contexts: KeptTrees | None = None
        """Set by who has them."""

    def usage(self, filters: Sequence[str] = ()) -> list[CacheUsage]:
        """What is kept of what ``filters`` accept, the largest first.

        Raises:
            InvalidParameterError: a filter cannot be read.
        """
        wanted = accepts(filters)
        shared = self._images.layer_sharing()
        found = [_usage(record, in_use=self._cache.held(record.id),
                        shared=bool(record.layers) and record.layers[-1] in shared)
                 for record in self._cache.all()]
        found += [CacheUsage(
            id=tree.id, kind=_SOURCE, description="local source for context", size_bytes=tree.size_bytes,
            created_ns=int(tree.used_at * _NANO), last_used_ns=int(tree.used_at * _NANO), usage_count=1,
            in_use=tree.in_use, mutable=True) for tree in (self.contexts.usage() if self.contexts else ())]
        return sorted(filter(wanted, found), key=lambda usage: -usage.size_bytes)

    async def prune(self, wanted: CachePrune) -> list[CacheUsage]:
        """Remove what ``wanted`` means; return what went, in that order.

        Raises:
            InvalidParameterError: a filter cannot be read.
        """
        accepted = accepts(wanted.filters)
        async with self._pruning:
            gone: list[CacheUsage] = []
            # Each round takes what nothing stands on; what that stood on may go in the next one.
            while batch := await self._choose(wanted, accepted):
                went = await self._remove(batch)
                gone += went
                if not went:
                    break
            if gone:
                await run_blocking(self._images.collect)
            return gone

    async def _choose(self, wanted: CachePrune, accepted: Accepts) -> list[CacheUsage]:
        everything = self.usage()
        excess = await self._excess(wanted, everything)
        if excess is not None and excess <= 0:
            return []
        loaded = self._loaded()
        before = time.time_ns() - wanted.keep_duration_ns
        chosen: list[CacheUsage] = []
        for usage in sorted(everything, key=lambda usage: usage.last_used_ns):
            if usage.in_use or usage.id in loaded or (wanted.keep_duration_ns and usage.last_used_ns > before):
                continue
            if not wanted.all and (usage.shared or usage.kind in _HIDDEN):
                continue
            if not accepted(usage):
                continue
            chosen.append(usage)
            if excess is not None:
                excess -= 0 if usage.shared else usage.size_bytes
                if excess <= 0:
                    break
        return chosen

    async def _excess(self, wanted: CachePrune, everything: Sequence[CacheUsage]) -> int | None:
        """Bytes that have to go; None for everything that may."""
        used = sum(usage.size_bytes for usage in everything if not usage.shared)
        limits: list[int] = []
        if wanted.max_used_bytes:
            limits.append(used - wanted.max_used_bytes)
        if wanted.min_free_bytes:
            disk = await run_blocking(os.statvfs, self._root)
            limits.append(wanted.min_free_bytes - disk.f_bavail * disk.f_frsize)
        if not limits:
            return used - wanted.reserved_bytes if wanted.reserved_bytes else None
        return min(max(limits), used - wanted.reserved_bytes)

    def _loaded(self) -> set[str]:
        """Records whose layers others stand on."""
        records = self._cache.all()
        below = Counter(record.layers[:-record.own] for record in records if record.own)
        return {record.id for record in records if record.layers and record.own and below[record.layers]}

    async def _remove(self, batch: Sequence[CacheUsage]) -> list[CacheUsage]:
        ids = {usage.id for usage in batch}
        gone = self._cache.remove(ids)
        for record in gone:
            if record.kind == CACHE_MOUNT:
                await self._mounts.remove(record.directory)
        went = {record.id for record in gone}
        if self.contexts is not None:
            known = {tree.id for tree in self.contexts.usage()}
            await self.contexts.remove(ids & known)
            went |= (ids & known) - {tree.id for tree in self.contexts.usage()}
        return [usage for usage in batch if usage.id in went]

    # For the disk budget

    def extra_bytes(self) -> int:
        """What is kept beside layers and blobs: cache mounts and clients' trees."""
        return sum(usage.size_bytes for usage in self.usage() if usage.mutable)

    def oldest(self) -> float | None:
        """When what would go next was last used (Unix seconds); None where nothing may go."""
        loaded = self._loaded()
        moments = [usage.last_used_ns for usage in self.usage()
                   if not usage.in_use and not usage.shared and usage.id not in loaded]
        return min(moments) / _NANO if moments else None

    async def evict(self, excess_bytes: int) -> int:
        """Remove the least recently used until so many bytes are gone, or nothing may go; how many records."""
        used = sum(usage.size_bytes for usage in self.usage() if not usage.shared)
        return len(await self.prune(CachePrune(max_used_bytes=max(used - excess_bytes, 1))))


def _usage(record: CacheRecord, *, in_use: bool, shared: bool) -> CacheUsage:
    return CacheUsage(
        id=record.id, kind=record.kind, description=record.description, size_bytes=record.size_bytes,
        created_ns=record.created_ns, last_used_ns=record.used_ns, usage_count=record.uses, in_use=in_use,
        shared=shared, mutable=record.kind == CACHE_MOUNT, parents=record.parents)
