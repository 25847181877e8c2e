"""Bridges between the event loop and blocking code.

Runs in the daemon only. Two pools: a bounded general one for disk work, hashing and decompression,
and one worker for SQLite, whose connection belongs to that thread.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
