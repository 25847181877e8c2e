"""Types as variables and ``convert`` name them: ``string``, ``list(number)``, ``object({a=string})``.

Spec   hcl/ext/typeexpr.
"""

from __future__ import annotations

from pallet.cli.bake.hcl.values import as_bool, as_number, as_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.bake.hcl.errors import Span

_PLAIN = ("string", "number", "bool", "any")
_OF_ONE = ("list", "set", "map")


def written(span: Span) -> str:
    """A type as it stands in the source, on one line: the ends of lines separate, as commas do."""
    rows = span.source.split("\n")
    if span.start[0] == span.end[0]:
        return rows[span.start[0] - 1][span.start[1] - 1:span.end[1] - 1].strip()
    inside = [rows[span.start[0] - 1][span.start[1] - 1:], *rows[span.start[0]:span.end[0] - 1],
              rows[span.end[0] - 1][:span.end[1] - 1]]
    return ",".join(row.strip() for row in inside)


def problem_of(kind: str) -> str:
    """Why a text names no type; "" if it does."""
    outer, opened, inner = kind.replace(" ", "").partition("(")
    inner = inner.removesuffix(")").strip(",")
    if outer in _PLAIN and not opened:
        return ""
    if outer in _OF_ONE:
        return problem_of(inner) if opened else (
            f"The {outer} type constructor requires one argument specifying the element type.")
    if outer == "tuple" and opened:
        return next((text for part in _parts(inner[1:-1]) if (text := problem_of(part))), "")
    if outer == "object" and opened:
        return next((text for part in _parts(inner[1:-1])
                     if (text := problem_of(_field(part)[1]))), "")
    return f'The keyword "{outer}" is not a valid type specification.'


def typed(value: Any, kind: str) -> Any:
    """A value as a type; "" is any.

    Raises:
        ValueError: it is none of that type.
    """
    kind = kind.replace(" ", "")
    if value is None or not kind:
        return value
    outer, _, inner = kind.partition("(")
    inner = inner.removesuffix(")").strip(",")
    if outer in ("string", "number", "bool"):
        return {"string": as_string, "number": as_number, "bool": as_bool}[outer](value)
    if outer in ("list", "set") and isinstance(value, list):
        found = [typed(item, inner) for item in value]
        return [item for at, item in enumerate(found) if item not in found[:at]] if outer == "set" else found
    if outer == "map" and isinstance(value, dict):
        return {key: typed(item, inner) for key, item in value.items()}
    if outer in _OF_ONE:
        raise ValueError(f"{outer} required")
    return _composed(value, outer, _parts(inner[1:-1]))


def _composed(value: Any, outer: str, parts: list[str]) -> Any:
    """A tuple or an object, whose items have types of their own."""
    if outer == "tuple":
        if not isinstance(value, list):
            raise ValueError("tuple required")
        if len(value) != len(parts):
            raise ValueError(f"tuple of {len(parts)} elements required")
        return [typed(item, part) for item, part in zip(value, parts, strict=True)]
    if outer == "object":
        if not isinstance(value, dict):
            raise ValueError("object required")
        wanted = dict(_field(part) for part in parts)
        if missing := sorted(wanted.keys() - value.keys()):
            raise ValueError(f'attribute "{missing[0]}" is required')
        return {name: typed(value[name], part) for name, part in wanted.items()}
    return value


def _field(part: str) -> tuple[str, str]:
    name, _, kind = part.partition("=")
    return name.strip('"'), kind


def _parts(text: str) -> list[str]:
    """What stands between the commas that are in no brackets."""
    found, depth = [""], 0
    for char in text:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(char, 0)
        if char == "," and not depth:
            found.append("")
        else:
            found[-1] += char
    return [part for part in found if part]
