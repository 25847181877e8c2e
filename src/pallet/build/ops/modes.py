"""``--chmod``: octal and symbolic modes.

Owns   the parsing, and what a symbolic mode does to a file's.
Runs   anywhere; pure.
Spec   Dockerfile reference COPY --chmod; POSIX chmod(1).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pallet.errors import InvalidParameterError

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*|[-+=][ugo])+)")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}
_MAX_OCTAL = 0o7777
_SETUID, _SETGID, _STICKY, _EXECUTE = 0o4000, 0o2000, 0o1000, 0o111


class Mode(NamedTuple):
    """A parsed mode: the number, or the clauses (who, operator, permissions)."""

    number: int | None
    clauses: tuple[tuple[str, str, str], ...] = ()

    def apply(self, mode: int, *, directory: bool) -> int:
        """The new permission bits of a file that has ``mode``."""
        if self.number is not None:
            return self.number
        for who, operator, permissions in self.clauses:
            mode = _change(mode, who, operator, permissions, directory=directory)
        return mode


def parse(text: str) -> Mode:
    """Read a mode.

    Raises:
        InvalidParameterError: BuildKit's words.
    """
    if text and not text.strip("01234567"):
        number = int(text, 8)
        if number <= _MAX_OCTAL:
            return Mode(number)
        raise _invalid(text)
    clauses: list[tuple[str, str, str]] = []
    for part in text.split(","):
        found = _CLAUSE.fullmatch(part)
        if found is None:
            raise _invalid(text)
        who = found[1].replace("a", "ugo") or "ugo"
        clauses += [(who, action[1], action[2]) for action in _ACTION.finditer(found[2])]
    return Mode(None, tuple(clauses))


def _invalid(text: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")


def _change(mode: int, who: str, operator: str, permissions: str, *, directory: bool) -> int:
    wanted = 0
    affected = 0
    for letter in dict.fromkeys(who):
        shift = _SHIFTS[letter]
        affected |= 7 << shift
        if permissions in _SHIFTS:  # ``u=g`` leaves set-id bits alone
            wanted |= (mode >> _SHIFTS[permissions] & 7) << shift
            continue
        affected |= {"u": _SETUID, "g": _SETGID, "o": 0}[letter]
        for permission in permissions:
            wanted |= _BITS.get(permission, 0) << shift
        if "X" in permissions and (directory or mode & _EXECUTE):
            wanted |= 1 << shift
        if "s" in permissions:
            wanted |= {"u": _SETUID, "g": _SETGID, "o": 0}[letter]
    if "t" in permissions and permissions not in _SHIFTS and len(set(who)) == len(_SHIFTS):
        wanted |= _STICKY
    if operator == "+":
        return mode | wanted
    if operator == "-":
        return mode & ~wanted
    return mode & ~affected | wanted
