"""What every Engine API document shares: the type of an optional field and Go's zero time.

Spec   Engine API; Go's ``encoding/json`` for null, absent and empty.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar, Union

import msgspec

T = TypeVar("T")

Maybe = Union[T, msgspec.UnsetType]  # noqa: UP007 - a generic alias needs Union before Python 3.12
"""A field that is absent from the JSON while it is ``UNSET`` (Go's ``omitempty``)."""

ZERO_TIME = "0001-01-01T00:00:00Z"
"""How Go writes a time that never was: ``State.FinishedAt`` of a container that never ran."""


class Empty(msgspec.Struct, frozen=True):
    """Go's ``struct{}``: the value of a set such as ``ExposedPorts``; encodes as ``{}``."""


def given(value: Maybe[T | None]) -> T | None:
    """Return ``value`` with "absent" turned into None."""
    return None if value is msgspec.UNSET else value


def rfc3339_nano(time_ns: int) -> str:
    """Write nanoseconds since 1970 as Go's RFC3339Nano: UTC, no trailing zeros in the fraction."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"
