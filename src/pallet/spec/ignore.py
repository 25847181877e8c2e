"""``.dockerignore`` patterns: reading the file, deciding for a path.

Owns   ``read_patterns`` and ``PathMatcher``; also what ``COPY --exclude`` matches with.
Runs   anywhere; pure, standard library only, quick to import.
Spec   Docker "Dockerignore files"; Go's ``filepath.Match`` with ``**``.

The last pattern that matches a path or one of its parents decides; ``!`` takes it back in.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"[*?\[\\]")


def read_patterns(data: bytes) -> list[str]:
    """Read a ``.dockerignore``: comments and blank lines dropped, paths cleaned."""
    patterns = []
    for line in data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        negated = pattern.startswith("!")
        if negated:
            pattern = pattern[1:].strip()
        if pattern:
            pattern = _clean(pattern)
            if len(pattern) > 1 and pattern.startswith("/"):
                pattern = pattern[1:]
        patterns.append(f"!{pattern}" if negated else pattern)
    return patterns


def _clean(path: str) -> str:
    clean = posixpath.normpath(path)
    return "/" + clean.lstrip("/") if clean.startswith("/") else clean


class PathMatcher:
    """Decides for paths (relative, slashes, clean) whether patterns exclude them."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Compile ``patterns``; those with ``!`` take back.

        Raises:
            InvalidParameterError: a malformed pattern, ``!`` alone.
        """
        self.rules: list[tuple[bool, str, re.Pattern[str]]] = []
        for text in patterns:
            pattern = text.strip()
            negated = pattern.startswith("!")
            if negated:
                pattern = pattern[1:].strip()
                if not pattern:
                    message = 'illegal exclusion pattern: "!"'
                    raise InvalidParameterError(message)
            if not pattern:
                continue
            pattern = _clean(pattern).lstrip("/")
            if pattern in (".", ""):
                continue
            self.rules.append((negated, pattern, re.compile(_translate(pattern), re.DOTALL)))
        self.has_exceptions = any(negated for negated, _, _ in self.rules)
        self._groups = _grouped(self.rules)
        self._last: tuple[str, int] = ("", -1)

    def __bool__(self) -> bool:
        """Whether there are any patterns."""
        return bool(self.rules)

    def excludes(self, path: str) -> bool:
        """Whether ``path`` is left out, looking at the path and all its parents."""
        if path in ("", ".", "/"):
            return False
        for negated, group in self._groups:
            if group.match(path) is not None:
                return not negated
        return False

    def may_hold_exceptions(self, directory: str) -> bool:
        """Whether something below an excluded directory may be taken back in, so that it must be entered."""
        if not self.has_exceptions:
            return False
        return any(negated and _may_reach(pattern, directory) for negated, pattern, _ in self.rules)


def _may_reach(pattern: str, directory: str) -> bool:
    """Whether ``pattern`` may match something below ``directory``: judged by its literal beginning."""
    literal = _SPECIAL.split(pattern, maxsplit=1)[0]
    prefix = f"{directory}/"
    if literal == pattern:
        return f"{pattern}/".startswith(prefix)
    return literal.startswith(prefix) or prefix.startswith(literal)


def _grouped(rules: Sequence[tuple[bool, str, re.Pattern[str]]]) -> list[tuple[bool, re.Pattern[str]]]:
    """Runs of the same sign as one expression each, the last rule's run first."""
    groups: list[tuple[bool, list[str]]] = []
    for negated, _, expression in rules:
        if groups and groups[-1][0] == negated:
            groups[-1][1].append(expression.pattern)
        else:
            groups.append((negated, [expression.pattern]))
    return [(negated, re.compile("|".join(parts), re.DOTALL)) for negated, parts in reversed(groups)]


def _translate(pattern: str) -> str:
    """An expression (for ``match``) of a pattern: the path itself or anything below it."""
    parts: list[str] = []
    at, end = 0, len(pattern)
    while at < end:
        char = pattern[at]
        if char == "*":
            stars = at
            while at < end and pattern[at] == "*":
                at += 1
            if at - stars == 1:
                parts.append("[^/]*")
            elif at == end:
                parts.append(".*")
            elif pattern[at] == "/":
                parts.append("(?:.*/)?")
                at += 1
            else:
                parts.append(".*")
            continue
        if char == "?":
            parts.append("[^/]")
        elif char == "[":
            piece, at = _bracket(pattern, at)
            parts.append(piece)
            continue
        elif char == "\\":
            at += 1
            if at == end:
                raise _bad(pattern)
            parts.append(re.escape(pattern[at]))
        else:
            parts.append(re.escape(char))
        at += 1
    return "(?:" + "".join(parts) + r")(?:/|\Z)"


def _bracket(pattern: str, start: int) -> tuple[str, int]:
    """Translate ``[…]``; returns the expression and the place after it."""
    at = start + 1
    negated = pattern[at:at + 1] == "^"
    at += negated
    items: list[str] = []
    while True:
        if at >= len(pattern):
            raise _bad(pattern)
        if pattern[at] == "]" and items:
            break
        low, at = _bracket_char(pattern, at)
        if pattern[at:at + 1] == "-":
            high, at = _bracket_char(pattern, at + 1)
            if high < low:
                raise _bad(pattern)
            items.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            items.append(re.escape(low))
    body = "".join(items)
    return (f"[^/{body}]" if negated else f"(?!/)[{body}]"), at + 1


def _bracket_char(pattern: str, at: int) -> tuple[str, int]:
    char = pattern[at:at + 1]
    if char in ("", "-", "]"):
        raise _bad(pattern)
    if char == "\\":
        at += 1
        char = pattern[at:at + 1]
        if not char:
            raise _bad(pattern)
    return char, at + 1


def _bad(pattern: str) -> InvalidParameterError:
    return InvalidParameterError(f'syntax error in pattern: "{pattern}"')
