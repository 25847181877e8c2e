"""``builder`` of ``daemon.json``: how the build cache is collected.

Owns   what its keys mean. Other keys than ``gc`` have no effect.
Runs   at the daemon's start; pure.
Spec   dockerd's ``builder.gc``: ``enabled``, ``defaultReservedSpace``, ``defaultMaxUsedSpace``,
       ``defaultMinFreeSpace``, ``policy`` with ``all``, ``filter``, ``reservedSpace``, ``maxUsedSpace``,
       ``minFreeSpace``; ``keepStorage`` is the older name of what is reserved.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pallet.config import BuilderConfig, CachePrune
from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_AGES = ("until", "unused-for")
_FLAGS = frozenset({"inuse", "shared", "private"})
_FIELDS = {"id": "id", "parent": "parents", "type": "type", "description": "description"}


def builder_config(document: object, read_size: Callable[[str], int]) -> BuilderConfig:
    """Read the value of ``builder``.

    Args:
        read_size: reads ``20GB``; ValueError where it is none.

    Raises:
        InvalidParameterError: a value is of a wrong type, or means nothing.
    """
    gc = _object(_object(document, "builder").get("gc"), "builder.gc")
    enabled, policy = gc.get("enabled"), gc.get("policy")
    if not isinstance(enabled, bool | None):
        raise _wrong_type("builder.gc.enabled", "bool")
    if not isinstance(policy, list | None):
        raise _wrong_type("builder.gc.policy", "[]config.BuilderGCRule")
    return BuilderConfig(
        gc=enabled is not False, rules=None if policy is None else tuple(_rule(rule, read_size) for rule in policy),
        reserved_bytes=(_size(gc, "defaultReservedSpace", read_size) or _size(gc, "defaultKeepStorage", read_size)),
        max_used_bytes=_size(gc, "defaultMaxUsedSpace", read_size),
        min_free_bytes=_size(gc, "defaultMinFreeSpace", read_size))


def _rule(document: object, read_size: Callable[[str], int]) -> CachePrune:
    rule = _object(document, "builder.gc.policy")
    everything, filters = rule.get("all", False), rule.get("filter") or []
    if not isinstance(everything, bool):
        raise _wrong_type("builder.gc.policy.all", "bool")
    if not isinstance(filters, list) or not all(isinstance(text, str) for text in filters):
        raise _wrong_type("builder.gc.policy.filter", "[]string")
    terms, age_ns = _filters(filters)
    return CachePrune(
        all=everything, filters=terms, keep_duration_ns=age_ns,
        reserved_bytes=_size(rule, "reservedSpace", read_size) or _size(rule, "keepStorage", read_size),
        max_used_bytes=_size(rule, "maxUsedSpace", read_size), min_free_bytes=_size(rule, "minFreeSpace", read_size))


def _filters(texts: list[str]) -> tuple[tuple[str, ...], int]:
    """One of containerd's expressions, and the age; an unknown filter would make a rule remove everything."""
    terms: list[str] = []
    ages: dict[str, int] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        key, value = key.strip().lower(), value.strip()
        if key in _AGES:
            from pallet.spec.dockerfile.durations import parse_duration_ns

            age = parse_duration_ns(value)
            if age is None:
                message = f"invalid {key} filter: {json.dumps(value)} is no duration"
                raise InvalidParameterError(message)
            ages[key] = age
        elif key in _FLAGS:
            terms.append(f"{key}{'!=' if value.lower() in ('0', 'false') else '=='}true")
        elif key in _FIELDS and sign:
            terms.append(f"{_FIELDS[key]}=={json.dumps(value) if ',' in value else value}")
        else:
            message = f"invalid filter '{text}'"
            raise InvalidParameterError(message)
    if len(ages) > 1:
        message = 'conflicting filters: "until" and "unused-for"'
        raise InvalidParameterError(message)
    return (",".join(terms),) if terms else (), next(iter(ages.values()), 0)


def _size(document: Mapping[str, Any], key: str, read_size: Callable[[str], int]) -> int:
    text = document.get(key.lower()) or "0"
    if not isinstance(text, str):
        raise _wrong_type(f"builder.gc.{key}", "string")
    try:
        return read_size(text)
    except ValueError as error:
        message = f"failed to parse {key}: {error}"
        raise InvalidParameterError(message) from error


def _object(document: object, name: str) -> dict[str, Any]:
    """An object by its keys in lower case: Go's decoder takes them in any."""
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise _wrong_type(name, "object")
    return {key.lower(): value for key, value in document.items()}


def _wrong_type(name: str, wanted: str) -> InvalidParameterError:
    return InvalidParameterError(f"json: cannot unmarshal value into Go struct field Config.{name} of type {wanted}")
