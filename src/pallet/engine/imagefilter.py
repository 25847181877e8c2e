"""Which images a list shows, and under which names.

Owns   the filters of ``GET /images/json``.
Runs   anywhere; pure.
Needs  ``image.model``.
Spec   Engine API ImageList filters; Go's ``path.Match`` for references.
"""

from __future__ import annotations

import re
import time
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pallet.image.model import Image
    from pallet.spec.engine.filters import Filters

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class ImageFilter:
    """One list's filters, checked and ready."""

    def __init__(self, filters: Filters, resolve: Callable[[str], Image]) -> None:
        """Check the filters.

        Args:
            resolve: finds the images of ``before`` and ``since``.

        Raises:
            InvalidParameterError: a value that cannot be read.
            NotFoundError: an image of ``before`` or ``since`` is not there.
        """
        self._filters = filters
        self._patterns = [_glob(pattern) for pattern in filters.get("reference")]
        self._dangling = (filters.boolean("dangling", default=False)
                          if "dangling" in filters else None)
        self._before = [resolve(name).created_at for name in filters.get("before")]
        self._since = [resolve(name).created_at for name in filters.get("since")]
        self._until = [parse_until(value) for value in filters.get("until")]

    def accepts(self, image: Image) -> bool:
        """Whether ``image`` is shown, its names aside."""
        if self._dangling is not None and image.is_dangling != self._dangling:
            return False
        if any(image.created_at >= moment for moment in (*self._before, *self._until)):
            return False
        if any(image.created_at <= moment for moment in self._since):
            return False
        run = image.config.config
        return self._filters.labels(run.labels if run else None)

    def names(self, image: Image) -> tuple[list[str], list[str]] | None:
        """Tags and digests to show; None when the reference filter matches none of them."""
        if not self._patterns:
            return list(image.repo_tags), list(image.repo_digests)
        tags = self._matching(image.repo_tags)
        digests = self._matching(image.repo_digests)
        return (tags, digests) if tags or digests else None

    def _matching(self, references: Sequence[str]) -> list[str]:
        return [reference for reference in references if any(
            pattern.fullmatch(name)
            for name in _forms(reference) for pattern in self._patterns)]


def parse_until(value: str) -> float:
    """Unix seconds of a time, or of "that long ago" for a Go duration.

    Raises:
        InvalidParameterError: neither.
    """
    if re.fullmatch(r"\d+(?:\.\d+)?", value):
        return float(value)
    age = value[1:] if value[:1] in ("-", "+") else value
    parts = _DURATION.findall(age)
    if parts and "".join(number + unit for number, unit in parts) == age:
        seconds = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
        return time.time() - (-seconds if value[0] == "-" else seconds)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        message = f'failed to parse value as time or duration: "{value}"'
        raise InvalidParameterError(message) from error
    return moment.timestamp()


def _forms(reference: str) -> Iterable[str]:
    """The reference, and its name alone."""
    yield reference
    name = reference.partition("@")[0]
    head, colon, tail = name.rpartition(":")
    yield head if colon and "/" not in tail else name


@lru_cache(maxsize=64)
def _glob(pattern: str) -> re.Pattern[str]:
    """Go's ``path.Match``: ``*`` and ``?`` stop at "/", classes in brackets, backslash quotes.

    Raises:
        InvalidParameterError: "syntax error in pattern".
    """
    out: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            end = pattern.find("]", position + 1)
            if end < 0:
                message = "syntax error in pattern"
                raise InvalidParameterError(message)
            body = pattern[position:end].replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"(?!/)[{body}]")
            position = end + 1
        elif char == "\\":
            if position == len(pattern):
                message = "syntax error in pattern"
                raise InvalidParameterError(message)
            out.append(re.escape(pattern[position]))
            position += 1
        else:
            out.append(re.escape(char))
    try:
        return re.compile("".join(out))
    except re.error as error:
        message = "syntax error in pattern"
        raise InvalidParameterError(message) from error
