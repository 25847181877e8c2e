"""Collections of the build cache by rules, some time after builds and after a start: nobody waits for them.

Owns   which rules hold where none are set (Docker's: parts of the disk), and when they are looked at.
Runs   on the loop.
Spec   BuildKit's garbage collection; dockerd's ``builder.gc``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from typing import TYPE_CHECKING, Protocol

from pallet.build.usage import CachePrune
from pallet.errors import PalletError

if TYPE_CHECKING:
    from pallet.build.usage import CacheUsage
    from pallet.config import BuilderConfig

logger = logging.getLogger(__name__)

_DELAY_S, _EVERY_S = 1.0, 60.0
_RESERVED, _MAX_USED, _MIN_FREE = 10, 80, 20
"""Percent of the disk."""
_RESERVED_BYTES = 2_000_000_000
"""Where the disk tells nothing."""
_TEMPORARY = math.e * math.pi * (1 + math.sqrt(5)) / 2 / 100
"""dockerd's share of what is easily made again in what is reserved."""
_MIN_TEMPORARY_BYTES = 512_000_000
_HOUR_NS = 3600 * 1_000_000_000
_EASILY_MADE = ("type==source.local", "type==exec.cachemount", "type==source.git.checkout")


class Keeper(Protocol):
    """``build.cachegc.CacheKeeper``."""

    async def prune(self, wanted: CachePrune) -> list[CacheUsage]:
        """Remove what ``wanted`` means."""
        ...


def rules_of(config: BuilderConfig, root: str) -> tuple[CachePrune, ...]:
    """The rules of a daemon, in their order; none where nothing is collected.

    Args:
        root: directory on the disk that the cache is on.
    """
    if not config.gc:
        return ()
    if config.rules is not None:
        return config.rules
    reserved, most, free = config.reserved_bytes, config.max_used_bytes, config.min_free_bytes
    if not (reserved or most or free):
        reserved, most, free = _of_disk(root)

    def rule(keep_duration_ns: int = 0, *, everything: bool = False) -> CachePrune:
        return CachePrune(all=everything, keep_duration_ns=keep_duration_ns, reserved_bytes=reserved,
                          max_used_bytes=most, min_free_bytes=free)

    temporary = max(round(reserved * _TEMPORARY), _MIN_TEMPORARY_BYTES)
    return (CachePrune(filters=_EASILY_MADE, keep_duration_ns=48 * _HOUR_NS, max_used_bytes=temporary),
            rule(60 * 24 * _HOUR_NS), rule(), rule(everything=True))


def _of_disk(root: str) -> tuple[int, int, int]:
    try:
        disk = os.statvfs(root)
    except OSError:
        return _RESERVED_BYTES, 0, 0
    total = disk.f_blocks * disk.f_frsize

    def part(percent: int) -> int:
        return ((total * percent // 100 >> 30) + 1) * 1_000_000_000  # BuildKit's rounding

    return part(_RESERVED), part(_MAX_USED), part(_MIN_FREE)


class CacheCollector:
    """Collects after builds and after a daemon's start, at most once a minute."""

    def __init__(self, keeper: Keeper, config: BuilderConfig, root: str, *, delay_s: float = _DELAY_S,
                 every_s: float = _EVERY_S) -> None:
        self._keeper = keeper
        self._config = config
        self._root = root
        self._delay_s = delay_s
        self._every_s = every_s
        self._wanted = False
        self._last = -math.inf
        self._task: asyncio.Task[None] | None = None

    def kick(self) -> None:
        """A build has ended, or the daemon begun: look at the rules some time."""
        self._wanted = self._config.gc
        if self._wanted and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End it; a record is gone with all that is its own, or stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while self._wanted:
            await asyncio.sleep(max(self._delay_s, self._last + self._every_s - time.monotonic()))
            self._wanted = False
            try:
                await self.collect()
            except (PalletError, OSError):
                logger.exception("the build cache could not be collected")
            self._last = time.monotonic()

    async def collect(self) -> list[CacheUsage]:
        """Do what the rules say now; what went."""
        gone: list[CacheUsage] = []
        for rule in rules_of(self._config, self._root):
            gone += await self._keeper.prune(rule)
        if gone:
            logger.info("%d records of the build cache went by its rules", len(gone))
        return gone
