"""Variables, quotes and escapes in a Dockerfile's arguments, as BuildKit's shell lexer reads them.

Owns   expansion of words and their splitting. Pure.
Runs   anywhere.
Spec   Dockerfile reference "Environment replacement".

``$name ${name}`` and ``${name`` with ``:- - :+ + :? ? # ## % %% / //`` and a word ``}``; words hold
further variables. Single quotes keep everything, double quotes expand. What a text expands to is
bounded by a budget, as ``ENV A=$A$A`` doubles with every line.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.spec.dockerfile.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SPECIAL = frozenset("@*#?-$!0")
_NAME = re.compile(r"\d+|[^\W\d]\w*")
_MAX_DEPTH = 64
_DEFAULT_BUDGET = 64 * 2**20
_MAX_PATTERN = 1024
_ITEM = 16
"""What one item of a copied list counts: its pointer and its share of the work."""


@dataclass(slots=True)
class Budget:
    """Characters that all the expansions of one Dockerfile may make together."""

    left: int = _DEFAULT_BUDGET

    def spend_items(self, count: int) -> None:
        """Take off what a copy of a list or mapping costs.

        Raises:
            DockerfileError: it is used up.
        """
        self.spend(count * _ITEM)

    def spend(self, amount: int) -> None:
        """Take ``amount`` off.

        Raises:
            DockerfileError: it is used up.
        """
        self.left -= amount
        if self.left < 0:
            message = "variables expand to too much text"
            raise DockerfileError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a text is read.

    ``raw_quotes`` and ``raw_escapes`` keep the characters in the result; ``keep_unset`` leaves
    variables without a value as they stand; ``plain_quotes`` takes quotes for ordinary characters.
    """

    escape: str = "\\"
    raw_quotes: bool = False
    raw_escapes: bool = False
    keep_unset: bool = False
    plain_quotes: bool = False


@dataclass(slots=True)
class Expansion:
    """What a text came to."""

    text: str = ""
    words: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    """Names of variables that have a value."""
    unset: dict[str, None] = field(default_factory=dict)
    """Names of variables without a value, in order."""


def expand(text: str, env: Mapping[str, str], style: Style = Style(),
           budget: Budget | None = None) -> Expansion:
    """Expand ``text`` as one word and, in ``words``, split at the spaces outside of quotes.

    Raises:
        DockerfileError: bad substitution, a quote that is not closed, a ``?`` that fails.
    """
    if "$" not in text and style.escape not in text and "'" not in text and '"' not in text:
        return Expansion(text=text, words=text.split())
    scanner = _Scanner(text, env, style, budget or Budget())
    try:
        result, words = scanner.until("", raw_escapes=style.raw_escapes)
    except DockerfileError as error:
        error.unset = tuple(scanner.unset)
        raise
    return Expansion(text=result, words=words, used=scanner.used, unset=scanner.unset)


class _Words:
    """Collects words: spaces outside of quotes end one."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._parts: list[str] = []
        self._inside = False

    def add(self, text: str) -> None:
        """Take text whose spaces separate."""
        if not text:
            return
        pieces = text.split()
        if not pieces or text[0].isspace():
            self.end()
        for index, piece in enumerate(pieces):
            if index:
                self.end()
            self.add_raw(piece)
        if pieces and text[-1].isspace():
            self.end()

    def add_raw(self, text: str) -> None:
        """Take text as part of the word, whatever is in it."""
        self._parts.append(text)
        self._inside = True

    def end(self) -> None:
        """End the word, if there is one."""
        if self._inside:
            self.done.append("".join(self._parts))
            self._parts.clear()
            self._inside = False


class _Scanner:
    def __init__(self, text: str, env: Mapping[str, str], style: Style, budget: Budget) -> None:
        self.used: set[str] = set()
        self.unset: dict[str, None] = {}
        self._text, self._env, self._style, self._budget = text, env, style, budget
        self._at = 0
        self._depth = 0
        self._raw_escapes = style.raw_escapes

    def until(self, stop: str, *, raw_escapes: bool) -> tuple[str, list[str]]:
        """Read to ``stop`` ("" the end), which is skipped."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            message = f"variables are nested more than {_MAX_DEPTH} deep"
            raise DockerfileError(message)
        outer, self._raw_escapes = self._raw_escapes, raw_escapes
        try:
            return self._until(stop)
        finally:
            self._raw_escapes = outer
            self._depth -= 1

    def _until(self, stop: str) -> tuple[str, list[str]]:
        result: list[str] = []
        words = _Words()
        text, end, escape = self._text, len(self._text), self._style.escape
        plain = _plain_run(escape, stop, quotes=not self._style.plain_quotes)
        while self._at < end:
            run = plain.match(text, self._at)
            if run is not None:
                result.append(run[0])
                words.add(run[0])
                self._at = run.end()
                continue
            char = text[self._at]
            if char == stop:
                self._at += 1
                words.end()
                return "".join(result), words.done
            if char == "$":
                piece = self._dollar()
                words.add(piece)
            elif char == "'" and not self._style.plain_quotes:
                piece = self._single()
                words.add_raw(piece)
            elif char == '"' and not self._style.plain_quotes:
                piece = self._double()
                words.add_raw(piece)
            else:
                piece = self._escaped()
                if piece:
                    words.add_raw(piece)
            result.append(piece)
        if stop:
            message = f"unexpected end of statement while looking for matching {stop}"
            raise DockerfileError(message)
        words.end()
        return "".join(result), words.done

    def _escaped(self) -> str:
        """The character after an escape, as itself."""
        piece = self._text[self._at:self._at + 2]
        self._at += 2
        return piece if self._raw_escapes else piece[1:]

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            self._at = len(self._text)
            message = "unexpected end of statement while looking for matching single-quote"
            raise DockerfileError(message)
        inside = self._text[self._at + 1:end]
        self._at = end + 1
        return f"'{inside}'" if self._style.raw_quotes else inside

    def _double(self) -> str:
        text, escape = self._text, self._style.escape
        result = ['"'] if self._style.raw_quotes else []
        self._at += 1
        plain = _plain_in_double(escape)
        while self._at < len(text):
            run = plain.match(text, self._at)
            if run is not None:
                result.append(run[0])
                self._at = run.end()
                continue
            char = text[self._at]
            if char == '"':
                self._at += 1
                return "".join(result) + ('"' if self._style.raw_quotes else "")
            if char == "$":
                result.append(self._dollar())
                continue
            self._at += 1
            if self._raw_escapes:
                result.append(char)
            follows = text[self._at:self._at + 1]
            if follows and follows in ('"', "$", escape):
                result.append(follows)
                self._at += 1
            elif follows:
                result.append(char)
        message = "unexpected end of statement while looking for matching double-quote"
        raise DockerfileError(message)

    def _dollar(self) -> str:
        self._at += 1
        follows = self._text[self._at:self._at + 1]
        if follows == "{":
            self._at += 1
            value = self._braced()
        else:
            name = self._name()
            if not name:
                return "$"
            found = self._get(name)
            if found is None and self._style.keep_unset:
                return f"${name}"
            value = found or ""
        self._budget.spend(len(value))
        return value

    def _name(self) -> str:
        match = _NAME.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
            return match[0]
        char = self._text[self._at:self._at + 1]
        if char and char in _SPECIAL:
            self._at += 1
            return char
        return ""

    def _get(self, name: str) -> str | None:
        value = self._env.get(name)
        if value is None:
            self.unset[name] = None
        else:
            self.used.add(name)
        return value

    def _next(self) -> str:
        char = self._text[self._at:self._at + 1]
        self._at += 1
        return char

    def _braced(self) -> str:
        if self._text[self._at:self._at + 1] in ("{", ":", "}"):
            message = "syntax error: bad substitution"
            raise DockerfileError(message)
        if self._at >= len(self._text):
            message = "syntax error: missing '}'"
            raise DockerfileError(message)
        name = self._name()
        modifier = char = self._next()
        if char == "}":
            value = self._get(name)
            if value is None and self._style.keep_unset:
                return f"${{{name}}}"
            return value or ""
        if not char:
            message = "unsupported modifier (\ufffd) in substitution"
            raise DockerfileError(message)
        if char == "/":
            return self._replace(name)
        if char == ":":
            char = self._next()
            modifier += char
        elif char not in "+-?#%":
            message = f"unsupported modifier ({modifier}) in substitution"
            raise DockerfileError(message)
        word = self._word("}", raw_escapes=char in "#%", missing="missing '}'")
        value = self._get(name)
        if value is None and self._style.keep_unset:
            return f"${{{name}{modifier}{word}}}"
        return self._modified(name, modifier, word, value)

    def _word(self, stop: str, *, raw_escapes: bool, missing: str) -> str:
        try:
            return self.until(stop, raw_escapes=raw_escapes)[0]
        except DockerfileError as error:
            if self._at >= len(self._text) and not isinstance(error, _BudgetError):
                message = f"syntax error: {missing}"
                raise DockerfileError(message) from None
            raise

    def _modified(self, name: str, modifier: str, word: str, value: str | None) -> str:
        absent = value is None or (modifier[0] == ":" and not value)
        match modifier[-1]:
            case "-":
                return word if absent else value or ""
            case "+":
                return "" if absent else word
            case "?":
                if absent:
                    state = "unset" if value is None else "empty"
                    message = f"{name}: {word or f'is not allowed to be {state}'}"
                    raise DockerfileError(message)
                return value or ""
            case "#" | "%" as side:
                greedy = word[:1] == side
                pattern = word[1:] if greedy else word
                trim = _without_suffix if side == "%" else _without_prefix
                return trim(value or "", pattern, greedy=greedy)
        message = f"unsupported modifier ({modifier}) in substitution"
        raise DockerfileError(message)

    def _replace(self, name: str) -> str:
        every = self._text[self._at:self._at + 1] == "/"
        self._at += every
        pattern = self._word("/", raw_escapes=True, missing="missing '/' in ${}")
        replacement = self._word("}", raw_escapes=True, missing="missing '}'")
        value = self._get(name)
        if value is None:
            if self._style.keep_unset:
                return f"${{{name}/{pattern}/{replacement}}}"
            value = ""
        expression = shell_pattern(pattern, greedy=True)
        if "*" in pattern:
            # Every place is tried, and each try may read on to the end.
            self._budget.spend(len(value) ** 2 // 8)
        if not every:
            match = expression.search(value)
            return value if match is None else value[:match.start()] + replacement + value[match.end():]
        found = len(expression.findall(value))
        self._budget.spend(found * len(replacement))
        return expression.sub(lambda _: replacement, value)


class _BudgetError(DockerfileError):
    pass


@functools.lru_cache(maxsize=64)
def _plain_run(escape: str, stop: str, *, quotes: bool) -> re.Pattern[str]:
    special = "$" + escape + stop + ("'\"" if quotes else "")
    return re.compile(f"[^{re.escape(special)}]+")


@functools.lru_cache(maxsize=8)
def _plain_in_double(escape: str) -> re.Pattern[str]:
    return re.compile('[^"$' + re.escape(escape) + "]+")


@functools.lru_cache(maxsize=256)
def shell_pattern(pattern: str, *, greedy: bool) -> re.Pattern[str]:
    """Translate a shell glob (``? *`` and backslash escapes) to an expression.

    Raises:
        DockerfileError: a backslash at the end, or an absurd pattern.
    """
    if len(pattern) > _MAX_PATTERN:
        message = f"pattern in substitution is longer than {_MAX_PATTERN} characters"
        raise DockerfileError(message)
    pieces: list[list[str]] = [[]]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append([])
        elif char == "?":
            pieces[-1].append(".")
        elif char == "\\":
            pieces[-1].append(_unescaped(pattern, at))
            at += 1
        else:
            pieces[-1].append(re.escape(char))
    first, *rest = ["".join(piece) for piece in pieces]
    # The leftmost place of what follows a star is as good as any (but for the last of a long match):
    # atomic groups keep many stars from being tried in every combination.
    leftmost = rest[:-1] if greedy else rest
    expression = first + "".join(f"(?>.*?{piece})" for piece in leftmost)
    if greedy and rest:
        expression += f".*{rest[-1]}"
    return re.compile(expression, re.DOTALL)


def _unescaped(pattern: str, at: int) -> str:
    if at == len(pattern):
        message = f"invalid pattern ({pattern}) in substitution: escape at end"
        raise DockerfileError(message)
    if pattern[at] not in "*?\\/}":
        message = f"invalid pattern ({pattern}) in substitution: invalid escape '\\{pattern[at]}'"
        raise DockerfileError(message)
    return re.escape(pattern[at])


def _without_prefix(value: str, pattern: str, *, greedy: bool) -> str:
    match = shell_pattern(pattern, greedy=greedy).match(value)
    return value[match.end():] if match is not None else value


def _without_suffix(value: str, pattern: str, *, greedy: bool) -> str:
    # A suffix of the text is a prefix of the reversed text, and so is its pattern, element by element.
    elements = re.findall(r"\\.|.", pattern, re.DOTALL)
    reverse = shell_pattern("".join(reversed(elements)), greedy=greedy)
    match = reverse.match(value[::-1])
    return value[:len(value) - match.end()] if match is not None else value
