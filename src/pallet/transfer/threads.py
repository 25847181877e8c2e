"""The threads in which transfers block, and how they are stopped.

Owns   the pool of transfer threads.
Runs   ``run`` and ``settle`` on the event loop, what they are given in a thread.
Needs  nothing.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from pallet.aio import ended, settled
from pallet.errors import SystemFailureError
from pallet.transfer.cancellation import Cancellation, under

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_SPARE = 4
"""Threads beyond the transfers themselves, for manifests and disk work of other pulls."""


class TransferThreads:
    """Threads for downloads and uploads, which may block for as long as a registry likes.

    They are apart from the daemon's general pool, whose few threads answer other requests.
    """

    def __init__(self, max_transfers: int) -> None:
        self._pool = ThreadPoolExecutor(max_transfers + _SPARE,
                                        thread_name_prefix="pallet-transfer")

    async def run(self, fn: Callable[[], T], cancel: Cancellation | None = None) -> T:
        """Run ``fn`` in a thread. When cancelled, trip ``cancel`` and wait until ``fn`` has ended.

        What ``fn`` asks a registry meanwhile ends at once then, with or without a ``cancel`` of the caller's.

        Raises:
            SystemFailureError: the disk refused; other exceptions pass through.
        """
        cancel = cancel or Cancellation()
        future = asyncio.get_running_loop().run_in_executor(self._pool, under, cancel, fn)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            cancel.cancel()
            await _ended(future)
            raise
        except OSError as error:
            raise SystemFailureError(str(error)) from error

    async def settle(self, fn: Callable[[], None]) -> None:
        """Run clean-up to its end even while the calling task is being cancelled."""
        await settled(asyncio.get_running_loop().run_in_executor(self._pool, fn))

    def close(self) -> None:
        """Wait for the threads to end. Transfers are cancelled before."""
        self._pool.shutdown(wait=True)


async def _ended(future: asyncio.Future[T]) -> None:
    """Wait for ``future`` whatever happens, and swallow its outcome."""
    await ended(future)  # the thread must not outlive the clean-up
    if not future.cancelled():
        future.exception()
