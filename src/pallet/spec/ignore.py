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
                if not pattern.strip("/"):
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


_END = r"(?=/|\Z)"
_ODD = re.compile(r"[^/]\*\*(?!$)|(?:/|^)\*\*[^/]|\[[^\]]*/")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MAX_ODD_WILDCARDS = 6


def _translate(pattern: str) -> str:
    """An expression (for ``match``) of a pattern: the path itself or anything below it.

    Stars give back nothing once what follows them has matched (atomic groups): the leftmost place is
    as good as any other, and so a hostile pattern takes no longer than a long one.
    """
    pattern = _ESCAPED.sub(lambda found: "/" if found[1] == "/" else found[0], pattern)
    if _ODD.search(pattern):
        return _translate_odd(pattern)
    blocks: list[list[str]] = [[]]
    for part in pattern.split("/"):
        if part == "**":
            blocks.append([])
        else:
            blocks[-1].append(_component(part, pattern))
    last = len(blocks) - 1
    expression = "/".join(blocks[0])
    for number, block in enumerate(blocks[1:], 1):
        before = "/" if expression else ""
        if block:
            expression += f"{before}(?>(?:[^/]+/)*?{'/'.join(block)}{_END})"
        elif number == last:
            expression += f"{before}.*"
    return f"(?:{expression}){_END}"


def _component(text: str, pattern: str) -> str:
    """One element of a path, between slashes."""
    pieces: list[list[str]] = [[]]
    at = 0
    while at < len(text):
        char = text[at]
        if char == "*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append([])
            at += 1
            continue
        piece, at = _one(text, at, pattern)
        pieces[-1].append(piece)
    first, *rest = ["".join(piece) for piece in pieces]
    if not rest:
        return first
    middle = "".join(f"(?>[^/]*?{piece})" for piece in rest[:-1])
    return f"{first}{middle}[^/]*{rest[-1]}{_END}" if rest[-1] else f"{first}{middle}[^/]*"


def _one(text: str, at: int, pattern: str) -> tuple[str, int]:
    """Translate what matches one character; returns the place after it."""
    char = text[at]
    if char == "?":
        return "[^/]", at + 1
    if char == "[":
        return _bracket(text, at)
    if char == "\\":
        if at + 1 == len(text):
            raise _bad()
        return re.escape(text[at + 1]), at + 2
    return re.escape(char), at + 1


def _translate_odd(pattern: str) -> str:
    """Patterns with ``**`` next to other characters, which Docker takes for ``**/`` (or, first, any text)."""
    if pattern.count("*") > _MAX_ODD_WILDCARDS:
        raise _bad()
    parts: list[str] = []
    at, end = 0, len(pattern)
    while at < end:
        if pattern[at] != "*":
            piece, at = _one(pattern, at, pattern)
            parts.append(piece)
            continue
        stars = at
        while at < end and pattern[at] == "*":
            at += 1
        if at - stars == 1:
            parts.append("[^/]*")
        elif at == end or (stars == 0 and not _SPECIAL.search(pattern, at)):
            parts.append(".*")
        else:
            parts.append("(?:.*/)?")
            at += pattern[at] == "/"
    return "(?:" + "".join(parts) + ")" + _END


def _bracket(pattern: str, start: int) -> tuple[str, int]:
    """Translate ``[…]``; returns the expression and the place after it."""
    at = start + 1
    negated = pattern[at:at + 1] == "^"
    at += negated
    items: list[str] = []
    while True:
        if at >= len(pattern):
            raise _bad()
        if pattern[at] == "]" and items:
            break
        low, at = _bracket_char(pattern, at)
        if pattern[at:at + 1] == "-":
            high, at = _bracket_char(pattern, at + 1)
            if high < low:
                raise _bad()
            items.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            items.append(re.escape(low))
    body = "".join(items)
    return (f"[^/{body}]" if negated else f"(?!/)[{body}]"), at + 1


def _bracket_char(pattern: str, at: int) -> tuple[str, int]:
    char = pattern[at:at + 1]
    if char in ("", "-", "]"):
        raise _bad()
    if char == "\\":
        at += 1
        char = pattern[at:at + 1]
        if not char:
            raise _bad()
    return char, at + 1


def _bad() -> InvalidParameterError:
    return InvalidParameterError("syntax error in pattern")
