"""Variables in Compose files and in environment files.

Spec   compose-spec 12-interpolation.md.
"""

from __future__ import annotations

import re

from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z_]\w*")


def interpolate(text: str, known: Mapping[str, str]) -> str:
    """Replace ``$NAME``, ``${NAME:-default}``, ``${NAME?message}``, ``${NAME+other}``; ``$$`` is a dollar.

    Raises:
        CommandError: a variable is required, or a form is wrong.
    """
    found, at = [], 0
    while (dollar := text.find("$", at)) >= 0:
        found.append(text[at:dollar])
        at = dollar + 1
        if text.startswith("$", at):
            found.append("$")
            at += 1
        elif text.startswith("{", at):
            end = _closing(text, at)
            found.append(_substituted(text[at + 1:end], known))
            at = end + 1
        elif name := _NAME.match(text, at):
            found.append(known.get(name.group(), ""))
            at = name.end()
        else:
            raise CommandError(f"invalid interpolation format: {text!r}".replace("'", '"'))
    return "".join(found) + text[at:]


def _closing(text: str, at: int) -> int:
    depth = 0
    for place in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return place
    raise CommandError(f"invalid interpolation format: {text!r}".replace("'", '"'))


def _substituted(inner: str, known: Mapping[str, str]) -> str:
    name = _NAME.match(inner)
    if name is None:
        raise CommandError(f'invalid interpolation format: "${{{inner}}}"')
    value, rest = known.get(name.group()), inner[name.end():]
    if not rest:
        return value or ""
    empty_too = rest.startswith(":")
    operator, word = rest[empty_too:empty_too + 1], rest[empty_too + 1:]
    there = value is not None and not (empty_too and not value)
    if operator == "-":
        return value or "" if there else interpolate(word, known)
    if operator == "+":
        return interpolate(word, known) if there else ""
    if operator == "?":
        if not there:
            raise CommandError(f"required variable {name.group()} is missing a value: {interpolate(word, known)}")
        return value or ""
    raise CommandError(f'invalid interpolation format: "${{{inner}}}"')
