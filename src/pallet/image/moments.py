"""RFC 3339 times of image documents, to and from Unix seconds."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

_FRACTION = re.compile(r"\.(\d+)")
_MICROSECONDS = 6


def now() -> str:
    """The present moment with nanoseconds, UTC."""
    nanos = time.time_ns()
    seconds, rest = divmod(nanos, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def unix_seconds(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time with any number of fraction digits.

    Returns 0.0 for text that is no time and for one before 1970 (Go's zero time is year 1).
    """
    # datetime takes at most six digits of a fraction before Python 3.12.
    cut = _FRACTION.sub(lambda match: "." + match[1][:_MICROSECONDS].ljust(_MICROSECONDS, "0"), text)
    try:
        moment = datetime.fromisoformat(cut.replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(moment.timestamp(), 0.0)
