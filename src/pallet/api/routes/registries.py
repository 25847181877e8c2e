"""Questions to registries. Spec: Engine API SystemAuth, DistributionInspect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.api.routes.images import registry_auth
from pallet.api.routing import Route, json_reply, read_json, unimplemented
from pallet.spec.engine import filters
from pallet.spec.engine.auth import AuthConfig

if TYPE_CHECKING:
    from pallet.api.backends import RegistryBackend
    from pallet.http.messages import Reply, Request


class RegistryRoutes:
    """``/auth`` and ``/distribution``."""

    def __init__(self, backend: RegistryBackend | None) -> None:
        self._backend = backend

    def routes(self) -> list[Route]:
        """Return the routes; without a backend they answer 501."""
        if self._backend is None:
            return [Route("POST", "/auth", unimplemented("registry login checks")),
                    Route("GET", "/distribution/{name}/json", unimplemented("distribution inspect")),
                    Route("GET", "/images/search", unimplemented("image search"))]
        return [Route("POST", "/auth", self.auth),
                Route("GET", "/distribution/{name}/json", self.inspect),
                Route("GET", "/images/search", self.search)]

    async def auth(self, request: Request) -> Reply:
        """``POST /auth`` (SystemAuth): 200; 401."""
        assert self._backend is not None, "routes() registers no handler without a backend"
        return json_reply(await self._backend.login(await read_json(request, AuthConfig)))

    async def inspect(self, request: Request) -> Reply:
        """``GET /distribution/{name}/json`` (DistributionInspect): 200; 401, 403, 404."""
        assert self._backend is not None, "routes() registers no handler without a backend"
        return json_reply(await self._backend.remote(
            request.params["name"], registry_auth(request), request.headers_with_prefix("x-meta-")))

    async def search(self, request: Request) -> Reply:
        """``GET /images/search`` (ImageSearch): 200; 400 a filter or the limit; 500 no index."""
        assert self._backend is not None, "routes() registers no handler without a backend"
        query = request.query
        return json_reply(await self._backend.search(
            query.get("term"), limit=query.int_or_none("limit") or 0,
            filters=filters.parse(query.get("filters")), auth=registry_auth(request),
            headers=request.headers_with_prefix("x-meta-")))
