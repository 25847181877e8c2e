"""Compose files as bake files: every service with a ``build`` is a target.

Owns   interpolation, several files over one another, ``x-bake``.
Spec   compose-spec build.md, 12-interpolation.md; buildx docs/bake "Building from Compose file".
"""

from __future__ import annotations

import posixpath
import re

from pallet.cli.bake import fields
from pallet.cli.bake.definition import Group
from pallet.cli.bake.hcl.values import as_string, from_plain
from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pallet.cli.bake.definition import Definition

_NAME = re.compile(r"[A-Za-z_]\w*")
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]+")
_BOOL = "tag:yaml.org,2002:bool"
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")


def problem_of(text: str) -> str:
    """Why the text is no Compose file; "" if it is one."""
    try:
        found = _yaml(text, "")
    except CommandError as error:
        return str(error)
    if not isinstance(found, dict):
        return "top-level object must be a mapping"
    return "" if "services" in found else "no services"


def _yaml(text: str, name: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise CommandError("Compose files need the package PyYAML") from None

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """YAML 1.2: ``no`` is a text, and so are dates and times."""

        yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML's own
            first: [(tag, form) for tag, form in forms if tag not in (_BOOL, "tag:yaml.org,2002:timestamp")]
            for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()}

    Loader.add_implicit_resolver(_BOOL, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))
    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506  it is a safe one
    except yaml.YAMLError as error:
        raise CommandError(f"failed to parse {name}: yaml: {' '.join(str(error).split())}") from None


def add_compose(files: Sequence[tuple[str, str]], environment: Mapping[str, str], into: Definition) -> None:
    """Add the targets of Compose files, each over the one before.

    Args:
        files: names and texts.
        environment: for interpolation, over what ``.env`` has.

    Raises:
        CommandError: one is no Compose file.
    """
    known = {**_dotenv(), **environment}
    whole: dict[str, Any] = {}
    for name, text in files:
        found = _yaml(text, name)
        if not isinstance(found, dict):
            raise CommandError(f"failed to parse {name}: top-level object must be a mapping")
        whole = _over(whole, _interpolated(found, known, "", {}))
    secrets = whole.get("secrets") or {}
    names = []
    services = whole.get("services") or {}
    for service, about in sorted(services.items()):
        if not isinstance(about, dict) or about.get("build") is None:
            continue
        name = _target_name(service)
        build = about["build"]
        build = {"context": build} if isinstance(build, str) else build
        names.append(name)
        into.add(name, _target(build, about, secrets, known))
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
        "platforms": build.get("platforms") or ([about["platform"]] if about.get("platform") else None),
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
    return path if "://" in path or path.startswith(_REMOTE) else posixpath.normpath(path)


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


def _over(below: Any, above: Any) -> Any:
    """One file over another: maps by key, lists one after the other, all else replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{key: _over(below[key], value) if key in below else value
                            for key, value in above.items()}}
    if isinstance(below, list) and isinstance(above, list):
        return [*below, *(item for item in above if item not in below)]
    return above


def _dotenv() -> dict[str, str]:
    try:
        with open(".env", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            value = value.strip()
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            found[name.strip()] = value[1:-1] if quoted else value.partition(" #")[0].rstrip()
    return found


def _interpolated(value: Any, known: Mapping[str, str], path: str, seen: dict[int, Any]) -> Any:
    """A value with its texts interpolated; what a file names several times stays one (``seen``, by identity)."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, dict):
        found: Any = {key: _interpolated(item, known, f"{path}.{key}", seen) for key, item in value.items()}
    elif isinstance(value, list):
        found = [_interpolated(item, known, f"{path}.[]", seen) for item in value]
    elif not isinstance(value, str) or "$" not in value:
        return from_plain(value)
    else:
        try:
            return interpolate(value, known)
        except CommandError as error:
            raise CommandError(f"error while interpolating {path[1:]}: {error}") from None
    seen[id(value)] = found
    return found


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
