"""How a transfer is told to stop while a thread of it waits for the network.

Owns   ``Cancellation``, and which one the running thread works under.
Runs   in transfer threads; ``cancel`` on the event loop.
Needs  nothing.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from pallet.errors import CancelledRequestError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_thread = threading.local()


class Cancellation:
    """Tells a transfer thread to stop, also while it waits for a socket.

    ``cancel`` may be called from any thread, any number of times.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._closers: set[Callable[[], None]] = set()

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Stop the transfer: its next check raises and its socket is shut down."""
        with self._lock:
            self._cancelled = True
            closers, self._closers = self._closers, set()
        for closer in closers:
            with suppress(OSError, ValueError, RuntimeError):  # the reply was given back meanwhile
                closer()

    def check(self) -> None:
        """Raise when cancelled.

        Raises:
            CancelledRequestError: ``cancel`` was called.
        """
        if self._cancelled:
            message = "context canceled"
            raise CancelledRequestError(message)

    def add(self, closer: Callable[[], None]) -> None:
        """Call ``closer`` on cancellation, at once if that has happened already."""
        with self._lock:
            if not self._cancelled:
                self._closers.add(closer)
                return
        with suppress(OSError, ValueError, RuntimeError):
            closer()

    def discard(self, closer: Callable[[], None]) -> None:
        """Forget ``closer``."""
        with self._lock:
            self._closers.discard(closer)


def under(cancel: Cancellation, fn: Callable[[], T]) -> T:
    """Call ``fn``; the sockets that this thread waits for meanwhile are shut down on cancellation."""
    _thread.cancel = cancel
    try:
        return fn()
    finally:
        del _thread.cancel


def current() -> Cancellation | None:
    """What this thread works under."""
    return getattr(_thread, "cancel", None)
