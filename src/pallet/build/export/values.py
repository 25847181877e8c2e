"""Values of exporter attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.spec import reference as references

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.spec.reference import Reference


def names_of(attributes: Mapping[str, str]) -> list[Reference]:
    """Names in ``name``, with their tags.

    Raises:
        InvalidParameterError: one is none: "invalid reference format".
    """
    return [references.parse_normalized(text).with_default_tag()
            for text in attributes.get("name", "").split(",") if text]


def flag(attributes: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """Read a boolean attribute.

    Raises:
        InvalidParameterError: it is none.
    """
    text = attributes.get(name, "")
    if not text:
        return True if name in attributes else default
    if text.lower() in {"1", "t", "true"}:
        return True
    if text.lower() in {"0", "f", "false"}:
        return False
    message = f"non-bool value {text!r} specified for {name}"
    raise InvalidParameterError(message)


def number(attributes: Mapping[str, str], name: str) -> int | None:
    """Read a number; None where there is none.

    Raises:
        InvalidParameterError: it is none.
    """
    text = attributes.get(name, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        message = f"non-integer value {text} specified for {name}"
        raise InvalidParameterError(message) from error
