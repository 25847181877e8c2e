"""What is held for a block is let go of however the block, or the wait for it, ends."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest

from pallet.aio import held


class Things:
    """Made and dropped in threads; making waits for ``gate`` after it was ``begun``."""

    def __init__(self, *, fails: bool = False) -> None:
        self.begun, self.gate, self.fails = threading.Event(), threading.Event(), fails
        self.there: set[str] = set()

    def make(self) -> str:
        self.begun.set()
        assert self.gate.wait(30)
        if self.fails:
            raise OSError(28, "full")
        self.there.add("thing")
        return "thing"


async def hold(things: Things, entered: asyncio.Event) -> None:
    async with held(things.make, things.there.discard) as thing:
        assert things.there == {thing}
        entered.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("fails", [False, True])
async def test_cancelled_while_it_is_made(fails: bool) -> None:
    """More than once, too."""
    things = Things(fails=fails)
    task = asyncio.create_task(hold(things, asyncio.Event()))
    await asyncio.to_thread(things.begun.wait, 30)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    things.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not things.there


async def test_cancelled_in_the_block() -> None:
    things, entered = Things(), asyncio.Event()
    things.gate.set()
    task = asyncio.create_task(hold(things, entered))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not things.there


async def test_an_error_in_the_block_and_while_making() -> None:
    things = Things()
    things.gate.set()
    with pytest.raises(ZeroDivisionError):
        async with held(things.make, things.there.discard):
            raise ZeroDivisionError
    assert not things.there
    things.fails = True
    with pytest.raises(OSError, match="full"):
        async with held(things.make, things.there.discard):
            pytest.fail("nothing was made")


async def test_the_drop_is_waited_for() -> None:
    dropping, go = threading.Event(), threading.Event()
    dropped: list[int] = []

    def drop(thing: int) -> None:
        dropping.set()
        assert go.wait(30)
        dropped.append(thing)

    async def body() -> None:
        async with held(lambda: 1, drop):
            pass

    task = asyncio.create_task(body())
    await asyncio.to_thread(dropping.wait, 30)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert dropped == [1]
