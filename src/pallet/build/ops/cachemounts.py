"""Cache mounts: directories that outlive the steps that fill them.

Owns   ``<data-root>/build/caches``: one directory a cache, or several where steps want it to
       themselves; which steps use which.
Runs   on the loop; disk work in threads.
Spec   Dockerfile reference RUN --mount=type=cache: ``sharing`` shared, private, locked.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.build.cachestore import CacheRecord
from pallet.layer.remove import discard
from pallet.storage.usage import tree_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from pallet.build.cachestore import CacheStore

KIND = "exec.cachemount"


class CacheMounts:
    """Cache directories by their ids."""

    def __init__(self, root: Path, cache: CacheStore) -> None:
        self._root = os.fspath(root)
        self._cache = cache
        self._locks: dict[str, asyncio.Lock] = {}
        self._making = asyncio.Lock()
        self._users: dict[str, int] = {}

    def sweep(self) -> None:
        """Drop directories without a record; at start-up, blocking."""
        known = {record.directory for record in self._cache.all() if record.directory}
        try:
            names = os.listdir(self._root)
        except FileNotFoundError:
            return
        for name in names:
            if name not in known:
                discard(f"{self._root}/{name}")

    @asynccontextmanager
    async def use(self, cache_id: str, sharing: str, description: str, *, mode: int, owner: tuple[int, int],
                  fill: Callable[[str], Awaitable[None]] | None = None) -> AsyncIterator[str]:
        """Give the directory of a cache for the time of a step.

        Args:
            cache_id: with its namespace, and with what it begins with.
            fill: puts into a new directory what it begins with.
        """
        base = name_of(cache_id)
        async with self._turn(base, sharing):
            name = await self._take(base, description, private=sharing == "private", mode=mode, owner=owner,
                                    fill=fill)
            try:
                yield f"{self._root}/{name}"
            finally:
                await self._give_back(name)

    @asynccontextmanager
    async def reading(self, name: str, sharing: str) -> AsyncIterator[str]:
        """Give the directory of a cache to somebody who only reads; "" where there is none.

        Steps may write meanwhile, unless the mount is ``locked``: then it is the reader's turn.
        """
        async with self._turn(name, sharing):
            record = self._record(name)
            if record is None:
                yield ""
                return
            self._users[name] = self._users.get(name, 0) + 1
            self._cache.hold(record.id)
            try:
                yield f"{self._root}/{name}"
            finally:
                await self._give_back(name)

    def has(self, name: str) -> bool:
        """Whether there is such a cache."""
        return self._record(name) is not None

    @asynccontextmanager
    async def _turn(self, base: str, sharing: str) -> AsyncIterator[None]:
        if sharing != "locked":
            yield
            return
        async with self._locks.setdefault(base, asyncio.Lock()):
            yield

    async def _take(self, base: str, description: str, *, private: bool, mode: int, owner: tuple[int, int],
                    fill: Callable[[str], Awaitable[None]] | None) -> str:
        async with self._making:
            number = 0
            while private and self._users.get(_name(base, number)):
                number += 1
            name = _name(base, number)
            self._users[name] = self._users.get(name, 0) + 1
            try:
                if self._record(name) is None or not await run_blocking(os.path.isdir, f"{self._root}/{name}"):
                    await self._make(name, description, mode, owner, fill)
            except BaseException:
                self._users[name] -= 1
                raise
            record = self._record(name)
            if record is not None:
                self._cache.hold(record.id)
                self._cache.touch(record)
            return name

    async def _make(self, name: str, description: str, mode: int, owner: tuple[int, int],
                    fill: Callable[[str], Awaitable[None]] | None) -> None:
        path = f"{self._root}/{name}"

        def make() -> None:
            discard(path)
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            os.mkdir(path, 0o700)

        def dress() -> None:
            os.chown(path, *owner)
            os.chmod(path, mode)

        await run_blocking(make)
        if fill is not None:
            await fill(path)
        await run_blocking(dress)
        self._cache.put(CacheRecord(id="", kind=KIND, description=description, directory=name), [f"{KIND}:{name}"])

    def _record(self, name: str) -> CacheRecord | None:
        return self._cache.find(f"{KIND}:{name}")

    async def _give_back(self, name: str) -> None:
        self._users[name] -= 1
        if not self._users[name]:
            del self._users[name]
        record = self._record(name)
        if record is not None:
            self._cache.release(record.id)
            if name not in self._users:
                size = await asyncio.shield(run_blocking(_size, f"{self._root}/{name}"))
                self._cache.resize(record.id, size)

    async def remove(self, name: str) -> None:
        """Delete a cache's directory, whose record is gone."""
        if not self._users.get(name):
            await run_blocking(discard, f"{self._root}/{name}")


def name_of(cache_id: str) -> str:
    """Name of a cache's directory: the same on every daemon."""
    return hashlib.sha256(cache_id.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _name(base: str, number: int) -> str:
    return f"{base}-{number}" if number else base


def _size(path: str) -> int:
    try:
        return tree_size(path)
    except OSError:
        return 0
