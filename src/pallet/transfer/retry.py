"""When a transfer is tried again, and how long it waits before.

Owns   the back-off policy; shared by downloads and uploads.
Runs   in transfer threads.
Needs  nothing.
Spec   Docker daemon option max-download-attempts; registry errors that are final are not retried.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.transfer.failures import RefusedError, RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pallet.transfer.cancellation import Cancellation

_MAX_DELAY_S = 30.0
_MAX_RESUMES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """``attempts`` in a row without a byte of progress; the n-th wait is ``base_s`` * 2^n."""

    attempts: int = 5
    base_s: float = 1.0

    def delay_s(self, failures_in_a_row: int) -> float:
        """Seconds to wait after that many failures, counted from 1."""
        return min(_MAX_DELAY_S, self.base_s * 2.0 ** (failures_in_a_row - 1))


class Retries:
    """Counts the failures of one transfer and waits between attempts."""

    def __init__(self, policy: RetryPolicy, cancel: Cancellation,
                 announce: Callable[[int], None] | None = None) -> None:
        """``announce`` is called with whole seconds left, once a second, while it waits."""
        self._policy = policy
        self._cancel = cancel
        self._announce = announce
        self._in_a_row = 0
        self._total = 0

    def failed(self, error: RegistryError, *, progressed: bool) -> None:
        """Take note of a failure and wait, or give up by raising it.

        Args:
            progressed: bytes arrived since the last failure, so the server is not dead.

        Raises:
            RegistryError: ``error`` itself, when it is final or the attempts are used up.
            CancelledRequestError: cancelled while waiting.
        """
        self._cancel.check()
        self._in_a_row = 1 if progressed else self._in_a_row + 1
        self._total += 1
        if (not error.retry or self._in_a_row >= self._policy.attempts
                or self._total >= _MAX_RESUMES):
            raise error
        wait_s = self._policy.delay_s(self._in_a_row)
        if isinstance(error, RefusedError):
            wait_s = max(wait_s, min(error.retry_after_s, _MAX_DELAY_S))
        if progressed:
            wait_s = min(wait_s, self._policy.base_s / 10)
        self._wait(wait_s)

    def _wait(self, wait_s: float) -> None:
        with _woken_by(self._cancel) as woken:
            left = wait_s
            while left > 0 and not woken.is_set():
                if self._announce is not None and left >= 1:
                    self._announce(round(left))
                step = min(left, 1.0)
                woken.wait(step)
                left -= step
        self._cancel.check()


@contextmanager
def _woken_by(cancel: Cancellation) -> Iterator[threading.Event]:
    event = threading.Event()
    cancel.add(event.set)
    try:
        yield event
    finally:
        cancel.discard(event.set)
