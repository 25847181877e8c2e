"""``RUN --device=vendor.com/class=name,required``.

Owns   the keys of the flag and their errors.
Runs   anywhere; pure.
Spec   Dockerfile reference "RUN --device".
"""

from __future__ import annotations

import csv
from dataclasses import dataclass

from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.flags import did_you_mean

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


@dataclass(frozen=True, slots=True)
class DeviceWish:
    """A device that a step wants."""

    name: str
    """``vendor.com/class=name``, ``vendor.com/class`` (the first), ``vendor.com/class=*``, or a class of BuildKit's."""
    required: bool = False
    """The step fails without it."""


def parse(text: str) -> DeviceWish:
    """Read the flag's value.

    Raises:
        DockerfileError: in BuildKit's words.
    """
    name, required = "", False
    for field in next(csv.reader([text]), []):
        key, equals, value = field.partition("=")
        key = key.lower()
        if key == "required":
            required = _flag(value) if equals else True
        elif key == "name" and equals:
            if name:
                message = f"device name already set to {name}"
                raise DockerfileError(message)
            name = value
        elif not name:
            name = field
        elif not equals:
            message = f"invalid field '{field}' must be a key=value pair"
            raise DockerfileError(message)
        else:
            message = f"unexpected key '{key}' in '{field}'{did_you_mean(key, ('name', 'required'))}"
            raise DockerfileError(message)
    return DeviceWish(name, required)


def _flag(value: str) -> bool:
    if value not in _TRUE | _FALSE:
        message = f"invalid value for required: {value}"
        raise DockerfileError(message)
    return value in _TRUE
