"""Durations, sizes and times as Docker prints them. Pure."""

from __future__ import annotations

import time

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
_LONGEST_S = 2**63 / 1e9  # of Go's durations
ZERO_TIME = -62135596800  # Go's zero time (year 1), in seconds since the epoch


def _scaled(size_bytes: float, base: float, units: tuple[str, ...], digits: int) -> str:
    at = 0
    value = float(size_bytes)
    while value >= base and at < len(units) - 1:
        value /= base
        at += 1
    return f"{value:.{digits}g}{units[at]}"


def human_size(size_bytes: float, digits: int = 4) -> str:
    """Return decimal units with ``digits`` significant digits: ``1.982MB``."""
    return _scaled(size_bytes, 1000.0, _DECIMAL, digits)


def binary_size(size_bytes: float) -> str:
    """Return binary units with four significant digits: ``23.54GiB``."""
    return _scaled(size_bytes, 1024.0, _BINARY, 4)


def human_duration(seconds: float) -> str:
    """Return "About a minute", "3 weeks": the words of ``docker ps``."""
    whole = int(seconds)
    hours = int(seconds / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    minutes = whole // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(hours / 24 / 365)} years"


def ago(timestamp: float) -> str:
    """Return "3 minutes ago" for seconds since the epoch."""
    return f"{human_duration(min(max(0.0, time.time() - timestamp), _LONGEST_S))} ago"


def local_time(timestamp: float) -> str:
    """Return ``2006-01-02 15:04:05 -0700 MST`` in the local zone."""
    moment = time.localtime(timestamp)
    return f"{moment.tm_year:04}{time.strftime('-%m-%d %H:%M:%S %z %Z', moment)}"


def local_rfc3339(timestamp: float) -> str:
    """Return ``2006-01-02T15:04:05-07:00`` in the local zone, ``Z`` for UTC."""
    moment = time.localtime(timestamp)
    text = f"{moment.tm_year:04}{time.strftime('-%m-%dT%H:%M:%S%z', moment)}"
    return text[:-5] + ("Z" if text.endswith("+0000") else f"{text[-5:-2]}:{text[-2:]}")


def parse_rfc3339(text: str) -> tuple[int, int]:
    """Return seconds and nanoseconds since the epoch of ``2024-01-02T03:04:05.6Z``.

    Raises:
        ValueError: it is not such a time.
    """
    date, _, rest = text.partition("T")
    at = max(rest.find("Z"), rest.find("+"), rest.find("-"))
    if at < 0:
        raise ValueError(f"not an RFC 3339 time: {text}")
    clock, zone = rest[:at], rest[at:]
    whole, _, fraction = clock.partition(".")
    year, month, day = (int(part) for part in date.split("-"))
    hour, minute, second = (int(part) for part in whole.split(":"))
    offset = 0
    if zone not in ("Z", "z"):
        hours, _, minutes = zone[1:].partition(":")
        offset = (int(hours) * 3600 + int(minutes) * 60) * (-1 if zone[0] == "-" else 1)
    days = _days_from_epoch(year, month, day)
    nanoseconds = int((fraction + "000000000")[:9])
    return days * 86400 + hour * 3600 + minute * 60 + second - offset, nanoseconds


def _days_from_epoch(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a date of the Gregorian calendar (any year, also 1)."""
    year -= month <= 2
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146097 + day_of_era - 719468


def go_time(text: str) -> str:
    """Return an RFC 3339 time as Go prints a ``time.Time`` in UTC; other text unchanged."""
    try:
        seconds, nanoseconds = parse_rfc3339(text)
    except ValueError:
        return text
    stamp = time.gmtime(seconds)
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return (f"{stamp.tm_year:04d}-{stamp.tm_mon:02d}-{stamp.tm_mday:02d} "
            f"{stamp.tm_hour:02d}:{stamp.tm_min:02d}:{stamp.tm_sec:02d}{fraction} +0000 UTC")


def api_time(text: str, now: float | None = None) -> str:
    """Return ``--since`` or ``--until`` as the Engine API takes it: seconds with nanoseconds.

    Accepts an RFC 3339 time (also shortened and without zone), a Go duration before ``now``, and
    seconds since the epoch.

    Raises:
        ValueError: none of these; with Docker's words.
    """
    from pallet.cli.errors import InvalidValueError
    from pallet.cli.values import parse_duration

    if not text:
        return text
    if text.replace(".", "", 1).isdigit():
        return text
    try:
        duration_ns = parse_duration(text)
    except InvalidValueError:
        pass
    else:
        # Whole seconds, as Docker sends them: ``--since 0s`` begins with the present second.
        then = (time.time() if now is None else now) - duration_ns / 1_000_000_000
        return str(int(then // 1))
    try:
        seconds, nanoseconds = _parse_loose(text)
    except ValueError:
        raise ValueError(f'failed to parse value as time or duration: "{text}"') from None
    return f"{seconds}.{nanoseconds:09d}"


def _parse_loose(text: str) -> tuple[int, int]:
    date, _, clock = text.partition("T")
    zone_at = max(clock.find("Z"), clock.find("+"), clock.find("-"))
    zone = clock[zone_at:] if zone_at >= 0 else ""
    clock = clock[:zone_at] if zone_at >= 0 else clock
    if date.endswith("Z"):
        date, zone = date[:-1], "Z"
    parts = clock.split(":") if clock else []
    if len(date.split("-")) != 3 or len(parts) > 3:
        raise ValueError(text)
    clock = ":".join([*parts, *["00"] * (3 - len(parts))])
    if zone:
        return parse_rfc3339(f"{date}T{clock}{zone}")
    seconds, nanoseconds = parse_rfc3339(f"{date}T{clock}Z")
    stamp = time.gmtime(seconds)
    return int(time.mktime((*stamp[:8], -1))), nanoseconds
