"""The two files that a build begins with: the Dockerfile and its ``.dockerignore``.

Owns   their names and where they are looked for.
Runs   on the loop.
Spec   Docker "Dockerignore files": ``NAME.dockerignore`` beside the Dockerfile comes first.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.build.dockerfile.told import Told
from pallet.errors import InvalidParameterError
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.ignore import PathMatcher, read_patterns

if TYPE_CHECKING:
    from pallet.build.ports import BuildClient
    from pallet.build.progress import Watch

_LIMIT = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a client's build is made of."""

    filename: str
    """As it was found: maybe in lower case."""
    source: bytes
    exclude: tuple[str, ...] = ()
    own_ignore: bytes | None = None
    """Text of ``NAME.dockerignore``."""


async def load(client: BuildClient, watch: Watch, *, filename: str = "Dockerfile",
               dockerfile_source: str = "dockerfile", context_source: str = "context") -> Definition:
    """Read both from the client and show that in the progress.

    Raises:
        DockerfileError: there is no Dockerfile, or a pattern is malformed.
    """
    definition = await load_dockerfile(client, watch, filename=filename, source=dockerfile_source)
    return await with_ignore(definition, client, watch, source=context_source)


async def load_dockerfile(client: BuildClient, watch: Watch, *, filename: str = "Dockerfile",
                          source: str = "dockerfile") -> Definition:
    """Read the Dockerfile; ``dockerfile`` serves where there is no ``Dockerfile``.

    Raises:
        DockerfileError: there is none.
    """
    async with Told(watch, f"[internal] load build definition from {posixpath.basename(filename)}"):
        names = [filename]
        if posixpath.basename(filename) == "Dockerfile":
            names.append(f"{filename.removesuffix('Dockerfile')}dockerfile")
        for name in names:
            data = await client.read_file(source, name, _LIMIT)
            if data is not None:
                own = await client.read_file(source, f"{name}.dockerignore", _LIMIT)
                return Definition(filename=name, source=data, own_ignore=own)
        message = (f"failed to read dockerfile: open {posixpath.basename(filename)}: "
                   "no such file or directory")
        raise DockerfileError(message)


async def with_ignore(definition: Definition, client: BuildClient, watch: Watch, *,
                      source: str = "context") -> Definition:
    """Add what the context leaves out.

    Raises:
        DockerfileError: a pattern is malformed.
    """
    async with Told(watch, "[internal] load .dockerignore"):
        data = definition.own_ignore
        if data is None:
            data = await client.read_file(source, ".dockerignore", _LIMIT)
        patterns = read_patterns(data) if data is not None else []
        try:
            PathMatcher(patterns)
        except InvalidParameterError as error:
            message = f"failed parsing .dockerignore: {error}"
            raise DockerfileError(message) from error
    return Definition(filename=definition.filename, source=definition.source, exclude=tuple(patterns),
                      own_ignore=definition.own_ignore)
