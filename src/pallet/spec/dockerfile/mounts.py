"""``RUN --mount=type=cache,target=/x,…``.

Owns   the keys of each mount type, their defaults and errors.
Runs   anywhere; pure.
Spec   Dockerfile reference "RUN --mount".
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.flags import did_you_mean
from pallet.spec.dockerfile.instructions import Mount

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing = Literal["shared", "private", "locked"]

_KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
_KEYS = ("type", "from", "source", "target", "readonly", "id", "sharing", "required", "size", "mode",
         "uid", "gid", "src", "dst", "destination", "ro", "rw", "readwrite", "env")
_TEXTS = {"target": "target", "dst": "target", "destination": "target", "source": "source",
          "src": "source", "from": "from_", "id": "id", "env": "env"}
_FLAGS = frozenset({"readonly", "ro", "readwrite", "rw", "required"})
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKmMgGtTpP])?(?:[iI]?[bB])?")
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSpec:
    """One mount, variables expanded; what is not said has the type's default."""

    kind: Kind = "bind"
    from_: str = ""
    source: str = ""
    target: str = ""
    readonly: bool | None = None
    id: str = ""
    sharing: Sharing | None = None
    """None where not said."""
    required: bool = False
    size_bytes: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str | None = None
    """None where not said."""


def parse_fields(text: str) -> Mount:
    """Split the flag's value.

    Raises:
        DockerfileError: no CSV, or ``from`` with a variable in it.
    """
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        message = f"failed to parse csv mounts: {error}"
        raise DockerfileError(message) from error
    if not text:
        message = "failed to parse csv mounts: EOF"
        raise DockerfileError(message)
    fields: list[tuple[str, str | None]] = []
    for field in rows[0] if rows else []:
        key, equals, value = field.partition("=")
        key = key.lower()
        if key == "from" and "$" in value:
            message = "'from' doesn't support variable expansion, define alias stage instead"
            raise DockerfileError(message)
        fields.append((key, value if equals else None))
    return Mount(text=text, fields=tuple(fields))


def resolve(mount: Mount, expand: Callable[[str], str]) -> MountSpec:
    """Expand the values and understand them.

    Raises:
        DockerfileError: unknown or contradictory keys, bad values.
    """
    spec = MountSpec(kind=_kind(mount, expand))
    for key, raw in mount.fields:
        if key == "type":
            continue
        if raw is None and key not in _FLAGS:
            message = f"invalid field '{key}' must be a key=value pair"
            raise DockerfileError(message)
        value = expand(raw) if raw is not None and key != "from" else raw
        spec = _with(spec, key, value)
    return _checked(spec)


def _kind(mount: Mount, expand: Callable[[str], str]) -> Kind:
    kind = next((expand(value or "") for key, value in mount.fields if key == "type"), "bind")
    if kind.lower() not in _KINDS:
        message = f'unsupported mount type "{kind}"{did_you_mean(kind, _KINDS)}'
        raise DockerfileError(message)
    return cast("Kind", kind.lower())


def _with(spec: MountSpec, key: str, value: str | None) -> MountSpec:
    text = value or ""
    if key in _TEXTS:
        changes: dict[str, Any] = {_TEXTS[key]: text}
        return replace(spec, **changes)
    if key in _FLAGS:
        return _with_flag(spec, key, value)
    match key:
        case "sharing":
            if text.lower() not in ("shared", "private", "locked"):
                message = (f'unsupported sharing value "{text}"'
                           f'{did_you_mean(text, ("shared", "private", "locked"))}')
                raise DockerfileError(message)
            return replace(spec, sharing=cast("Sharing", text.lower()))
        case "size":
            return replace(spec, size_bytes=_size(text))
        case "mode":
            return replace(spec, mode=_number(key, text, 8))
        case "uid":
            return replace(spec, uid=_number(key, text, 10))
        case "gid":
            return replace(spec, gid=_number(key, text, 10))
    whole = key if value is None else f"{key}={value}"
    message = f"unexpected key '{key}' in '{whole}'{did_you_mean(key, _KEYS)}"
    raise DockerfileError(message)


def _with_flag(spec: MountSpec, key: str, value: str | None) -> MountSpec:
    if value is None or value in _TRUE:
        flag = True
    elif value in _FALSE:
        flag = False
    else:
        message = f"invalid value for {key}: {value}"
        raise DockerfileError(message)
    if key == "required":
        if spec.kind not in ("secret", "ssh"):
            message = f"unexpected key 'required' for mount type '{spec.kind}'"
            raise DockerfileError(message)
        return replace(spec, required=flag)
    return replace(spec, readonly=flag if key in ("readonly", "ro") else not flag)


def _number(key: str, text: str, base: int) -> int:
    try:
        return int(text, base) if text.isalnum() else int("x")
    except ValueError:
        message = f"invalid value {text} for {key}"
        raise DockerfileError(message) from None


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        message = f"invalid value for size: {text}"
        raise DockerfileError(message)
    return int(float(match[1]) * 1024 ** _UNITS[(match[2] or "").lower()])


def _checked(spec: MountSpec) -> MountSpec:
    if spec.kind not in ("secret", "ssh", "cache"):
        for name, value in (("mode", spec.mode), ("uid", spec.uid), ("gid", spec.gid)):
            if value is not None:
                message = f'{name} not allowed for "{spec.kind}" type mounts'
                raise DockerfileError(message)
    if spec.sharing is not None and spec.kind != "cache":
        message = f"invalid cache sharing set for {spec.kind} mount"
        raise DockerfileError(message)
    if spec.size_bytes and spec.kind != "tmpfs":
        message = f"unexpected key 'size' for mount type '{spec.kind}'"
        raise DockerfileError(message)
    if spec.env is not None and spec.kind not in ("secret", "ssh"):
        message = f"unexpected key 'env' for mount type '{spec.kind}'"
        raise DockerfileError(message)
    return _checked_secret(spec) if spec.kind == "secret" else spec


def _checked_secret(spec: MountSpec) -> MountSpec:
    message = ""
    if spec.from_:
        message = "secret mount should not have a from"
    elif not (spec.id or spec.source or spec.target):
        message = "invalid secret mount. one of source, target required"
    elif spec.source and spec.id:
        message = "both source and id can't be set"
    if message:
        raise DockerfileError(message)
    return spec
