"""Parts of the daemon that are made when somebody first uses them.

Owns   the stand-in. What it stands for costs nothing until then: neither memory nor its modules' imports.
Runs   anywhere; two threads that come at once wait for one another.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


class _Deferred:
    """Has every attribute of what ``make`` returns."""

    __slots__ = ("_lock", "_made", "_make")

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make
        self._made: object | None = None
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._make()
        return getattr(self._made, name)


def made(part: T) -> T | None:
    """What a deferred part stands for, if anybody has used it."""
    return cast("T | None", object.__getattribute__(part, "_made"))


def deferred(make: Callable[[], T]) -> T:
    """Return what stands for the result of ``make``; only attributes may be used, not identity or type."""
    return cast("T", _Deferred(make))
