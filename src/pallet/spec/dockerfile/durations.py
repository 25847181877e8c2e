"""Go's durations: ``1h2m``, ``1.5s``, ``300ms``.

Owns   their parsing and printing.
Runs   anywhere; pure.
"""

from __future__ import annotations

import re
from fractions import Fraction

_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9,
                "m": 60 * 10**9, "h": 3600 * 10**9}
_MAX_NS = 2**63 - 1


def parse_duration_ns(text: str) -> int | None:
    """Nanoseconds of a duration, maybe negative; None when it is none."""
    sign, body = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if body == "0":
        return 0
    total, at = Fraction(0), 0
    while at < len(body):
        match = _PART.match(body, at)
        if match is None:
            return None
        total += Fraction(match[1] if match[1] != "." else "0") * _NANOSECONDS[match[2]]
        at = match.end()
    value = int(total)
    return sign * value if at and value <= _MAX_NS else None


def format_duration(value_ns: int) -> str:
    """The way Go prints one: ``1m30s``, ``1.5s``, ``100ms``, ``0s``."""
    if value_ns < 0:
        return "-" + format_duration(-value_ns)
    if value_ns == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if value_ns < size * 1000:
            return f"{_decimal(value_ns, size)}{unit}"
    seconds_ns = value_ns % (60 * 10**9)
    minutes = value_ns // (60 * 10**9)
    text = f"{_decimal(seconds_ns, 10**9)}s"
    if minutes:
        text = f"{minutes % 60}m{text}"
    return f"{minutes // 60}h{text}" if minutes >= 60 else text


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    if not rest:
        return str(whole)
    digits = str(rest).rjust(len(str(size)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}"
