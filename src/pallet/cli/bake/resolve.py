"""From what the files say to what is built: groups, inheritance, ``--set``, links between targets.

Spec   docker buildx bake; messages are buildx's.
"""

from __future__ import annotations

import posixpath

from pallet.cli.bake import fields
from pallet.cli.bake.definition import match_names, unknown_target
from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pallet.cli.bake.definition import Definition
    from pallet.cli.bake.remote import Remote

_NAMED = {"args": "args requires name", "contexts": "contexts requires name", "labels": "labels requires name"}
_TRUTHS = ("no-cache", "pull", "push", "load")
_REPLACED = ("tags", "output", "cache-from", "cache-to", "platforms", "no-cache-filter", "ulimits")
_SPELLED = {"platform": "platforms", "secrets": "secret"}
_TEXTS = ("context", "dockerfile", "target", "network", "shm-size", "call")
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")


class Override:
    """One ``--set TARGET.KEY[+]=VALUE``, values of the same key together."""

    def __init__(self, key: str, name: str, *, append: bool) -> None:
        self.key = key
        self.name = name
        self.append = append
        self.values: list[str | None] = []


class Plan:
    """What is built: groups and targets as ``--print`` shows them."""

    def __init__(self) -> None:
        self.groups: dict[str, list[str]] = {}
        self.targets: dict[str, dict[str, Any]] = {}

    def rebase(self, remote: Remote) -> None:
        """Say what the contexts of a definition from elsewhere are, to be printed."""
        self.targets = {name: remote.rebase(target) for name, target in self.targets.items()}


def overrides(given: Sequence[str], names: Sequence[str],
              environment: Mapping[str, str]) -> dict[str, dict[str, Override]]:
    """Read ``--set``: for each target its overrides by key.

    Raises:
        CommandError: one does not parse, or means no target.
    """
    found: dict[str, dict[str, Override]] = {}
    for text in given:
        left, equals, value = text.partition("=")
        pattern, dot, key = left.partition(".")
        append = key.endswith("+") and bool(equals)
        key = key.removesuffix("+") if append else key
        kind, _, name = key.partition(".")
        if not dot or not key:
            raise CommandError(f"invalid override key {left}, expected target.name")
        if not equals and kind != "args":
            raise CommandError(f"invalid override {text}, expected target.name=value")
        if not (matching := match_names(pattern, names)):
            raise CommandError(f"could not find any target matching '{pattern}'")
        for target in matching:
            one = found.setdefault(target, {}).setdefault(key, Override(kind, name, append=append))
            one.append = append
            one.values.append(value if equals else environment.get(name))
    return found


def resolve(definition: Definition, wanted: Sequence[str], given: Mapping[str, Mapping[str, Override]]) -> Plan:
    """Find the targets, put them together, and add those that they link to.

    Raises:
        CommandError: one is not there, or an override does not fit.
    """
    made = Plan()
    asked = _asked(definition, wanted)
    made.groups["default"] = asked
    names: list[str] = []
    for name in asked:
        _open_group(definition, name, names, made)
    if asked and not names:  # groups of one another
        raise unknown_target(asked[0])
    for name in names:
        made.targets[name] = target_of(definition, name, given)
    _add_links(definition, made, given)
    made.groups = dict(sorted(made.groups.items()))
    made.targets = dict(sorted(made.targets.items()))
    return made


def _asked(definition: Definition, wanted: Sequence[str]) -> list[str]:
    known = sorted({*definition.targets, *definition.groups})
    found: list[str] = []
    for pattern in wanted or ("default",):
        if any(char in pattern for char in "*?["):
            matching = match_names(pattern, known)
            if not matching:
                raise CommandError(f'could not find any target matching "{pattern}"')
        else:
            matching = [pattern]
        found += [name for name in matching if name not in found]
    if found == ["default"] and "default" in definition.groups:
        found = definition.groups["default"].targets
    return sorted(set(found))


def _open_group(definition: Definition, name: str, names: list[str], made: Plan) -> None:
    group = definition.groups.get(name)
    if group is None:
        if name not in definition.targets:
            raise unknown_target(name)
        if name not in names:
            names.append(name)
        return
    if name in made.groups and name != "default":
        return
    if name != "default":
        made.groups[name] = list(dict.fromkeys(group.targets))
    for member in group.targets:
        if member != name:
            _open_group(definition, member, names, made)
        elif name in definition.targets and name not in names:
            names.append(name)


def target_of(definition: Definition, name: str, given: Mapping[str, Mapping[str, Override]]) -> dict[str, Any]:
    """One target with all that it inherits and what overrides it."""
    found = _inherited(definition, name, given, ())
    found.pop("inherits", None)
    found.setdefault("context", ".")
    found.setdefault("dockerfile", "Dockerfile")
    context = found["context"]
    if context != "-" and "://" not in context and not context.startswith(_REMOTE):
        found["context"] = posixpath.normpath(context) if context else "."
    for field, kind in fields.TARGET.items():
        if kind in ("append", "list") and field in found:
            found[field] = list(dict.fromkeys(text for text in found[field] if text))
    return found


def _inherited(definition: Definition, name: str, given: Mapping[str, Mapping[str, Override]],
               path: tuple[str, ...]) -> dict[str, Any]:
    own = definition.targets.get(name)
    if own is None:
        raise unknown_target(name)
    found: dict[str, Any] = {}
    for parent in own.get("inherits", ()):
        if parent not in (*path, name):
            found = fields.merged(found, _inherited(definition, parent, given, (*path, name)))
    found.pop("inherits", None)
    found = fields.merged(found, own)
    for override in given.get(name, {}).values():
        _apply(found, override)
    return found


def _apply(target: dict[str, Any], override: Override) -> None:
    key, name = override.key, override.name
    field = _SPELLED.get(key, key)
    values = [value for value in override.values if value is not None]
    kind = fields.TARGET.get(field, "")
    if key in _NAMED or key == "extra-hosts":
        if not name:
            raise CommandError(f"invalid key {key}, {_NAMED[key]}" if key in _NAMED else
                               "invalid format for extra-hosts, expecting extra-hosts.<hostname>=<ip>")
        if values and not values[-1] and key == "contexts":
            target[key] = {other: value for other, value in target.get(key, {}).items() if other != name}
        elif values:
            target[key] = {**target.get(key, {}), name: values[-1]}
    elif key in _TRUTHS:
        truth = _truth(key, values[-1])
        if key in ("push", "load"):
            target["output"] = (pushing if key == "push" else loading)(target.get("output", []), wanted=truth)
        else:
            target[key] = truth
    elif key in _TEXTS:
        target[key] = values[-1]
    elif field in ("secret", "ssh", "attest", "annotations", "entitlements", *_REPLACED):
        if kind == "entries":
            found: list[Any] = [fields.entry(field, value) for value in values if value]
        else:
            found = [part for value in values for part in (value.split(",") if field == "platforms" else [value])]
        keep = override.append or field in ("annotations", "attest", "entitlements")
        found = [*target.get(field, []), *found] if keep else found
        target[field] = fields.unique(field, found) if kind == "entries" else found
    else:
        raise CommandError(f"unknown key: {key}")


def _truth(key: str, text: str) -> bool:
    from pallet.cli.errors import InvalidValueError
    from pallet.cli.flags import parse_bool

    try:
        return parse_bool(text)
    except InvalidValueError:
        raise CommandError(f"invalid value {text} for boolean key {key}") from None


def pushing(outputs: list[dict[str, Any]], *, wanted: bool) -> list[dict[str, Any]]:
    """``--push``: images are pushed; one is added where there are no other outputs than loaded ones."""
    if not wanted:
        return [one for one in ({**one, "push": "false"} if one["type"] == "image" else one for one in outputs)
                if one["type"] != "registry"]
    found = [{**dict(sorted({**one, "push": "true"}.items()))} if one["type"] == "image" else one for one in outputs]
    if all(one["type"] == "docker" for one in outputs):
        found.append({"push": "true", "type": "image"})
    return found


def loading(outputs: list[dict[str, Any]], *, wanted: bool) -> list[dict[str, Any]]:
    """``--load``: the store gets the image, unless files are all that is wanted."""
    if not wanted:
        return outputs
    for one in outputs:
        if (one["type"] == "docker" and not one.get("dest")) or one["type"] not in (
                "docker", "image", "registry", "oci"):
            return outputs
    return [*outputs, {"type": "docker"}]


def _add_links(definition: Definition, made: Plan, given: Mapping[str, Mapping[str, Override]]) -> None:
    """Targets that contexts name are built, too, but go nowhere."""
    done: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise CommandError(f"infinite loop from {path[-1]} to {name}")
        for other in links(made.targets[name]):
            if other not in made.targets:
                linked = target_of(definition, other, given)
                linked["output"] = [{"type": "cacheonly"}]
                made.targets[other] = linked
            if other not in done:
                follow(other, (*path, name))
        done.add(name)

    for name in list(made.targets):
        follow(name, ())


def links(target: Mapping[str, Any]) -> dict[str, str]:
    """Names of targets to the contexts that stand for their results (one of them)."""
    return {value.removeprefix("target:"): name for name, value in target.get("contexts", {}).items()
            if value.startswith("target:")}


def document(plan: Plan) -> dict[str, Any]:
    """What ``--print`` prints."""
    return {"group": {name: {"targets": targets} for name, targets in plan.groups.items()},
            "target": {name: fields.printed({**target, "context": _shown(target["context"])})
                       for name, target in plan.targets.items()}}


def _shown(context: str) -> str:
    return context.removeprefix("cwd://") or "." if context.startswith("cwd://") else context
