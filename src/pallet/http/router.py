"""Finds the handler of a method and path.

Owns   the route table. Patterns are literal text with ``{name}`` parts, each of which matches
       anything, slashes included (image names have them); the first pattern that fits wins.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

_PART = re.compile(r"\{([a-z_]+)\}")


class Router(Generic[T]):
    """Routes to handlers of type ``T``."""

    def __init__(self) -> None:
        self._literal: dict[tuple[str, str], T] = {}
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], T]]] = {}

    def add(self, method: str, pattern: str, handler: T) -> None:
        """Add a route; ``pattern`` starts with a literal first segment."""
        if "{" not in pattern:
            self._literal.setdefault((method, pattern), handler)
            return
        pieces: list[str] = []
        at = 0
        for part in _PART.finditer(pattern):
            pieces += re.escape(pattern[at:part.start()]), f"(?P<{part[1]}>.*)"
            at = part.end()
        pieces.append(re.escape(pattern[at:]))
        key = (method, _first_segment(pattern))
        compiled = re.compile("".join(pieces), re.DOTALL)
        self._patterns.setdefault(key, []).append((compiled, handler))

    def find(self, method: str, path: str) -> tuple[T, dict[str, str]] | None:
        """Return the handler and the pattern's parts, or None."""
        literal = self._literal.get((method, path))
        if literal is not None:
            return literal, {}
        for pattern, handler in self._candidates(method, path):
            if match := pattern.fullmatch(path):
                return handler, match.groupdict()
        return None

    def _candidates(self, method: str, path: str) -> Iterable[tuple[re.Pattern[str], T]]:
        return self._patterns.get((method, _first_segment(path)), ())


def _first_segment(path: str) -> str:
    end = path.find("/", 1)
    return path if end < 0 else path[:end]
