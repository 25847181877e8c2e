"""The event stream: history, filters, ends."""

from __future__ import annotations

import asyncio
import time

import pytest

from pallet.engine.eventfilter import matcher
from pallet.engine.events import EventBus
from pallet.spec.engine.filters import Filters


async def collect(bus: EventBus, **given: tuple[str, ...]) -> list[str]:
    stream = bus.subscribe(since_ns=1, until_ns=time.time_ns(), wanted=matcher(Filters(given)))
    return [f"{event.type} {event.action}" async for event in stream]


def fill(bus: EventBus) -> None:
    bus.emit("container", "create", "c" * 64, {"name": "web", "image": "app:1", "tier": "front"})
    bus.emit("container", "exec_create: ls -l", "c" * 64, {"name": "web", "image": "app:1"})
    bus.emit("container", "health_status: healthy", "d" * 64, {"name": "db", "image": "pg"})
    bus.emit("image", "pull", "app:1", {"name": "app"})
    bus.emit("network", "connect", "n" * 64, {"name": "bridge", "container": "c" * 64})


async def test_history_is_replayed_only_when_asked_for() -> None:
    bus = EventBus()
    fill(bus)
    assert len(await collect(bus)) == 5
    stream = bus.subscribe(since_ns=None, until_ns=time.time_ns(), wanted=lambda _event: True)
    assert [event async for event in stream] == []
    assert bus.listeners == 0


@pytest.mark.parametrize(("given", "expected"), [
    ({"type": ("image",)}, ["image pull"]),
    ({"container": ("web",)}, ["container create", "container exec_create: ls -l"]),
    ({"container": ("ddd",)}, ["container health_status: healthy"]),
    ({"event": ("exec_create",)}, ["container exec_create: ls -l"]),
    ({"event": ("health_status", "pull")}, ["container health_status: healthy", "image pull"]),
    ({"label": ("tier=front",)}, ["container create"]),
    ({"image": ("app",)}, ["container create", "container exec_create: ls -l", "image pull"]),
    ({"network": ("bridge",), "type": ("container",)}, []),
])
async def test_filters(given: dict[str, tuple[str, ...]], expected: list[str]) -> None:
    bus = EventBus()
    fill(bus)
    assert await collect(bus, **given) == expected


async def test_a_subscription_stands_before_it_is_read() -> None:
    bus = EventBus()
    stream = bus.subscribe(since_ns=None, until_ns=None, wanted=lambda _event: True)
    bus.emit("container", "start", "c", {})
    assert (await anext(stream)).action == "start"
    await stream.aclose()
    assert bus.listeners == 0


async def test_a_reader_that_does_not_read_is_cut_off() -> None:
    bus = EventBus()
    stream = bus.subscribe(since_ns=None, until_ns=None, wanted=lambda _event: True)
    for number in range(5000):
        bus.emit("container", str(number), "c", {})
    async with asyncio.timeout(5):
        seen = [event.action async for event in stream]
    assert seen[:2] == ["0", "1"]
    assert len(seen) < 5000


def test_history_is_bounded() -> None:
    bus = EventBus()
    for number in range(300):
        bus.emit("container", str(number), "c", {})
    assert len(bus._history) == 256
