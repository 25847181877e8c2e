"""Which files a definition is in, and which language each is.

Spec   docker buildx bake ``--file``, ``BUILDX_BAKE_FILE``.
"""

from __future__ import annotations

import os
import sys

from pallet.cli.bake.definition import Definition, evaluate
from pallet.cli.bake.hcl import jsonsyntax, syntax
from pallet.cli.bake.hcl.errors import HclError
from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.cli.bake.hcl.syntax import Body

_COMPOSE = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
_DEFAULT = (*_COMPOSE, "docker-bake.json", "docker-bake.hcl", "docker-bake.override.json", "docker-bake.override.hcl")


def load(given: Sequence[str], environment: Mapping[str, str],
         read: list[tuple[str, int]] | None = None) -> Definition:
    """Read the files and evaluate them.

    Args:
        given: names, ``-`` for standard input; none are the usual ones.
        environment: of the process, with ``--var`` over it.
        read: takes the names of the files and their sizes in bytes.

    Raises:
        CommandError: one is not there or cannot be understood.
    """
    names = list(given) or _from_environment(environment) or [name for name in _DEFAULT if os.path.isfile(name)]
    if not names:
        raise CommandError("couldn't find a bake definition")
    compose: list[tuple[str, str]] = []
    bodies: list[Body] = []
    for name in names:
        text = _read(name)
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

        add_compose(compose, environment, made)
    if bodies:
        evaluate(bodies, environment, made)
    return made


def _from_environment(environment: Mapping[str, str]) -> list[str]:
    text = environment.get("BUILDX_BAKE_FILE", "")
    separator = environment.get("BUILDX_BAKE_PATH_SEPARATOR", os.pathsep)
    return [part for part in text.split(separator) if part]


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    path = name.removeprefix("cwd://")
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise CommandError(f"open {path}: {os.strerror(error.errno or 0).lower()}") from None
    except UnicodeDecodeError:
        raise CommandError(f"failed to parse {path}: it is no text") from None


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
        from pallet.cli.bake.composefiles import problem_of

        problem = problem_of(text)
        if not problem:
            return None
        raise CommandError(f"failed to parse {name}: parsing yaml: {problem}, parsing hcl: {error}") from None
