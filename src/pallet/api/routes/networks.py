"""Network routes.

Spec   Engine API tag Network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pallet.api import version
from pallet.api.routing import Route, json_reply, no_content, read_json, unimplemented
from pallet.spec.engine import filters
from pallet.spec.engine.network import NetworkCreateRequest, NetworkPruneResponse

if TYPE_CHECKING:
    from pallet.api.backends import NetworkBackend
    from pallet.http.messages import Reply, Request

_LIST_KEYS: Final = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
_PRUNE_KEYS: Final = frozenset({"label", "label!", "until"})


class NetworkRoutes:
    """``/networks``."""

    def __init__(self, backend: NetworkBackend) -> None:
        self._backend = backend

    def routes(self) -> list[Route]:
        """Return the routes."""
        later = unimplemented("user-defined networks")
        return [
            Route("GET", "/networks", self.list),
            Route("GET", "/networks/", self.list),
            Route("POST", "/networks/create", self.create),
            Route("POST", "/networks/prune", self.prune, (1, 25)),
            Route("GET", "/networks/{id}", self.inspect),
            Route("DELETE", "/networks/{id}", self.remove),
            Route("POST", "/networks/{id}/connect", later),
            Route("POST", "/networks/{id}/disconnect", later),
        ]

    async def list(self, request: Request) -> Reply:
        """``GET /networks`` (NetworkList): 200."""
        wanted = filters.parse(request.query.get("filters"))
        wanted.validate(_LIST_KEYS)
        networks = await self._backend.list(wanted)
        return json_reply([version.network(request.version, item) for item in networks])

    async def inspect(self, request: Request) -> Reply:
        """``GET /networks/{id}`` (NetworkInspect): 200; 404."""
        query = request.query
        network = await self._backend.inspect(
            request.params["id"], verbose=query.flag("verbose"), scope=query.get("scope"))
        return json_reply(version.network(request.version, network))

    async def create(self, request: Request) -> Reply:
        """``POST /networks/create`` (NetworkCreate): 403 built-in name; 501 until there is more."""
        return json_reply(
            await self._backend.create(await read_json(request, NetworkCreateRequest)), 201)

    async def remove(self, request: Request) -> Reply:
        """``DELETE /networks/{id}`` (NetworkDelete): 204; 403 built-in; 404."""
        await self._backend.remove(request.params["id"])
        return no_content()

    async def prune(self, request: Request) -> Reply:
        """``POST /networks/prune`` (NetworkPrune): 200."""
        wanted = filters.parse(request.query.get("filters"))
        wanted.validate(_PRUNE_KEYS)
        removed = await self._backend.prune(wanted)
        return json_reply(NetworkPruneResponse(networks_deleted=list(removed) or None))
