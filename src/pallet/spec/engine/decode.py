"""Reads documents from clients as Go's ``encoding/json`` does.

Owns   the differences between Go and a strict decoder: ``null`` leaves a field as it is, keys match
       in any case, a StrSlice may be a bare string.
Runs   anywhere; a create request costs some tens of microseconds.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Final, TypeVar, Union

import msgspec

from pallet.errors import InvalidParameterError

T = TypeVar("T", bound=msgspec.Struct)

_STR_SLICES: Final = frozenset({"Cmd", "Entrypoint", "Shell", "CapAdd", "CapDrop"})
"""Fields of Go's type StrSlice."""

_ZEROS: Final[dict[Any, Any]] = {str: "", int: 0, bool: False, float: 0.0}


class _Shape:
    """How to repair one value: by its struct fields, its items or not at all."""

    __slots__ = ("fields", "item", "kind", "zero")

    def __init__(self, kind: str, zero: Any) -> None:
        self.kind = kind
        self.zero = zero
        """What a null inside a list or map becomes."""
        self.fields: dict[str, tuple[str, _Shape]] = {}
        self.item: _Shape | None = None


_shapes: dict[Any, _Shape] = {}


def from_json(kind: type[T], raw: bytes) -> T:
    """Decode ``raw`` as ``kind``.

    Raises:
        InvalidParameterError: not JSON, or a value of the wrong type.
    """
    return from_value(kind, load_json(raw))


def load_json(raw: bytes) -> Any:
    """Decode ``raw`` into plain values.

    Raises:
        InvalidParameterError: empty or not JSON.
    """
    if not raw.strip():
        msg = "invalid JSON: got EOF while reading request body"
        raise InvalidParameterError(msg)
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        msg = f"invalid JSON: {error}"
        raise InvalidParameterError(msg) from error


def from_value(kind: type[T], value: Any) -> T:
    """Convert plain values to ``kind``; as ``from_json``."""
    try:
        return msgspec.convert({} if value is None else _repair(_shape(kind), value), kind)
    except msgspec.ValidationError as error:
        msg = f"invalid JSON: {error}"
        raise InvalidParameterError(msg) from error


def _repair(shape: _Shape, value: Any) -> Any:
    if shape.kind == "struct" and isinstance(value, dict):
        return _repair_struct(shape, value)
    item = shape.item
    if item is not None:
        if isinstance(value, dict) and shape.kind == "dict":
            return {key: item.zero if part is None else _repair(item, part)
                    for key, part in value.items()}
        if isinstance(value, list) and shape.kind == "list":
            return [item.zero if part is None else _repair(item, part) for part in value]
    return value


def _repair_struct(shape: _Shape, value: dict[str, Any]) -> dict[str, Any]:
    fields = shape.fields
    repaired = {}
    for key, part in value.items():
        if part is None:
            continue
        found = fields.get(key) or fields.get(key.lower())
        if found is None:
            continue
        name, inner = found
        if inner.kind == "scalar":
            repaired[name] = part
        elif type(part) is str and inner.kind == "list" and name in _STR_SLICES:
            repaired[name] = [part]
        else:
            repaired[name] = _repair(inner, part)
    return repaired


def _shape(kind: Any) -> _Shape:
    known = _shapes.get(kind)
    if known is None:
        known = _make_shape(kind)
    return known


def _make_shape(kind: Any) -> _Shape:
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        parts = [part for part in typing.get_args(kind)
                 if part not in (type(None), msgspec.UnsetType)]
        inner = _shape(parts[0])
        if type(None) not in typing.get_args(kind):
            return inner
        shape = _Shape(inner.kind, None)
        shape.fields, shape.item = inner.fields, inner.item
    elif origin in (list, dict):
        shape = _Shape("list" if origin is list else "dict", [] if origin is list else {})
        shape.item = _shape(typing.get_args(kind)[-1])
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        shape = _Shape("struct", {})
        _shapes[kind] = shape
        for field in msgspec.structs.fields(kind):
            entry = (field.encode_name, _shape(field.type))
            shape.fields[field.encode_name] = entry
            shape.fields.setdefault(field.encode_name.lower(), entry)
    else:
        shape = _Shape("scalar", _ZEROS.get(kind))
    _shapes[kind] = shape
    return shape
