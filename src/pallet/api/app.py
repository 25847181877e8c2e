"""The Engine API as one handler: version prefix, routing, errors, common headers.

Owns   the route table. Each ``routes/<object>.py`` brings its part.
Runs   on the event loop, called by ``http.server`` once a request.
Needs  the ``Backends``.
Spec   Engine API "Versioning"; semantics "transport".
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from pallet.api import status
from pallet.api.routes import (
    archive,
    build,
    buildkit,
    containers,
    disk,
    execs,
    images,
    networks,
    registries,
    swarm,
    system,
    trees,
    volumes,
)
from pallet.errors import CancelledRequestError
from pallet.http.messages import Hijacked, Reply, Request, Response
from pallet.http.router import Router
from pallet.spec.engine.api_version import ACCEPTED_SINCE, API_VERSION, MIN_API_VERSION

if TYPE_CHECKING:
    from pallet.api.backends import Backends
    from pallet.api.routing import Route

logger = logging.getLogger(__name__)

_PREFIX: Final = re.compile(r"/v([0-9][0-9.]*)(/.*)\Z", re.DOTALL)


def _parse(version: str) -> tuple[int, int]:
    """Read ``1.44`` (further parts are ignored) so that it compares as numbers."""
    parts = [int(part) if part else 0 for part in version.split(".")]
    return parts[0], parts[1] if len(parts) > 1 else 0


NEWEST: Final = _parse(API_VERSION)
OLDEST: Final = _parse(ACCEPTED_SINCE)


class EngineApi:
    """The handler to give to ``http.server.Server``."""

    def __init__(self, backends: Backends, *, server_version: str) -> None:
        """Build the route table.

        Args:
            backends: what the routes call.
            server_version: goes into the ``Server`` header.
        """
        self.prelude = (
            f"Api-Version: {API_VERSION}\r\nDocker-Experimental: false\r\nOstype: linux\r\n"
            f"Server: Docker/{server_version} (linux)\r\n"
        ).encode()
        self._buildkit = buildkit.BuildKitRoutes(backends.buildkit, self.prelude)
        self._router: Router[Route] = Router()
        for group in (
            swarm.SwarmRoutes(),  # first: its checkpoint paths also fit /containers/{id}
            system.SystemRoutes(backends.system, buildkit=backends.buildkit is not None),
            build.BuildRoutes(backends.build, self.prelude, self._buildkit if backends.buildkit else None),
            self._buildkit,
            disk.PruneRoutes(backends.prunes),  # before /images/{name} and /containers/{id}
            disk.DiskRoutes(backends.disk),
            containers.ContainerRoutes(backends.containers, self.prelude),
            trees.TreeRoutes(backends.trees),
            archive.ArchiveRoutes(backends.container_archives),
            execs.ExecRoutes(backends.execs, self.prelude),
            images.ImageRoutes(backends.images, backends.archives, backends.imports),
            registries.RegistryRoutes(backends.registries),
            networks.NetworkRoutes(backends.networks),
            volumes.VolumeRoutes(backends.volumes),
        ):
            for route in group.routes():
                self._router.add(route.method, route.pattern, route)

    async def close(self) -> None:
        """End the connections that were turned over for gRPC, and what runs on them."""
        await self._buildkit.close()

    async def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        path, version = request.path, API_VERSION
        if prefix := _PREFIX.match(path):
            version, path = prefix[1], prefix[2]
        if "//" in path or "/./" in path or "/../" in path:
            return _moved(request)
        if request.method == "OPTIONS":
            return self._with_prelude(Response(200))
        found = self._router.find(request.method, path)
        if found is None:
            return status.message_reply(404, "page not found")
        route, request.params = found
        request.version = _parse(version)
        if problem := _version_problem(version, request.version):
            return self._with_prelude(status.message_reply(400, problem))
        if request.version < route.since:
            return status.message_reply(404, "page not found")
        logger.debug("Calling %s %s", request.method, request.path)
        try:
            reply = await route.handler(request)
        except CancelledRequestError:
            raise
        except Exception as error:  # noqa: BLE001 - the one place where errors become replies
            reply = status.error_reply(error)
            logger.debug("%s %s failed: %s", request.method, request.path, error)
        return self._with_prelude(reply)

    def _with_prelude(self, reply: Reply) -> Reply:
        if not isinstance(reply, Hijacked):
            reply.prelude = self.prelude
        return reply


def _version_problem(text: str, version: tuple[int, int]) -> str | None:
    if version < OLDEST:
        return (f"client version {text} is too old. Minimum supported API version is "
                f"{MIN_API_VERSION}, please upgrade your client to a newer version")
    if version > NEWEST:
        return (f"client version {text} is too new. Maximum supported API version is "
                f"{API_VERSION}")
    return None


def _moved(request: Request) -> Response:
    """Send a path that is not clean to the clean one, as Docker's router does."""
    parts: list[str] = []
    for part in request.path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    location = "/" + "/".join(parts)
    if request.path.endswith("/") and parts:
        location += "/"
    if request.raw_query:
        location += "?" + request.raw_query
    if any(ord(char) < 32 or ord(char) > 126 for char in location):
        return status.message_reply(404, "page not found")
    return Response(301, headers=(("Location", location),))
