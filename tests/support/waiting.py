"""Waiting without sleeping blindly: poll a condition until a deadline, then fail with the last answer."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PATIENCE = float(os.environ.get("PALLET_PATIENCE", "1"))
"""Factor on every deadline, for machines that are emulated."""


def eventually(
    condition: Callable[[], T], *, timeout_s: float = 10.0, interval_s: float = 0.02, what: str = ""
) -> T:
    """Return the first truthy result of ``condition``.

    Raises:
        AssertionError: none came within ``timeout_s``; the message holds the last result or error.
    """
    deadline = time.monotonic() + timeout_s * PATIENCE
    while True:
        failure: BaseException | None = None
        result: T | None = None
        try:
            result = condition()
        except (AssertionError, OSError, LookupError) as error:
            failure = error
        if failure is None and result:
            return result
        if time.monotonic() > deadline:
            label = what or getattr(condition, "__name__", "condition")
            message = f"{label}: not within {timeout_s} s; last: {failure or result!r}"
            raise AssertionError(message) from failure
        time.sleep(interval_s)


def steady(
    condition: Callable[[], object], *, for_s: float = 0.3, interval_s: float = 0.03
) -> None:
    """Assert that ``condition`` stays truthy for ``for_s``: for things that must not happen."""
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        result = condition()
        assert result, f"{getattr(condition, '__name__', 'condition')} changed to {result!r}"
        time.sleep(interval_s)
