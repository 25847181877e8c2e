"""Progress messages of pulls and pushes, as Docker's daemon words them.

Owns   the texts, the bar for old clients, and the rate limit.
Runs   anywhere; ``Throttle`` in one thread at a time.
Needs  nothing.
Spec   Engine API CreateImageInfo, PushImageInfo.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from pallet.spec.engine.progress import ProgressDetail, ProgressMessage

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL_S = 0.1
"""Least time between two byte counts of one layer."""
_BAR_CELLS = 50
_NO_DETAIL = ProgressDetail()


def message(text: str, message_id: str = "") -> ProgressMessage:
    """A line without an object, such as ``Digest: sha256:…``; with an id it heads the output."""
    if message_id:
        return ProgressMessage(status=text, id=message_id)
    return ProgressMessage(status=text)


def update(text: str, message_id: str) -> ProgressMessage:
    """A change of state of ``message_id``, such as ``Pull complete``."""
    return ProgressMessage(status=text, progress_detail=_NO_DETAIL, id=message_id)


def count(text: str, message_id: str, current: int, total: int) -> ProgressMessage:
    """A byte count of ``message_id`` with its bar."""
    detail = ProgressDetail(current=current) if total <= 0 else ProgressDetail(
        current=current, total=total)
    return ProgressMessage(status=text, progress_detail=detail, id=message_id,
                           progress=bar(current, total))


def aux(document: msgspec.Struct) -> ProgressMessage:
    """A machine-readable result inside the stream."""
    raw = msgspec.Raw(msgspec.json.encode(document))
    return ProgressMessage(progress_detail=_NO_DETAIL, aux=raw)


def bar(current: int, total: int) -> str:
    """``[=====>    ]  1.2MB/3.4MB`` with fifty cells."""
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{human_size(current):>8}"
    filled = min(_BAR_CELLS, int(current / total * 100) // 2)
    cells = "=" * filled + ">" + " " * (_BAR_CELLS - filled)
    numbers = f"{human_size(current):>8}"
    if current <= total:
        numbers += f"/{human_size(total)}"
    return f"[{cells}] {numbers}"


def human_size(size_bytes: float) -> str:
    """Four significant digits and a decimal unit, as Go's units package prints sizes."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if size_bytes < 1000:
            return f"{size_bytes:.4g}{unit}"
        size_bytes /= 1000
    return f"{size_bytes:.4g}EB"


class Throttle:
    """Passes a byte count on at most once an interval; the last one always."""

    def __init__(self, emit: Callable[[int], None], *, interval_s: float = INTERVAL_S,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._emit = emit
        self._interval = interval_s
        self._clock = clock
        self._next = 0.0

    def report(self, current: int, *, last: bool = False) -> None:
        """Report ``current`` bytes done."""
        now = self._clock()
        if last or now >= self._next:
            self._next = now + self._interval
            self._emit(current)
