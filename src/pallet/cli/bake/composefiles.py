"""Compose files as one model: interpolation, ``extends``, ``include``, files over one another.

Owns   what is in which file, and the directories that its paths are relative to.
Spec   compose-spec 05-services.md "extends", 12-interpolation.md, 13-merge.md, 14-include.md; to bake profiles do not
       matter.

The order is compose-go's: within a file its variables are replaced and its services extend one another, then it goes
over the files before it, then what it includes is brought in, which nobody may contradict.
"""

from __future__ import annotations

import os
import posixpath
import re

from pallet.cli.bake.hcl.values import as_string, from_plain
from pallet.cli.bake.interpolation import interpolate
from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

_BOOL = "tag:yaml.org,2002:bool"
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")
_SECTIONS = ("services", "secrets", "configs", "networks", "volumes")
_KEYED = {"args": "=", "labels": "=", "additional_contexts": "=", "ulimits": "=", "extra_hosts": "=:"}
"""Of a build: what may be a list of ``name=value``, and what separates them."""
_DEEPEST = 100


class _Replaced:
    """``!override`` and ``!reset``: it takes the place of what it would be merged with."""

    def __init__(self, value: Any, *, gone: bool = False) -> None:
        self.value = value
        self.gone = gone


def problem_of(text: str) -> str:
    """Why the text is no Compose file; "" if it is one."""
    try:
        found = _yaml(text, "")
    except CommandError as error:
        return str(error)
    if not isinstance(found, dict):
        return "top-level object must be a mapping"
    return "" if "services" in found or "include" in found else "no services"


def merged(files: Sequence[tuple[str, str]], environment: Mapping[str, str],
           reader: Callable[[str], str]) -> dict[str, Any]:
    """Read files, each over the one before.

    Args:
        files: names and texts; their paths are relative to the working directory.
        environment: for interpolation, over what ``.env`` has.
        reader: reads the files that they name.

    Raises:
        CommandError: one is no Compose file, or names another that is not there.
    """
    return _Project("", {**dotenv([".env"], environment, required=False), **environment}, (), reader).load(files)


class _Project:
    """Files that belong together: one directory, one environment."""

    def __init__(self, directory: str, known: Mapping[str, str], including: tuple[str, ...],
                 reader: Callable[[str], str]) -> None:
        self._directory = directory
        self.known = known
        self._including = including
        self._read = reader

    def load(self, files: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The files as one, paths below ``directory``."""
        whole: dict[str, Any] = {}
        for name, text in files:
            found = self._document(name, text)
            services = found.get("services") or {}
            found["services"] = {service: _within(self._extended(service, services, "", ()), self._directory)
                                 for service in services}
            for about in (found.get("secrets") or {}).values():
                if isinstance(about, dict) and isinstance(about.get("file"), str):
                    about["file"] = _below(self._directory, about["file"])
            includes = found.pop("include", None)
            whole = over(whole, found)
            for one in _listed(includes):
                self._bring_in(whole, one)
        made: dict[str, Any] = plain(whole, {})
        return made

    def _document(self, name: str, text: str) -> dict[str, Any]:
        found = _yaml(text, name)
        if not isinstance(found, dict):
            raise CommandError(f"failed to parse {name}: top-level object must be a mapping")
        made: dict[str, Any] = _interpolated(found, self.known, "", {})
        for about in (made.get("services") or {}).values():
            _normalize(about)
        return made

    # -- extends ---------------------------------------------------------------------------------------

    def _extended(self, service: str, services: Mapping[str, Any], file: str,
                  trail: tuple[tuple[str, str], ...]) -> Any:
        """A service with those that it extends below it; paths relative to the directory of ``services``."""
        if (file, service) in trail or len(trail) > _DEEPEST:
            (first_file, first), *more = (*trail, (file, service))
            lines = [f"  {first} in {first_file}", *(f"  extends {name} in {where}" for where, name in more)]
            raise CommandError("Circular reference:\n" + "\n".join(lines))
        about = services[service]
        if not isinstance(about, dict) or about.get("extends") is None:
            return about
        other, name = _named(service, about["extends"])
        rest = {key: value for key, value in about.items() if key != "extends"}
        found, place = services, file
        if other:
            place = other if posixpath.isabs(other) else posixpath.join(posixpath.dirname(file), other)
            path = place if file else _below(self._directory, place)
            found = self._document(path, self._read(path)).get("services") or {}
            place = path
        if name not in found:
            where = f" in {place}" if other else ""
            raise CommandError(f'cannot extend service "{service}" in {file}: service "{name}" not found{where}')
        below = self._extended(name, found, place if other else file, (*trail, (file, service)))
        if other:
            below = _within(below, os.path.relpath(posixpath.dirname(place) or ".", posixpath.dirname(file)
                                                   if file else self._directory or "."))
        return over(below, rest)

    # -- include ---------------------------------------------------------------------------------------

    def _bring_in(self, whole: dict[str, Any], one: Any) -> None:
        about = {"path": one} if isinstance(one, str) else one
        if not isinstance(about, dict) or not about.get("path"):
            raise CommandError("empty compose file")
        paths = [_below(self._directory, path) for path in _texts(about["path"])]
        if paths[0] in self._including:
            trail = "\n".join(f" include {path}" for path in (*self._including, paths[0]))
            raise CommandError(f"include cycle detected:\n\n{trail}")
        given = about.get("project_directory")
        directory = _below(self._directory, given) if given else posixpath.dirname(paths[0])
        if about.get("env_file"):
            more = dotenv([_below(self._directory, path) for path in _texts(about["env_file"])], self.known, self._read)
        else:
            more = dotenv([_below(directory, ".env")], self.known, self._read, required=False)
        inner = _Project(directory, {**more, **self.known}, (*self._including, paths[0]), self._read)
        found = inner.load([(path, self._read(path)) for path in paths])
        for section in _SECTIONS:
            have = whole.setdefault(section, {}) or {}
            for name, value in (found.get(section) or {}).items():
                if name in have and plain(have[name], {}) != value:
                    raise CommandError(f"{section}.{name} conflicts with imported resource")
                have[name] = value
            whole[section] = have


def _listed(includes: Any) -> list[Any]:
    if includes is None or isinstance(includes, list):
        return includes or []
    shown = f"map[{' '.join(f'{key}:{value}' for key, value in includes.items())}]" if isinstance(
        includes, dict) else as_string(includes)
    raise CommandError(f"`include` must be a list, got {shown}")


def _texts(found: Any) -> list[str]:
    return [as_string(one) for one in found] if isinstance(found, list) else [as_string(found)]


def _named(service: str, found: Any) -> tuple[str, str]:
    """The file ("" for the same one) and the name that ``extends`` says."""
    if isinstance(found, str):
        return "", found
    if not isinstance(found, dict):
        return "", ""
    if not found.get("service"):
        raise CommandError(f"extends.{service}.service is required")
    return found.get("file") or "", found["service"]


# --- paths -------------------------------------------------------------------------------------------


def is_local(path: str) -> bool:
    """A path, and no URL, repository, image or other target."""
    return "://" not in path and not path.startswith((*_REMOTE, "service:", "target:"))


def _below(directory: str, path: str) -> str:
    return path if not directory or posixpath.isabs(path) else posixpath.normpath(posixpath.join(directory, path))


def _within(about: Any, directory: str) -> Any:
    """A service whose paths are relative to a directory, with paths relative to where that one is looked at from."""
    if directory in ("", ".") or not isinstance(about, dict) or not isinstance(about.get("build"), dict):
        return about
    build = dict(about["build"])
    if isinstance(build.get("context"), str) and is_local(build["context"]):
        build["context"] = _below(directory, build["context"])
    if isinstance(build.get("additional_contexts"), dict):
        build["additional_contexts"] = {
            name: _below(directory, value) if isinstance(value, str) and is_local(value) else value
            for name, value in build["additional_contexts"].items()}
    if isinstance(build.get("ssh"), list):
        build["ssh"] = [f"{name}={_below(directory, path)}" if equals else name
                        for name, equals, path in (as_string(one).partition("=") for one in build["ssh"])]
    return {**about, "build": build}


def read(path: str) -> str:
    """A file's text.

    Raises:
        CommandError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise CommandError(f"open {path}: {os.strerror(error.errno or 0).lower()}") from None
    except UnicodeDecodeError:
        raise CommandError(f"failed to parse {path}: it is no text") from None


def dotenv(paths: Sequence[str], known: Mapping[str, str], reader: Callable[[str], str] = read, *,
           required: bool = True) -> dict[str, str]:
    """What environment files say, the later over the earlier; ``known`` is what their values may name.

    Raises:
        CommandError: a required one is not there.
    """
    found: dict[str, str] = {}
    for path in paths:
        try:
            lines = reader(path).splitlines()
        except CommandError:
            if not required:
                continue
            raise CommandError(f"stat {path}: no such file or directory") from None
        for line in lines:
            name, equals, value = line.strip().removeprefix("export ").partition("=")
            if not equals or name.startswith("#"):
                continue
            value = value.strip()
            quote = value[:1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else ""
            value = value[1:-1] if quote else re.split(r"\s#", value, maxsplit=1)[0].rstrip()
            found[name.strip()] = value if quote == "'" else interpolate(value, {**found, **known})
    return found


# --- merging -----------------------------------------------------------------------------------------


def over(below: Any, above: Any) -> Any:
    """One over another: maps by key, lists one after the other, all else replaced."""
    if isinstance(above, _Replaced):
        return above
    if isinstance(below, _Replaced):
        below = None if below.gone else below.value
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{key: over(below[key], value) if key in below else value
                            for key, value in above.items()}}
    if isinstance(below, list) and isinstance(above, list):
        return [*below, *(item for item in above if item not in below)]
    return below if above is None else above


def plain(found: Any, seen: dict[int, Any]) -> Any:
    """What is left when nothing more is merged with it; what is there several times stays one (``seen``)."""
    if id(found) in seen:
        return seen[id(found)]
    made = found
    if isinstance(found, _Replaced):
        made = None if found.gone else plain(found.value, seen)
    elif isinstance(found, dict):
        made = {key: plain(value, seen) for key, value in found.items()
                if not (isinstance(value, _Replaced) and value.gone)}
    elif isinstance(found, list):
        made = [plain(value, seen) for value in found]
    else:
        return found
    seen[id(found)] = made
    return made


def _normalize(about: Any) -> None:
    """Bring a service's build into the forms in which builds are merged."""
    if not isinstance(about, dict) or about.get("build") is None:
        return
    if isinstance(about["build"], str):
        about["build"] = {"context": about["build"]}
    build = about["build"]
    if not isinstance(build, dict):
        return
    for name, separators in _KEYED.items():
        if isinstance(build.get(name), list):
            build[name] = dict(_pair(as_string(one), separators) for one in build[name])


def _pair(text: str, separators: str) -> tuple[str, str | None]:
    for separator in separators:
        name, found, value = text.partition(separator)
        if found:
            return name, value
    return text, None


# --- reading -----------------------------------------------------------------------------------------


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

    def replaced(loader: Any, node: Any) -> _Replaced:
        kinds = {"mapping": lambda: loader.construct_mapping(node, deep=True),
                 "sequence": lambda: loader.construct_sequence(node, deep=True),
                 "scalar": lambda: loader.construct_object(yaml.ScalarNode(
                     loader.resolve(yaml.ScalarNode, node.value, (True, False)), node.value))}
        return _Replaced(kinds[node.id](), gone=node.tag == "!reset")

    Loader.add_implicit_resolver(_BOOL, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))
    Loader.add_constructor("!reset", replaced)
    Loader.add_constructor("!override", replaced)
    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506  it is a safe one
    except yaml.YAMLError as error:
        raise CommandError(f"failed to parse {name}: yaml: {' '.join(str(error).split())}") from None


def _interpolated(value: Any, known: Mapping[str, str], path: str, seen: dict[int, Any]) -> Any:
    """A value with its texts interpolated; what a file names several times stays one (``seen``, by identity)."""
    if id(value) in seen:
        return seen[id(value)]
    found: Any
    if isinstance(value, dict):
        found = {key: _interpolated(item, known, f"{path}.{key}", seen) for key, item in value.items()}
    elif isinstance(value, list):
        found = [_interpolated(item, known, f"{path}.[]", seen) for item in value]
    elif isinstance(value, _Replaced):
        found = _Replaced(_interpolated(value.value, known, path, seen), gone=value.gone)
    elif not isinstance(value, str) or "$" not in value:
        return from_plain(value)
    else:
        try:
            return interpolate(value, known)
        except CommandError as error:
            raise CommandError(f"error while interpolating {path[1:]}: {error}") from None
    seen[id(value)] = found
    return found
