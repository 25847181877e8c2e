"""Bridges between the event loop and blocking code.

Runs in the daemon only. Two pools: a bounded general one for disk work, hashing and decompression,
and one worker for SQLite, whose connection belongs to that thread.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

P = ParamSpec("P")
T = TypeVar("T")

_BLOCKING_WORKERS = 16

_blocking = ThreadPoolExecutor(_BLOCKING_WORKERS, thread_name_prefix="pallet-io")
_database = ThreadPoolExecutor(1, thread_name_prefix="pallet-db")


async def run_blocking(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``fn`` on the bounded pool and return its result; its exceptions pass through."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_blocking, partial(fn, *args, **kwargs))


async def run_database(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``fn`` on the one SQLite worker: calls are executed in the order they were made."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_database, partial(fn, *args, **kwargs))


@asynccontextmanager
async def held(make: Callable[[], T], drop: Callable[[T], object]) -> AsyncIterator[T]:
    """Have what ``make`` makes for the time of the block: a file, a directory. Both run on the bounded pool.

    Whenever the caller is cancelled, also while it is being made, ``drop`` takes it away; it does
    nothing to what was committed in the block.
    """
    loop = asyncio.get_running_loop()
    making = loop.run_in_executor(_blocking, make)
    try:
        made = await settled(making)
    except asyncio.CancelledError:
        if not making.cancelled() and making.exception() is None:
            await ended(loop.run_in_executor(_blocking, drop, making.result()))
        raise
    try:
        yield made
    finally:
        await settled(loop.run_in_executor(_blocking, drop, made))


async def settled(future: asyncio.Future[T]) -> T:
    """Wait for what a thread does to its end even while the caller is being cancelled, and only then raise that."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await ended(future)
        raise


async def ended(future: asyncio.Future[T]) -> None:
    """Wait for what a thread does, however often the caller is cancelled meanwhile; the outcome is not looked at."""
    while not future.done():
        with suppress(asyncio.CancelledError):  # the caller re-raises its own
            await asyncio.wait([future])


async def shielded(awaitable: Awaitable[T]) -> T:
    """Await a state transition that must not end half-way when its client goes away.

    The work goes on to its end even if the caller is cancelled; the caller still sees the
    cancellation at once.
    """
    return await asyncio.shield(asyncio.ensure_future(awaitable))


def first_error(problems: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what failed first of a task group, however deep it lies: what whoever asked is told."""
    found: BaseException = problems
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
