"""Work that several builds want at the same time is done once.

Owns   executions under way, by cache key: who waits for each, and what it has written so far.
Runs   on the loop.

An execution ends early when nobody waits for it any more: the end of one build is not the end of what
another one still needs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pallet.errors import PalletError

    Output = Callable[[int, bytes], None]

T = TypeVar("T")

_REPLAY_BYTES = 1 << 20
"""Output kept for builds that join later."""


class Execution(Generic[T]):
    """One piece of work under way."""

    def __init__(self, work: Callable[[Output], Awaitable[T]]) -> None:
        self._outputs: list[Output] = []
        self._written: list[tuple[int, bytes]] = []
        self._kept = 0
        self._refusal: PalletError | None = None
        self._task: asyncio.Task[T] = asyncio.get_running_loop().create_task(self._run(work))

    async def _run(self, work: Callable[[Output], Awaitable[T]]) -> T:
        return await work(self._write)

    def _write(self, stream: int, data: bytes) -> None:
        if self._kept < _REPLAY_BYTES:
            self._written.append((stream, data))
            self._kept += len(data)
        for output in list(self._outputs):
            output(stream, data)

    def end(self, refusal: PalletError) -> None:
        """End it early; who waits for it gets ``refusal``."""
        self._refusal = refusal
        self._task.cancel()

    async def wait(self) -> None:
        """Wait for its end, whatever that is."""
        await asyncio.wait({self._task})

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._task.done()

    async def join(self, output: Output) -> T:
        """Wait for the result; hear all that was and will be written."""
        for stream, data in self._written:
            output(stream, data)
        self._outputs.append(output)
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._refusal is None or not self._task.cancelled() or (caller is not None and caller.cancelling()):
                raise
            raise self._refusal from None
        finally:
            self._outputs.remove(output)
            if not self._outputs and not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task})


class Executions(Generic[T]):
    """Executions by key."""

    def __init__(self) -> None:
        self._running: dict[str, Execution[T]] = {}

    async def close(self, refusal: PalletError) -> None:
        """End all that are under way, and wait for their ends; who waits for them gets ``refusal``."""
        running = [execution for execution in self._running.values() if not execution.done]
        for execution in running:
            execution.end(refusal)
        for execution in running:
            await execution.wait()

    async def run(self, key: str, work: Callable[[Output], Awaitable[T]], output: Output,
                  begun: list[Execution[T]]) -> T:
        """Do ``work``, or join who does it under the same key already.

        Args:
            begun: gets the execution if it was not under way: it works with what the caller has, which must
                last until it has ended, also when the caller leaves it to others.
        """
        execution = self._running.get(key)
        if execution is None or execution.done:
            execution = self._running[key] = Execution(work)
            begun.append(execution)
        try:
            return await execution.join(output)
        finally:
            if execution.done and self._running.get(key) is execution:
                del self._running[key]
