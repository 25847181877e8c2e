"""Query strings, read as Go and Docker read them.

Spec   Go ``url.ParseQuery``; semantics "bool query".
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from pallet.errors import InvalidParameterError

_FALSE = frozenset({"", "0", "no", "false", "none"})
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_INT64 = 1 << 63


def unescape(text: str) -> str:
    """Decode ``%XX``; bytes that are not UTF-8 survive as surrogates."""
    if "%" not in text:
        return text
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


class Query:
    """The parameters of one request: the first value of a key counts, ``all`` has the others."""

    __slots__ = ("_values",)

    def __init__(self, raw: str) -> None:
        values: dict[str, list[str]] = {}
        for pair in raw.split("&") if raw else ():
            if not pair or ";" in pair:  # Go drops a pair with a semicolon
                continue
            key, _, value = pair.partition("=")
            values.setdefault(unescape(key.replace("+", " ")), []).append(
                unescape(value.replace("+", " "))
            )
        self._values = values

    def __contains__(self, key: str) -> bool:
        """True when ``key`` is there, even with an empty value."""
        return key in self._values

    def get(self, key: str, default: str = "") -> str:
        """Return the first value of ``key``."""
        found = self._values.get(key)
        return found[0] if found else default

    def all(self, key: str) -> list[str]:
        """Return every value of ``key`` in order."""
        return self._values.get(key, [])

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Read a boolean: "", 0, no, false and none (any case) are false, the rest is true."""
        found = self._values.get(key)
        if found is None:
            return default
        return found[0].strip().lower() not in _FALSE

    def int_or_none(self, key: str) -> int | None:
        """Read a number; None when ``key`` is absent or empty.

        Raises:
            InvalidParameterError: not a number, in the words of Go's strconv.
        """
        text = self.get(key)
        return parse_int(text) if text else None

    def int_or_zero(self, key: str) -> int:
        """Read a number, 0 for anything that is none (Docker's ``Int64ValueOrZero``)."""
        text = self.get(key)
        return int(text) if _INTEGER.match(text) and -_INT64 <= int(text) < _INT64 else 0


def parse_int(text: str) -> int:
    """Read a decimal number that fits 64 bits.

    Raises:
        InvalidParameterError: as Go words it.
    """
    if not _INTEGER.match(text):
        msg = f'strconv.Atoi: parsing "{text}": invalid syntax'
        raise InvalidParameterError(msg)
    number = int(text)
    if not -_INT64 <= number < _INT64:
        msg = f'strconv.Atoi: parsing "{text}": value out of range'
        raise InvalidParameterError(msg)
    return number
