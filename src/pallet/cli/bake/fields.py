"""The fields of a target: their types, how they are written, merged and printed.

Owns   one table of fields; entries in short form (``type=local,dest=x``) to maps.
Spec   buildx docs/bake-reference.md "target"; the order of ``--print``.
"""

from __future__ import annotations

import os

from pallet.cli.bake.hcl.errors import HclError
from pallet.cli.bake.hcl.values import as_bool, as_string, is_number
from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pallet.cli.bake.hcl.nodes import Node, Scope
    from pallet.cli.bake.hcl.syntax import Attribute

TARGET: dict[str, str] = {
    "description": "text", "annotations": "append", "attest": "entries", "context": "text", "contexts": "map",
    "dockerfile": "text", "dockerfile-inline": "text", "args": "map", "labels": "map", "tags": "list",
    "cache-from": "entries", "cache-to": "entries", "target": "text", "secret": "entries", "ssh": "entries",
    "platforms": "list", "output": "entries", "pull": "truth", "no-cache": "truth", "network": "text",
    "no-cache-filter": "append", "shm-size": "text", "ulimits": "append", "call": "text", "entitlements": "append",
    "extra-hosts": "map", "inherits": "list"}
"""Names to kinds, in the order of ``--print``."""
GROUP: dict[str, str] = {"targets": "list", "description": "text"}
_KEYS = {"attest": "type", "secret": "id", "ssh": "id"}
"""What entries of the same field are told apart by."""
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i686": "386", "ppc64le": "ppc64le",
             "s390x": "s390x", "riscv64": "riscv64"}


def local_platform() -> str:
    """This machine's platform."""
    machine = os.uname().machine
    return f"linux/{_MACHINES.get(machine, machine)}"


def kind_of(value: Any) -> str:
    """The HCL type that a default gives its variable."""
    if isinstance(value, bool):
        return "bool"
    if is_number(value):
        return "number"
    return "list(string)" if isinstance(value, list) else "map(string)" if isinstance(value, dict) else "string"


def names_of(attribute: Attribute | None) -> list[str]:
    """Bare names in a list: ``params = [a, b]``."""
    if attribute is None:
        return []
    node = attribute.node
    items = getattr(node, "items", [node])
    return [getattr(item, "name", "") or as_string(getattr(item, "literal", "")) for item in items]


def from_attributes(attributes: Mapping[str, Attribute], scope: Scope, table: Mapping[str, str]) -> dict[str, Any]:
    """Evaluate those attributes of a block that the table has; nulls are left out.

    Raises:
        HclError: a value does not fit.
    """
    found: dict[str, Any] = {}
    for name, attribute in attributes.items():
        if name not in table:
            continue
        value = attribute.node.value(scope)
        if value is not None:
            found[name] = _fitting(name, table[name], value, attribute.node)
    return found


def _fitting(name: str, kind: str, value: Any, node: Node) -> Any:
    try:
        return fitting(name, kind, value)
    except ValueError as error:
        raise HclError("Unsuitable value type", f"Unsuitable value: {error}", node.first_span()) from None


def fitting(name: str, kind: str, value: Any) -> Any:
    """A value as its field's kind.

    Raises:
        CommandError: an entry is not well formed.
        ValueError: it is of another type.
    """
    if kind == "text":
        return as_string(value)
    if kind == "truth":
        return as_bool(value)
    if kind == "map":
        if not isinstance(value, dict):
            raise ValueError("map of string required")
        return {key: _text(f'"{key}"', item) for key, item in value.items() if item is not None}
    if not isinstance(value, list):
        raise ValueError("list of string required")  # noqa: TRY004  a conversion that fails, as of texts
    if kind == "entries":
        return unique(name, [entry(name, item) for item in value if item not in ("", None)])
    return [text for text in (_text(str(at), item) for at, item in enumerate(value) if item is not None) if text]


def _text(place: str, value: Any) -> str:
    if isinstance(value, (list, dict)):
        raise ValueError(f"element {place}: string required")  # noqa: TRY004  as ``as_string``
    return as_string(value)


def entry(name: str, value: Any) -> dict[str, Any]:
    """One cache, output, secret, agent or attestation."""
    if isinstance(value, dict):
        made = {key: item if key == "paths" else as_string(item) for key, item in value.items() if item is not None}
        return _ordered(name, made)
    return _ordered(name, _short(name, as_string(value)))


def _short(name: str, text: str) -> dict[str, Any]:
    from pallet.cli.build.request import attributes, csv

    if name == "ssh":
        identity, equals, paths = text.partition("=")
        return {"id": identity, "paths": csv(paths)} if equals else {"id": identity}
    if name == "output" and "=" not in text:
        return {"type": "tar", "dest": "-"} if text == "-" else {"type": "local", "dest": text}
    if name.startswith("cache-") and "=" not in text:
        return {"type": "registry", "ref": text}
    found: dict[str, Any] = attributes(text, "value")
    if name == "secret":
        if "source" in found:
            found["src"] = found.pop("source")
        if found.pop("type", "") == "env" and "src" in found:
            found["env"] = found.pop("src")
        if not found.keys() & {"id", "src", "env"}:
            raise CommandError(f"invalid secret {text}")
        return found
    if "type" not in found:
        raise CommandError("type is required for output" if name == "output" else
                           "attestation type not specified" if name == "attest" else
                           f'type required form> "{text}"')
    return found


def _ordered(name: str, made: dict[str, Any]) -> dict[str, Any]:
    if name == "secret":
        return {key: made[key] for key in ("id", "src", "env") if made.get(key)}
    if name == "ssh":
        return {key: made[key] for key in ("id", "paths") if made.get(key)}
    found = dict(sorted(made.items()))
    if name == "attest" and "disabled" in found:
        disabled = str(found.pop("disabled")).lower() == "true"
        return dict(sorted({**found, **({"disabled": True} if disabled else {})}.items()))
    return found


def unique(name: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each entry once, at its first place; a later one with the same key counts."""
    key = _KEYS.get(name)
    found: dict[Any, dict[str, Any]] = {}
    for one in entries:
        found[one.get(key, "") if key else tuple(sorted((name, str(text)) for name, text in one.items()))] = one
    return list(found.values())


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """A target with another one above it."""
    found = dict(below)
    for name, value in above.items():
        kind = TARGET[name]
        known = found.get(name)
        if known is None:
            found[name] = value
        elif kind == "map":
            found[name] = {**known, **value}
        elif kind == "append":
            found[name] = [*known, *value]
        elif name in ("attest", "cache-from", "secret", "ssh"):
            found[name] = unique(name, [*known, *value])
        else:
            found[name] = value
    return found


def printed(target: Mapping[str, Any]) -> dict[str, Any]:
    """As ``--print`` has it: in order, without what is empty."""
    found: dict[str, Any] = {}
    for name, kind in TARGET.items():
        value = target.get(name)
        if name == "inherits" or value is None or (value in ("", [], {}) and kind != "truth"):
            continue
        found[name] = _escaped(dict(sorted(value.items())) if kind == "map" else value)
    return found


def _escaped(value: Any) -> Any:
    """Values as templates that come to them again."""
    if isinstance(value, str):
        return value.replace("${", "$${").replace("%{", "%%{")
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return {key: _escaped(item) for key, item in value.items()} if isinstance(value, dict) else value
