"""The event stream: a ring of the last 256 events and its live subscribers.

Engine API SystemEvents; semantics rows "events". Runs on the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from pallet.spec.engine.event import EventActor, EventMessage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

_HISTORY = 256
_QUEUE_LIMIT = 4096


class EventSink(Protocol):
    """Where domain code reports what happened."""

    def emit(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        """Record one event of ``kind`` ("container", "image", "network", "volume", "daemon")."""
        ...


class EventBus:
    """Publishes events to every subscriber and keeps the last 256 for replays."""

    def __init__(self) -> None:
        self._history: deque[EventMessage] = deque(maxlen=_HISTORY)
        self._queues: set[asyncio.Queue[EventMessage | None]] = set()
        self._observers: list[Callable[[EventMessage], None]] = []

    @property
    def listeners(self) -> int:
        """How many subscribers there are."""
        return len(self._queues)

    def emit(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        """See ``EventSink.emit``. Never blocks; a subscriber that does not read is cut off."""
        now = time.time_ns()
        event = EventMessage(
            type=kind, action=action, actor=EventActor(id=actor_id, attributes=dict(attributes)),
            scope="local", time=now // 1_000_000_000, time_nano=now)
        self._history.append(event)
        for observer in self._observers:
            observer(event)
        for queue in list(self._queues):
            if queue.qsize() >= _QUEUE_LIMIT:
                self._queues.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    def observe(self, observer: Callable[[EventMessage], None]) -> None:
        """Call ``observer`` with every event from now on, at once: it must be quick."""
        self._observers.append(observer)

    def subscribe(
        self, *, since_ns: int | None, until_ns: int | None, wanted: Callable[[EventMessage], bool]
    ) -> AsyncGenerator[EventMessage, None]:
        """Return past events from ``since_ns`` on, then live ones, until ``until_ns`` or closing.

        The subscription stands when this returns, not only when the first event is asked for.
        Without ``since_ns`` only live events are sent.
        """
        queue: asyncio.Queue[EventMessage | None] = asyncio.Queue()
        self._queues.add(queue)
        for event in self._history:
            if since_ns is not None and event.time_nano >= since_ns:
                queue.put_nowait(event)
        return self._drain(queue, until_ns, wanted)

    async def _drain(
        self, queue: asyncio.Queue[EventMessage | None], until_ns: int | None,
        wanted: Callable[[EventMessage], bool],
    ) -> AsyncGenerator[EventMessage, None]:
        try:
            while True:
                event = await _next(queue, until_ns)
                if event is None or (until_ns is not None and event.time_nano > until_ns):
                    return
                if wanted(event):
                    yield event
        finally:
            self._queues.discard(queue)


async def _next(queue: asyncio.Queue[EventMessage | None], until_ns: int | None) -> EventMessage | None:
    if not queue.empty():
        return queue.get_nowait()
    left_s = None if until_ns is None else max(0.0, (until_ns - time.time_ns()) / 1e9)
    try:
        async with asyncio.timeout(left_s):
            return await queue.get()
    except TimeoutError:
        return None
