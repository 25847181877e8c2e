"""Compose files as bake files: every service with a ``build`` is a target.

Owns   what a service's build means as a target, ``x-bake``.
Spec   compose-spec build.md; buildx docs/bake "Building from Compose file".
"""

from __future__ import annotations

import posixpath
import re

from pallet.cli.bake import fields
from pallet.cli.bake.composefiles import dotenv, is_local, merged
from pallet.cli.bake.definition import Group
from pallet.cli.bake.hcl.values import as_string
from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from pallet.cli.bake.definition import Definition

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]+")


def add_compose(files: Sequence[tuple[str, str]], environment: Mapping[str, str], into: Definition,
                read: Callable[[str], str]) -> None:
    """Add the targets of Compose files, each over the one before.

    Args:
        files: names and texts.
        environment: for interpolation, over what ``.env`` has.
        read: reads those that they name.

    Raises:
        CommandError: one is no Compose file.
    """
    known = {**dotenv([".env"], environment, required=False), **environment}
    whole = merged(files, environment, read)
    secrets = whole.get("secrets") or {}
    names = []
    services = whole.get("services") or {}
    for service, about in sorted(services.items()):
        if not isinstance(about, dict) or about.get("build") is None:
            continue
        name = _target_name(service)
        names.append(name)
        into.add(name, _target(about["build"], about, secrets, known))
    into.groups["default"] = Group(names)


def _target_name(service: str) -> str:
    return _NOT_IN_NAMES.sub("_", service.replace(".", "_"))


def _target(build: dict[str, Any], about: dict[str, Any], secrets: dict[str, Any],
            known: Mapping[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "context": _local(build.get("context", ".")), "dockerfile": build.get("dockerfile"),
        "dockerfile-inline": build.get("dockerfile_inline"), "target": build.get("target"),
        "labels": _pairs(build.get("labels"), {}), "args": _pairs(build.get("args"), known),
        "contexts": {name: _context(value) for name, value in _pairs(
            build.get("additional_contexts"), known).items()},
        "tags": build.get("tags"),
        "cache-from": build.get("cache_from"), "cache-to": build.get("cache_to"),
        "platforms": build.get("platforms"),
        "secret": [_secret(one, secrets) for one in build.get("secrets") or ()],
        "ssh": _ssh(build.get("ssh")), "pull": build.get("pull"), "no-cache": build.get("no_cache"),
        "network": build.get("network"), "ulimits": _ulimits(build.get("ulimits")),
        "shm-size": _size(build.get("shm_size")), "extra-hosts": _hosts(build.get("extra_hosts")),
        "entitlements": [*build.get("entitlements", ()), *(["security.insecure"] if build.get("privileged") else [])],
        "output": None, "attest": _attestations(build)}
    if build.get("network") == "host":
        made["entitlements"].append("network.host")
    found = {name: fields.fitting(name, fields.TARGET[name], value) for name, value in made.items()
             if value not in (None, [], {})}
    found = _extended(found, {**about.get("x-bake", {}), **build.get("x-bake", {})})
    if about.get("image") and not found.get("tags"):
        found["tags"] = [as_string(about["image"])]
    return found


def _extended(target: dict[str, Any], extension: dict[str, Any]) -> dict[str, Any]:
    for name, value in extension.items():
        if name not in fields.TARGET:
            continue
        kind = fields.TARGET[name]
        listed = [value] if isinstance(value, str) and kind in ("list", "append", "entries") else value
        found = fields.fitting(name, kind, listed)
        if name in ("tags", "platforms", "cache-from", "cache-to", "output") and name in target:
            target[name] = [*target[name], *(one for one in found if one not in target[name])]
        else:
            target = fields.merged(target, {name: found})
    return target


def _local(path: str) -> str:
    return posixpath.normpath(path) if is_local(path) else path


def _context(value: str) -> str:
    if value.startswith("service:"):
        return f"target:{_target_name(value.removeprefix('service:'))}"
    return _local(value)


def _pairs(found: Any, known: Mapping[str, str]) -> dict[str, str]:
    """A map or a list of ``name=value``; a name alone takes the environment's value, if there is one."""
    pairs = found.items() if isinstance(found, dict) else (
        (name, value if equals else None) for name, equals, value in (
            as_string(item).partition("=") for item in found or ()))
    made = {name: known.get(name) if value is None else as_string(value) for name, value in pairs}
    return {name: value for name, value in made.items() if value is not None}


def _secret(one: Any, secrets: dict[str, Any]) -> dict[str, str]:
    name = one if isinstance(one, str) else one.get("source", "")
    about = secrets.get(name)
    if not isinstance(about, dict):
        raise CommandError(f"secret {name} is undefined")
    target = name if isinstance(one, str) else one.get("target") or name
    if about.get("environment"):
        return {"id": target, "env": about["environment"]}
    return {"id": target, "src": posixpath.normpath(about.get("file", name))}


def _ssh(found: Any) -> list[str]:
    if isinstance(found, dict):
        return [f"{name}={value}" if value else name for name, value in found.items()]
    return list(found or ())


def _ulimits(found: Any) -> list[str]:
    return [f"{name}={limit['soft']}:{limit['hard']}" if isinstance(limit, dict) else f"{name}={limit}:{limit}"
            for name, limit in (found or {}).items()]


def _size(found: Any) -> str | None:
    """As buildx prints sizes: ``64MiB``."""
    if found is None:
        return None
    from pallet.cli.values import convert

    size = int(convert("bytes", as_string(found), None))
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    amount, at = float(size), 0
    while amount >= 1024 and at < len(units) - 1:
        amount, at = amount / 1024, at + 1
    return f"{amount:.4g}{units[at]}"


def _hosts(found: Any) -> dict[str, str]:
    if isinstance(found, dict):
        return {name: ",".join(value) if isinstance(value, list) else as_string(value)
                for name, value in found.items()}
    pairs = [text.partition("=") if "=" in text else text.partition(":") for text in found or ()]
    return {name: value for name, _, value in pairs}


def _attestations(build: dict[str, Any]) -> list[str]:
    found = []
    for kind in ("provenance", "sbom"):
        value = build.get(kind)
        if value is not None:
            text = as_string(value)
            found.append(f"type={kind}" + (f",{text}" if "=" in text else "" if text == "true" else ",disabled=true"))
    return found
