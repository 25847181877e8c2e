"""Counters of every worker in memory that they share, and their text for Prometheus.

Owns   the cells, and the names and labels of the metrics.
Runs   counting on the loop and in threads of any worker; rendering in a thread of the one asked.
       A worker writes its own row only, under its interpreter's lock or the row's; sums are read
       without one: a double is written whole.
Needs  an anonymous map made before the workers are forked.
Spec   Prometheus text exposition format 0.0.4.
"""

from __future__ import annotations

import bisect
import mmap
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
ROUTES: Final = ("base", "catalog", "tags", "manifests", "blobs", "uploads", "referrers", "token", "other")
METHODS: Final = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "other")
STATUSES: Final = ("200", "201", "202", "204", "206", "304", "307", "400", "401", "403", "404", "405",
                   "408", "413", "416", "429", "431", "499", "500", "501", "503", "507", "other")
_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_COUNTERS: Final = {
    "received_bytes_total": "Bytes of request bodies received.",
    "sent_bytes_total": "Bytes of response bodies sent.",
    "auth_failures_total": "Requests refused in spite of their credentials.",
    "gc_runs_total": "Collections that ended.",
    "gc_failures_total": "Collections that failed.",
    "gc_freed_bytes_total": "Bytes that collections freed.",
    "webhook_deliveries_total": "Notifications that a receiver accepted.",
    "webhook_failures_total": "Attempts to deliver a notification that failed.",
    "cache_hits_total": "Requests answered from memory.",
    "mirror_fetches_total": "Blobs fetched from upstream registries.",
    "mirror_fetched_bytes_total": "Bytes of these blobs.",
    "mirror_failures_total": "Questions to upstream registries that got no answer.",
    "mirror_stale_replies_total": "Replies about mirrored repositories while upstream did not answer.",
    "worker_restarts_total": "Workers that ended unasked and were replaced.",
}
_GAUGES: Final = {
    "connections": "Open connections.",
    "uploads_in_progress": "Requests that bring content just now.",
}
_PREFIX: Final = "pallet_registry_"
_DOUBLE: Final = 8

_METHOD_INDEX: Final = {name: index for index, name in enumerate(METHODS)}
_STATUS_INDEX: Final = {int(name): index for index, name in enumerate(STATUSES) if name != "other"}
_ROUTE_INDEX: Final = {name: index for index, name in enumerate(ROUTES)}
_REQUESTS: Final = len(ROUTES) * len(METHODS) * len(STATUSES)
_HISTOGRAM: Final = len(_BOUNDS) + 2  # counts of the buckets, of the rest, sum of seconds
_FIRST_HISTOGRAM: Final = _REQUESTS
_FIRST_NAMED: Final = _REQUESTS + len(ROUTES) * _HISTOGRAM
_NAMED: Final = {name: _FIRST_NAMED + index for index, name in enumerate((*_COUNTERS, *_GAUGES))}
_ROW: Final = _FIRST_NAMED + len(_NAMED)


class Cells:
    """One row of doubles for each worker; made before they are forked."""

    def __init__(self, rows: int) -> None:
        self._map = mmap.mmap(-1, rows * _ROW * _DOUBLE)
        self._cells = memoryview(self._map).cast("d")
        self.rows = rows

    def row(self, index: int) -> memoryview[float]:
        """The cells of one worker."""
        return self._cells[index * _ROW:(index + 1) * _ROW]

    def clear_gauges(self, index: int) -> None:
        """Forget what an ended worker was just doing; what it counted stays."""
        row = self.row(index)
        for name in _GAUGES:
            row[_NAMED[name]] = 0.0

    def count_restart(self, index: int) -> None:
        """Count that a worker was replaced; while it is not there."""
        self.row(index)[_NAMED["worker_restarts_total"]] += 1

    def total(self, cell: int) -> float:
        """Sum over all workers."""
        cells = self._cells
        return float(sum(cells[row * _ROW + cell] for row in range(self.rows)))


class Metrics:
    """What one worker counts."""

    def __init__(self, cells: Cells | None = None, index: int = 0) -> None:
        self.cells = cells or Cells(1)
        self._row = self.cells.row(index)
        self._lock = threading.Lock()

    def served(self, method: str, route: str, status: int, seconds: float, sent: int) -> None:
        """Count a request; on the loop only."""
        row, at = self._row, _ROUTE_INDEX[route]
        row[(at * len(METHODS) + _METHOD_INDEX.get(method, len(METHODS) - 1)) * len(STATUSES)
            + _STATUS_INDEX.get(status, len(STATUSES) - 1)] += 1
        first = _FIRST_HISTOGRAM + at * _HISTOGRAM
        row[first + bisect.bisect_left(_BOUNDS, seconds)] += 1
        row[first + _HISTOGRAM - 1] += seconds
        row[_NAMED["sent_bytes_total"]] += sent

    def hit(self) -> None:
        """Count a reply from memory; on the loop only."""
        self._row[_NAMED["cache_hits_total"]] += 1

    def add(self, name: str, value: float = 1) -> None:
        """Add to a counter or gauge; in any thread."""
        with self._lock:
            self._row[_NAMED[name]] += value

    def value(self, name: str) -> float:
        """Sum of a counter or gauge over all workers."""
        return self.cells.total(_NAMED[name])

    def set(self, name: str, value: float) -> None:
        """Set a gauge that only one thread sets."""
        self._row[_NAMED[name]] = value

    def render(self, state: Callable[[], Iterable[tuple[str, str, float]]]) -> bytes:
        """Text of everything.

        Args:
            state: name, help and value of gauges that are asked for when needed (storage).
        """
        lines = [*self._requests(), *self._durations()]
        for name, text in _COUNTERS.items():
            lines += _family(name, "counter", text)
            lines.append(f"{_PREFIX}{name} {_number(self.value(name))}")
        for name, text in _GAUGES.items():
            lines += _family(name, "gauge", text)
            lines.append(f"{_PREFIX}{name} {_number(self.value(name))}")
        for name, text, value in state():
            lines += _family(name, "gauge", text)
            lines.append(f"{_PREFIX}{name} {_number(value)}")
        return ("\n".join(lines) + "\n").encode()

    def _requests(self) -> list[str]:
        name = "http_requests_total"
        lines = _family(name, "counter", "Requests answered.")
        for cell in range(_REQUESTS):
            count = self.cells.total(cell)
            if count:
                rest, status = divmod(cell, len(STATUSES))
                route, method = divmod(rest, len(METHODS))
                lines.append(f'{_PREFIX}{name}{{method="{METHODS[method]}",route="{ROUTES[route]}",'
                             f'status="{STATUSES[status]}"}} {_number(count)}')
        return lines

    def _durations(self) -> list[str]:
        name = "http_request_duration_seconds"
        lines = _family(name, "histogram", "From a request's head to the end of its reply.")
        for index, route in enumerate(ROUTES):
            first = _FIRST_HISTOGRAM + index * _HISTOGRAM
            counts = [self.cells.total(first + at) for at in range(_HISTOGRAM - 1)]
            if not any(counts):
                continue
            running = 0.0
            for bound, count in zip((*map(str, _BOUNDS), "+Inf"), counts, strict=True):
                running += count
                lines.append(f'{_PREFIX}{name}_bucket{{route="{route}",le="{bound}"}} {_number(running)}')
            seconds = self.cells.total(first + _HISTOGRAM - 1)
            lines.append(f'{_PREFIX}{name}_sum{{route="{route}"}} {seconds:.6f}')
            lines.append(f'{_PREFIX}{name}_count{{route="{route}"}} {_number(running)}')
        return lines


def route_of(path: str) -> str:
    """Name of the route that a path belongs to."""
    if not path.startswith("/v2"):
        return "token" if path == "/token" else "other"
    if path in {"/v2", "/v2/"}:
        return "base"
    if path == "/v2/_catalog":
        return "catalog"
    if "/blobs/uploads/" in path:
        return "uploads"
    kind = path.rsplit("/", 2)[-2]
    return kind if kind in {"manifests", "blobs", "referrers", "tags"} else "other"


def _family(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {_PREFIX}{name} {text}", f"# TYPE {_PREFIX}{name} {kind}"]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
