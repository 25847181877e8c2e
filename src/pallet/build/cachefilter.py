"""Filters of the build cache: BuildKit's expressions, as ``buildx prune --filter`` and ``du`` send them.

Owns   the grammar. Pure.
Runs   anywhere.
Spec   containerd's filters: ``field==value``, ``!=``, ``~=`` (regular expression), a field alone; commas join
       what must all hold, several filters are alternatives. BuildKit's fields: ``id``, ``parents``,
       ``description``, ``type``, ``inuse``, ``mutable``, ``immutable``, ``shared``, ``private``.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pallet.build.usage import CacheUsage

    Accepts = Callable[[CacheUsage], bool]

_TERM: Final = re.compile(r"""\s*([A-Za-z0-9_.-]+)\s*(?:(==|!=|~=)\s*("(?:[^"\\]|\\.)*"|[^,]*))?\s*(?:,|\Z)""")
_MAX_PATTERN: Final = 1000


def accepts(filters: Sequence[str]) -> Accepts:
    """Make one test of several filters; none of them accepts everything.

    Raises:
        InvalidParameterError: a filter cannot be read.
    """
    alternatives = [_conjunction(text) for text in filters if text.strip()]
    if not alternatives:
        return lambda _: True
    return lambda usage: any(all(term(usage) for term in terms) for terms in alternatives)


def _conjunction(text: str) -> list[Accepts]:
    terms: list[Accepts] = []
    at = 0
    while at < len(text):
        found = _TERM.match(text, at)
        if found is None:
            message = f"failed to parse prune filters [{text}]: invalid filter"
            raise InvalidParameterError(message)
        terms.append(_term(text, found[1], found[2] or "", found[3] or ""))
        at = found.end()
    return terms


def _term(text: str, name: str, operator: str, value: str) -> Accepts:
    if value.startswith('"'):
        value = str(json.loads(value))
    if not operator:
        return lambda usage: any(_values(usage, name))
    if operator == "~=":
        try:
            pattern = re.compile(value[:_MAX_PATTERN])
        except re.error as error:
            message = f"failed to parse prune filters [{text}]: {error}"
            raise InvalidParameterError(message) from error
        return lambda usage: any(pattern.search(have) for have in _values(usage, name))
    wanted = value.strip()
    if operator == "==":
        return lambda usage: wanted in _values(usage, name)
    return lambda usage: wanted not in _values(usage, name)


def _values(usage: CacheUsage, name: str) -> Iterable[str]:
    """What a field holds; nothing where it is absent."""
    marks = {"inuse": usage.in_use, "mutable": usage.mutable, "immutable": not usage.mutable,
             "shared": usage.shared, "private": not usage.shared}
    if name in marks:
        return ["true"] if marks[name] else []
    if name == "parents":
        return list(usage.parents)
    return [value for value in ({"id": usage.id, "description": usage.description, "type": usage.kind}
                                .get(name, ""),) if value]
