"""Moments in queries: Unix seconds with an optional fraction, as Docker's clients send them.

Spec   Engine API ``since`` and ``until`` of ContainerLogs and SystemEvents.
"""

from __future__ import annotations

import re
from typing import Final

from pallet.errors import InvalidParameterError

_MOMENT: Final = re.compile(r"([+-]?[0-9]+)(?:\.([0-9]*))?\Z")


def moment_ns(text: str, parameter: str) -> int:
    """Read ``1700000000.000000001`` as nanoseconds since 1970; "" is 0.

    Digits beyond the ninth are dropped. A fraction counts away from the whole seconds, so
    "-1.5" is half a second after -1, as in Docker.

    Raises:
        InvalidParameterError: not a number; names ``parameter``.
    """
    if not text:
        return 0
    match = _MOMENT.match(text)
    if match is None:
        msg = f'invalid value for "{parameter}": {text!r} is not a Unix timestamp'
        raise InvalidParameterError(msg)
    return int(match[1]) * 1_000_000_000 + int((match[2] or "")[:9].ljust(9, "0"))


def optional_moment_ns(text: str) -> int | None:
    """As ``moment_ns``; "" is None."""
    return moment_ns(text, "since/until") if text else None
