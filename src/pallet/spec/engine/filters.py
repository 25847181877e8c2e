"""Filters of list, events and prune calls: decoding and Docker's matching rules.

Spec   Engine API ``filters`` query parameter; semantics "filters".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_DECODER = msgspec.json.Decoder(dict[str, dict[str, bool] | list[str]])


@dataclass(frozen=True, slots=True)
class Filters:
    """Filter keys to the values asked for, in the order given. Values are OR, keys are AND."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """True when there is anything to filter by."""
        return bool(self.values)

    def __contains__(self, key: str) -> bool:
        """True when the client gave ``key``."""
        return key in self.values

    def get(self, key: str) -> tuple[str, ...]:
        """Return the values of ``key``; empty when it was not given."""
        return self.values.get(key, ())

    def validate(self, accepted: Collection[str]) -> None:
        """Raise InvalidParameterError for a key that this call does not know."""
        for key in self.values:
            if key not in accepted:
                msg = f"invalid filter '{key}'"
                raise InvalidParameterError(msg)

    def exact(self, key: str, source: str) -> bool:
        """True when ``key`` is not given or ``source`` is one of its values."""
        wanted = self.values.get(key)
        return not wanted or source in wanted

    def prefix(self, key: str, source: str) -> bool:
        """True when ``key`` is not given or one of its values starts ``source``."""
        wanted = self.values.get(key)
        return not wanted or any(source.startswith(value) for value in wanted)

    def pattern(self, key: str, source: str) -> bool:
        """True when ``key`` is not given, equals ``source`` or matches as a regular expression.

        An expression that does not compile matches only as text, as in Docker.
        """
        wanted = self.values.get(key)
        if not wanted or source in wanted:
            return True
        for value in wanted:
            try:
                if re.search(value, source):
                    return True
            except re.error:
                continue
        return False

    def labels(self, labels: Mapping[str, str] | None, key: str = "label") -> bool:
        """True when ``labels`` has every ``name`` or ``name=value`` asked for under ``key``."""
        have = labels or {}
        for wanted in self.values.get(key, ()):
            name, equals, value = wanted.partition("=")
            if name not in have or (equals and have[name] != value):
                return False
        return True

    def boolean(self, key: str, *, default: bool) -> bool:
        """Read ``key`` as one boolean.

        Raises:
            InvalidParameterError: neither or both of true and false, or another word.
        """
        wanted = self.values.get(key)
        if wanted is None:
            return default
        is_true = any(value in ("1", "true") for value in wanted)
        is_false = any(value in ("0", "false") for value in wanted)
        if is_true == is_false:
            msg = f"invalid filter '{key}=[{' '.join(wanted)}]'"
            raise InvalidParameterError(msg)
        return is_true


NO_FILTERS = Filters()


def parse(text: str | None) -> Filters:
    """Decode the ``filters`` query value, both ``{"k":{"v":true}}`` and ``{"k":["v"]}``.

    Raises:
        InvalidParameterError: not JSON or of another shape.
    """
    if not text:
        return NO_FILTERS
    try:
        raw = _DECODER.decode(text)
    except msgspec.DecodeError as error:
        msg = "invalid filter"
        raise InvalidParameterError(msg) from error
    return Filters({key: tuple(values) for key, values in raw.items()})
