"""Flags of instructions: ``--name=value`` words against what an instruction knows.

Owns   parsing and its errors; suggestions for mistyped words.
Runs   anywhere; pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pallet.spec.dockerfile.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Kind = Literal["bool", "str", "list"]


class Flags:
    """The flags that one instruction was given."""

    def __init__(self, words: Sequence[str], known: Mapping[str, Kind]) -> None:
        self._values: dict[str, list[str]] = {}
        for word in words:
            self._take(word, known)

    def _take(self, word: str, known: Mapping[str, Kind]) -> None:
        name, equals, value = word.removeprefix("--").partition("=")
        kind = known.get(name)
        if kind is None:
            message = f"unknown flag: --{name}{did_you_mean(name, known, ignore_case=False)}"
            raise DockerfileError(message)
        if name in self._values and kind != "list":
            message = f"duplicate flag specified: --{name}"
            raise DockerfileError(message)
        if kind == "bool":
            if equals and not value:
                message = f"missing a value on flag: --{name}"
                raise DockerfileError(message)
            given, value = value, value.lower() if equals else "true"
            if value not in ("true", "false"):
                message = f"expecting boolean value for flag --{name}, not: {given}"
                raise DockerfileError(message)
        elif not equals:
            message = f"missing a value on flag: --{name}"
            raise DockerfileError(message)
        self._values.setdefault(name, []).append(value)

    def __bool__(self) -> bool:
        """Whether any was given."""
        return bool(self._values)

    def given(self, name: str) -> bool:
        """Whether a flag was given at all."""
        return name in self._values

    def text(self, name: str) -> str:
        """Value of a string flag; "" when it was not given."""
        return self._values.get(name, [""])[0]

    def flag(self, name: str) -> bool | None:
        """Value of a boolean flag; None when it was not given."""
        values = self._values.get(name)
        return None if values is None else values[0] == "true"

    def list(self, name: str) -> tuple[str, ...]:
        """Values of a flag that may be repeated."""
        return tuple(self._values.get(name, ()))


def did_you_mean(word: str, known: Iterable[str], *, ignore_case: bool = True) -> str:
    """`` (did you mean FROM?)`` where one of ``known`` is near; else "".

    Near is an edit distance of less than half of the longer word, at most three.
    """
    best = nearest(word, known, ignore_case=ignore_case)
    return f" (did you mean {best}?)" if best else ""


def nearest(word: str, known: Iterable[str], *, ignore_case: bool = True) -> str:
    """The one of ``known`` that ``word`` was probably meant to be; ""."""
    best, fewest = "", 3
    wanted = word.lower() if ignore_case else word
    if len(wanted) > 64:
        return ""
    for candidate in known:
        if abs(len(candidate) - len(wanted)) >= fewest:
            continue
        distance = _distance(wanted, candidate.lower() if ignore_case else candidate, fewest)
        if distance == 0:
            return ""
        if distance < fewest:
            best, fewest = candidate, distance
    return best


def _distance(first: str, second: str, limit: int) -> int:
    """Levenshtein's, or anything from ``limit`` on if it is not below that."""
    row = list(range(len(second) + 1))
    for number, char in enumerate(first, 1):
        previous, row[0] = row[0], number
        for index, other in enumerate(second, 1):
            previous, row[index] = row[index], min(
                row[index] + 1, row[index - 1] + 1, previous + (char != other))
        if min(row) >= limit:
            break
    return max(row[-1], min(row))
