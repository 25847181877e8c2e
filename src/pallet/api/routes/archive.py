"""Routes of ``docker cp``.

Spec   Engine API ContainerArchive, ContainerArchiveInfo, PutContainerArchive.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

import msgspec

from pallet.api.routing import Route, unimplemented
from pallet.errors import InvalidParameterError
from pallet.http.messages import Reply, Request, Response, StreamResponse

if TYPE_CHECKING:
    from pallet.api.treebackend import ArchiveBackend
    from pallet.spec.engine.archive import PathStat

_TAR: Final = "application/x-tar"


class ArchiveRoutes:
    """``/containers/{id}/archive``; without a backend they answer 501."""

    def __init__(self, backend: ArchiveBackend | None) -> None:
        self._backend = backend

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/containers/{id}/archive"
        if self._backend is None:
            refuse = unimplemented("copying from and to containers")
            return [Route(method, one, refuse) for method in ("HEAD", "GET", "PUT")]
        return [Route("HEAD", one, self.stat), Route("GET", one, self.get),
                Route("PUT", one, self.put)]

    @property
    def _archives(self) -> ArchiveBackend:
        assert self._backend is not None, "routes() registers no handler without a backend"
        return self._backend

    async def stat(self, request: Request) -> Reply:
        """``HEAD /containers/{id}/archive`` (ContainerArchiveInfo): 200 and a header; 400; 404."""
        found = await self._archives.stat(request.params["id"], _path(request))
        return Response(200, headers=[_header(found)])

    async def get(self, request: Request) -> Reply:
        """``GET /containers/{id}/archive`` (ContainerArchive): 200 and a tar; 400; 404."""
        name, path = request.params["id"], _path(request)
        found = await self._archives.stat(name, path)
        stream = await self._archives.get(name, path)
        return StreamResponse(aiter(stream), close=stream.aclose, content_type=_TAR,
                              headers=[_header(found)])

    async def put(self, request: Request) -> Reply:
        """``PUT /containers/{id}/archive`` (PutContainerArchive): 200; 400; 404."""
        query = request.query
        await self._archives.put(
            request.params["id"], _path(request), aiter(request.stream()),
            keep_kinds=query.flag("noOverwriteDirNonDir"), as_user=query.flag("copyUIDGID"))
        return Response(200)


def _path(request: Request) -> str:
    path = request.query.get("path")
    if not path:
        msg = "bad parameter: pathcannot be empty"  # Docker's own, space and all
        raise InvalidParameterError(msg)
    return path


def _header(found: PathStat) -> tuple[str, str]:
    return "X-Docker-Container-Path-Stat", base64.b64encode(msgspec.json.encode(found)).decode()
