"""Events of a build as JSON, with BuildKit's names (``--progress rawjson``) and times in nanoseconds."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from pallet.build.progress import LogEvent, StatusEvent, VertexEvent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pallet.build.progress import Event


def encode(events: Iterable[Event]) -> list[dict[str, object]]:
    """Documents with one of the keys ``vertex``, ``status``, ``log`` and ``warning``."""
    return [_one(event) for event in events]


def _one(event: Event) -> dict[str, object]:
    if isinstance(event, VertexEvent):
        found: dict[str, object] = {"digest": event.digest, "name": event.name}
        if event.inputs:
            found["inputs"] = event.inputs
        if event.started_ns:
            found["started"] = event.started_ns
        if event.completed_ns:
            found["completed"] = event.completed_ns
        if event.cached:
            found["cached"] = True
        if event.error:
            found["error"] = event.error
        return {"vertex": found}
    if isinstance(event, StatusEvent):
        return {"status": {
            "id": event.id, "vertex": event.vertex, "name": event.name, "current": event.current,
            "total": event.total, "timestamp": event.timestamp_ns, "started": event.started_ns,
            "completed": event.completed_ns}}
    if isinstance(event, LogEvent):
        return {"log": {
            "vertex": event.vertex, "stream": event.stream, "timestamp": event.timestamp_ns,
            "data": base64.b64encode(event.data).decode()}}
    warning = event.warning
    span = warning.span
    return {"warning": {
        "vertex": event.vertex, "level": 1, "rule": warning.rule, "short": warning.message,
        "detail": warning.description, "url": warning.url,
        "file": span.filename if span else "", "start": span.start if span else 0,
        "end": span.end if span else 0}}
