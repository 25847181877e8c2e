"""Values of HCL as Python's, and their conversions.

Owns   text, numbers and truths into one another, as cty converts them; one type for several values.
Spec   hcl/spec.md "Type Conversions and Unification".
"""

from __future__ import annotations

from decimal import Context, Decimal, InvalidOperation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DIGITS = Context(prec=60)


def number(found: int | Decimal) -> int | Decimal:
    """A whole number as an ``int``."""
    if isinstance(found, Decimal):
        found = _DIGITS.plus(found)
        if found == found.to_integral_value():
            return int(found)
        return found.normalize(_DIGITS)
    return found


def as_string(value: Any) -> str:
    """Text of a primitive.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Decimal)):
        return f"{value:f}" if isinstance(value, Decimal) else str(value)
    raise ValueError("string required")


def as_number(value: Any) -> int | Decimal:
    """A number, or a text that is one.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            found = Decimal(value)
        except InvalidOperation:
            found = Decimal("NaN")
        if found.is_finite():
            return number(found)
    raise ValueError("a number is required")


def as_bool(value: Any) -> bool:
    """A truth, or a text that is one.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool):
        return value
    if value in ("true", "1"):
        return True
    if value in ("false", "0"):
        return False
    raise ValueError("a bool is required")


def is_number(value: Any) -> bool:
    """Whether it is a number."""
    return isinstance(value, (int, Decimal)) and not isinstance(value, bool)


def equal(left: Any, right: Any) -> bool:
    """HCL's ``==``: no conversion."""
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


def unified(values: list[Any]) -> list[Any]:
    """The same values as one type: primitives of different types are text."""
    present = [value for value in values if value is not None]
    if any(isinstance(value, (list, dict)) for value in present) or len(
            {bool if isinstance(value, bool) else is_number(value) for value in present}) < 2:
        return values
    return [None if value is None else as_string(value) for value in values]


def plain(value: Any) -> Any:
    """As JSON has it: decimals are floats."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def from_plain(value: Any) -> Any:
    """The other way round."""
    if isinstance(value, float):
        return number(Decimal(repr(value)))
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: from_plain(item) for key, item in value.items()}
    return value
