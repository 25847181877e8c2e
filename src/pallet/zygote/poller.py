"""A poll loop of callbacks: the whole scheduler of a shim.

Owns   the poll(2) set.
Runs   in a shim.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.POLLIN
WRITE = select.POLLOUT
GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Poller:
    """File descriptors with a callback each, and timers."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._events: dict[int, int] = {}
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(events)`` when ``fd`` is ready; 0 events reports hang-ups only."""
        self._callbacks[fd] = callback
        self._events[fd] = events
        self._poll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Wait for other events on a watched ``fd``."""
        if self._events.get(fd, events) != events:
            self._events[fd] = events
            self._poll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``, if it is watched. Call before closing it."""
        if self._callbacks.pop(fd, None) is not None:
            del self._events[fd]
            self._poll.unregister(fd)

    def watches(self, fd: int) -> bool:
        """True while ``fd`` is watched."""
        return fd in self._callbacks

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, ``delay_s`` from now."""
        self._timers.append((time.monotonic() + delay_s, callback))

    def turn(self) -> None:
        """Wait for something to be ready and call its callbacks."""
        for fd, events in self._poll.poll(self._timeout_ms()):
            if (callback := self._callbacks.get(fd)) is not None:
                callback(events)
        if self._timers:
            self._run_timers()

    def _timeout_ms(self) -> int | None:
        if not self._timers:
            return None
        first = min(deadline for deadline, _ in self._timers)
        return max(0, int((first - time.monotonic()) * 1000) + 1)

    def _run_timers(self) -> None:
        now = time.monotonic()
        due = [timer for timer in self._timers if timer[0] <= now]
        self._timers = [timer for timer in self._timers if timer[0] > now]
        for _, callback in due:
            callback()
