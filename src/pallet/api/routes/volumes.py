"""Volume routes.

Spec   Engine API tag Volume.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pallet.api.routing import Route, json_reply, no_content, read_json, unimplemented
from pallet.errors import InvalidParameterError
from pallet.spec.engine import filters
from pallet.spec.engine.volume import VolumeCreateRequest

if TYPE_CHECKING:
    from pallet.api.backends import VolumeBackend
    from pallet.http.messages import Reply, Request

_LIST_KEYS: Final = frozenset({"dangling", "driver", "label", "name"})
_PRUNE_KEYS: Final = frozenset({"label", "label!", "all"})


class VolumeRoutes:
    """``/volumes``; without a backend every call answers 501."""

    def __init__(self, backend: VolumeBackend | None) -> None:
        self._given = backend

    @property
    def _backend(self) -> VolumeBackend:
        assert self._given is not None, "routes() registers no handler without a backend"
        return self._given

    def routes(self) -> list[Route]:
        """Return the routes."""
        if self._given is None:
            refuse = unimplemented("volumes")
            return [
                Route("GET", "/volumes", refuse), Route("POST", "/volumes/create", refuse),
                Route("POST", "/volumes/prune", refuse), Route("GET", "/volumes/{name}", refuse),
                Route("PUT", "/volumes/{name}", refuse), Route("DELETE", "/volumes/{name}", refuse),
            ]
        return [
            Route("GET", "/volumes", self.list),
            Route("POST", "/volumes/create", self.create),
            Route("POST", "/volumes/prune", self.prune, (1, 25)),
            Route("GET", "/volumes/{name}", self.inspect),
            Route("PUT", "/volumes/{name}", unimplemented("cluster volumes"), (1, 42)),
            Route("DELETE", "/volumes/{name}", self.remove),
        ]

    async def list(self, request: Request) -> Reply:
        """``GET /volumes`` (VolumeList): 200."""
        wanted = filters.parse(request.query.get("filters"))
        wanted.validate(_LIST_KEYS)
        return json_reply(await self._backend.list(wanted))

    async def create(self, request: Request) -> Reply:
        """``POST /volumes/create`` (VolumeCreate): 201; 400; 409."""
        return json_reply(
            await self._backend.create(await read_json(request, VolumeCreateRequest)), 201)

    async def inspect(self, request: Request) -> Reply:
        """``GET /volumes/{name}`` (VolumeInspect): 200; 404."""
        return json_reply(await self._backend.inspect(request.params["name"]))

    async def remove(self, request: Request) -> Reply:
        """``DELETE /volumes/{name}`` (VolumeDelete): 204; 404; 409."""
        force = request.query.flag("force")
        await self._backend.remove(request.params["name"], force=force)
        return no_content()

    async def prune(self, request: Request) -> Reply:
        """``POST /volumes/prune`` (VolumePrune): 200. Before 1.42 named volumes went too."""
        wanted = filters.parse(request.query.get("filters"))
        wanted.validate(_PRUNE_KEYS)
        if "all" in wanted and request.version < (1, 42):
            msg = "invalid filter 'all'"
            raise InvalidParameterError(msg)
        all_unused = wanted.boolean("all", default=request.version < (1, 42))
        return json_reply(await self._backend.prune(wanted, all_unused=all_unused))
