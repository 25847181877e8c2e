"""``pallet inspect`` and the inspect commands of each kind of object."""

from __future__ import annotations

import sys

from pallet.cli.errors import CommandError
from pallet.cli.session import warn
from pallet.client import wire
from pallet.client.engine import quote
from pallet.client.errors import DaemonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

_FORMAT = ("format", "f", "string", "Format output: json, or a Go template")
_SIZE = ("size", "s", "bool", "Display total file sizes")

INSPECT_FLAGS: Table = (
    _FORMAT, ("size", "s", "bool", "Display total file sizes if the type is container"),
    ("type", "", "string", "Only inspect objects of the given type"))
CONTAINERS_FLAGS: Table = (_FORMAT, _SIZE)
IMAGES_FLAGS: Table = (
    _FORMAT, ("platform", "", "string", "Inspect a specific platform of the image", "", "", "1.49"))
NETWORKS_FLAGS: Table = (
    _FORMAT, ("verbose", "v", "bool", "Verbose output for diagnostics"))
VOLUMES_FLAGS: Table = (_FORMAT,)

# In the order in which ``inspect`` without --type tries them.
_KINDS: dict[str, str] = {
    "container": "/containers/{}/json", "image": "/images/{}/json", "network": "/networks/{}",
    "volume": "/volumes/{}", "service": "/services/{}", "task": "/tasks/{}", "node": "/nodes/{}",
    "plugin": "/plugins/{}/json", "secret": "/secrets/{}", "config": "/configs/{}",
}


def inspect(session: Session, flags: Flags) -> int:
    """``pallet inspect``: the first kind of object that has the name."""
    wanted = flags["type"]
    if "type" in flags and wanted not in _KINDS:
        names = ", ".join(f'"{name}"' for name in sorted(_KINDS))
        raise CommandError(f'unknown type: "{wanted}": must be one of {names}')
    kinds = [wanted] if wanted else list(_KINDS)

    def find(name: str) -> str:
        for kind in kinds:
            query: dict[str, object] = {"size": flags["size"] and kind == "container"}
            try:
                return _get(session, kind, name, query)
            except DaemonError as error:
                if len(kinds) == 1:
                    raise
                # Kinds of a swarm answer 406 or 503 outside of one; that is "not here" too.
                if error.status not in (404, 406, 503) and "swarm" not in error.message:
                    raise
        raise CommandError(f"Error: No such object: {name}")

    return _print_all(flags, find)


def containers(session: Session, flags: Flags) -> int:
    """``pallet container inspect``."""
    return _print_all(flags, lambda name: _get(
        session, "container", name, {"size": flags["size"]}))


def images(session: Session, flags: Flags) -> int:
    """``pallet image inspect``."""
    from pallet.cli.commands.images import platform_json

    platform = platform_json(flags["platform"]) if flags["platform"] else None
    return _print_all(flags, lambda name: _get(session, "image", name, {"platform": platform}))


def networks(session: Session, flags: Flags) -> int:
    """``pallet network inspect``."""
    return _print_all(flags, lambda name: _get(
        session, "network", name, {"verbose": flags["verbose"]}))


def volumes(session: Session, flags: Flags) -> int:
    """``pallet volume inspect``."""
    return _print_all(flags, lambda name: _get(session, "volume", name, {}))


def _get(session: Session, kind: str, name: str, query: dict[str, object]) -> str:
    if kind == "container":
        name = name.removeprefix("/")  # as ``docker ps`` names carry it in the API
    return session.engine.text("GET", _KINDS[kind].format(quote(name, "/:@")), query).strip()


def _print_all(flags: Flags, find: Callable[[str], str]) -> int:
    """Print every object found, then the errors of the others."""
    found, failures = [], []
    for name in flags.args:
        try:
            found.append(find(name))
        except (DaemonError, CommandError) as error:
            failures.append(str(error))
    layout = flags["format"]
    if layout and layout != "json":
        sys.stdout.write(_templated(layout, found))
    elif layout == "json":
        sys.stdout.write("[" + ",".join(found) + "]\n")
    else:
        sys.stdout.write(wire.indent("[" + ",".join(found) + "]") + "\n")
    if failures:
        sys.stdout.flush()
        for failure in failures:
            warn(failure)
        raise CommandError("")
    return 0


def _templated(layout: str, documents: Iterable[str]) -> str:
    from pallet.cli.format.lexer import TemplateError
    from pallet.cli.format.template import Template
    from pallet.cli.format.values import mark

    try:
        template = Template(layout.replace("\\t", "\t").replace("\\n", "\n"))
    except TemplateError as error:
        raise CommandError(f"template parsing error: {error}", 64) from None
    lines = []
    for document in documents:
        try:
            lines.append(template.execute(mark(wire.decode(document))) + "\n")
        except TemplateError as error:
            sys.stdout.write("".join(lines) + "\n")
            raise CommandError(f"template parsing error: {error}") from None
    return "".join(lines) or "\n"
