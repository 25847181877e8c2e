"""Network routes.

Spec   Engine API tag Network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pallet.api import version
from pallet.api.routing import Route, json_reply, unimplemented
from pallet.spec.engine import filters

if TYPE_CHECKING:
    from pallet.api.backends import NetworkBackend
    from pallet.http.messages import Reply, Request

_LIST_KEYS: Final = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})


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
            Route("POST", "/networks/create", later),
            Route("POST", "/networks/prune", later, (1, 25)),
            Route("GET", "/networks/{id}", self.inspect),
            Route("DELETE", "/networks/{id}", later),
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
