"""Which files a definition is in, and which language each is.

Spec   docker buildx bake ``--file``, ``BUILDX_BAKE_FILE``.
"""

from __future__ import annotations

import os
import posixpath
import sys

from pallet.cli.bake import composefiles
from pallet.cli.bake.definition import Definition, evaluate
from pallet.cli.bake.hcl import jsonsyntax, syntax
from pallet.cli.bake.hcl.errors import HclError
from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.cli.bake.hcl.syntax import Body
    from pallet.cli.bake.remote import Remote

_COMPOSE = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
_DEFAULT = (*_COMPOSE, "docker-bake.json", "docker-bake.hcl", "docker-bake.override.json", "docker-bake.override.hcl")


def load(given: Sequence[str], environment: Mapping[str, str],
         read: list[tuple[str, int]] | None = None, remote: Remote | None = None) -> Definition:
    """Read the files and evaluate them.

    Args:
        given: names, ``-`` for standard input; none are the usual ones.
        environment: of the process, with ``--var`` over it.
        read: takes the names of the files and their sizes in bytes.
        remote: where the files are that do not begin with ``cwd://``; None is here.

    Raises:
        CommandError: one is not there or cannot be understood.
    """
    names = list(given) or _from_environment(environment)
    texts = _here(names) if remote is None else _there(names, remote)
    if not texts:
        raise CommandError("couldn't find a bake definition")
    compose: list[tuple[str, str]] = []
    bodies: list[Body] = []
    for name, text in texts:
        if read is not None:
            read.append((name, len(text.encode("utf-8", "surrogateescape"))))
        body = _as_hcl(name, text) if not name.endswith((".yml", ".yaml")) else None
        if body is None:
            compose.append((name, text))
        else:
            bodies.append(body)
    made = Definition()
    if compose:
        from pallet.cli.bake.compose import add_compose

        reader = composefiles.read if remote is None or remote.is_file else remote.require
        add_compose(compose, environment, made, reader)
    if bodies:
        evaluate(bodies, environment, made)
    return made


def _here(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, _read(name)) for name in names or [name for name in _DEFAULT if os.path.isfile(name)]]


def _there(names: Sequence[str], remote: Remote) -> list[tuple[str, str]]:
    """Files of a remote; those that begin with ``cwd://`` are here."""
    wanted = [name for name in names or _DEFAULT if not name.startswith("cwd://")]
    found = remote.read([posixpath.normpath(name) for name in wanted]) if wanted else {}
    if remote.is_file:
        return [*found.items(), *((name, _read(name)) for name in names if name.startswith("cwd://"))]
    if not names:
        return [(name, found[name]) for name in _DEFAULT if name in found]
    texts = []
    for name in names:
        if name.startswith("cwd://"):
            texts.append((name, _read(name)))
        elif (path := posixpath.normpath(name)) in found:
            texts.append((name, found[path]))
        else:
            raise CommandError(f"failed to solve: lstat {name}: no such file or directory")
    return texts


def _from_environment(environment: Mapping[str, str]) -> list[str]:
    text = environment.get("BUILDX_BAKE_FILE", "")
    separator = environment.get("BUILDX_BAKE_PATH_SEPARATOR", os.pathsep)
    return [part for part in text.split(separator) if part]


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    return composefiles.read(name.removeprefix("cwd://"))


def _as_hcl(name: str, text: str) -> Body | None:
    """The file as HCL or JSON; None where it is a Compose file."""
    if name.endswith(".json"):
        return jsonsyntax.parse(text, name)
    if name.endswith(".hcl"):
        return syntax.parse(text, name)
    if text.lstrip().startswith("{"):
        return jsonsyntax.parse(text, f"{name}.json")
    try:
        return syntax.parse(text, f"{name}.hcl")
    except HclError as error:

        problem = composefiles.problem_of(text)
        if not problem:
            return None
        raise CommandError(f"failed to parse {name}: parsing yaml: {problem}, parsing hcl: {error}") from None
