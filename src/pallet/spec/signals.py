"""Signals as Docker's users write them.

Owns   the names and their numbers.
Runs   anywhere; pure.
"""

from __future__ import annotations

from pallet.errors import InvalidParameterError

_SIGNAL_NAMES: dict[str, int] = {}


def signal_number(text: str) -> int:
    """Docker's signal syntax: a number, ``KILL``, ``SIGKILL`` in any case, ``RTMIN+3``.

    Raises:
        InvalidParameterError: "invalid signal: X".
    """
    if not _SIGNAL_NAMES:
        _SIGNAL_NAMES.update(_signal_table())
    bad = InvalidParameterError(f"invalid signal: {text}")
    if text.isdecimal():
        number = int(text)
        if not 1 <= number <= 64:
            raise bad
        return number
    number = _SIGNAL_NAMES.get(text.upper().removeprefix("SIG"), 0)
    if not number:
        raise bad
    return number


def _signal_table() -> dict[str, int]:
    import signal

    table = {s.name.removeprefix("SIG"): int(s) for s in signal.Signals}
    low, high = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
    table.update({f"RTMIN+{n}": low + n for n in range(1, 16)})
    table.update({f"RTMAX-{n}": high - n for n in range(1, 15)})
    return table
