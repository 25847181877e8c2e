"""``/containers/{id}/wait``: three conditions, registered before the reply's head goes out.

Engine API ContainerWait; semantics rows "wait", "--rm race".
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pallet.engine.status import is_running
from pallet.spec.engine.container import ContainerWaitResponse, WaitError

if TYPE_CHECKING:
    from pallet.engine.container import Container, ExitResult
    from pallet.spec.engine.options import WaitCondition


class Wait:
    """One registered wait; see ``spec.engine.options.WaitHandle``."""

    def __init__(self, waiting: set[asyncio.Future[ExitResult]], known: ExitResult | None) -> None:
        self._future: asyncio.Future[ExitResult] = asyncio.get_running_loop().create_future()
        self._waiting = waiting
        if known is not None:
            self._future.set_result(known)
        else:
            waiting.add(self._future)

    async def result(self) -> ContainerWaitResponse:
        """Wait, then return the exit code."""
        result = await self._future
        if result.error:
            return ContainerWaitResponse(status_code=result.exit_code, error=WaitError(message=result.error))
        return ContainerWaitResponse(status_code=result.exit_code)

    def close(self) -> None:
        """Forget the wait."""
        self._waiting.discard(self._future)
        self._future.cancel()


def subscribe(container: Container, condition: WaitCondition) -> Wait:
    """Register a wait for ``condition``; ``not-running`` is answered at once if it does not run."""
    waiters = container.waiters
    if condition == "removed":
        return Wait(waiters.removed, None)
    if condition == "next-exit":
        return Wait(waiters.next_exit, None)
    known = None if is_running(container.status) else container.result()
    return Wait(waiters.not_running, known)
