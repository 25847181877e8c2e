"""Routes to containers' files: changes, export, commit.

Spec   Engine API ContainerChanges, ContainerExport, ImageCommit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pallet.api.backends import CommitOptions
from pallet.api.routing import JSON, Route, check_json, json_reply, unimplemented
from pallet.errors import InvalidParameterError
from pallet.http.messages import Reply, Request, Response, StreamResponse
from pallet.spec.engine import decode
from pallet.spec.engine.config import ContainerConfig, IdResponse

if TYPE_CHECKING:
    from pallet.api.treebackend import TreeBackend

_TAR: Final = "application/octet-stream"


class TreeRoutes:
    """Without a backend they answer 501."""

    def __init__(self, backend: TreeBackend | None) -> None:
        self._backend = backend

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/containers/{id}"
        no_trees = unimplemented("reading of containers' files")
        there = self._backend is not None
        return [
            Route("GET", f"{one}/changes", self.changes if there else no_trees),
            Route("GET", f"{one}/export", self.export if there else no_trees),
            Route("POST", "/commit", self.commit if there else no_trees),
        ]

    @property
    def _trees(self) -> TreeBackend:
        assert self._backend is not None, "routes() registers no handler without a backend"
        return self._backend

    async def changes(self, request: Request) -> Reply:
        """``GET /containers/{id}/changes`` (ContainerChanges): 200; 404."""
        return Response(200, await self._trees.changes(request.params["id"]) + b"\n", JSON)

    async def export(self, request: Request) -> Reply:
        """``GET /containers/{id}/export`` (ContainerExport): 200 and a tar; 404; 409."""
        stream = await self._trees.export(request.params["id"])
        return StreamResponse(aiter(stream), close=stream.aclose, content_type=_TAR)

    async def commit(self, request: Request) -> Reply:
        """``POST /commit`` (ImageCommit): 201; 400; 404; 409.

        Query, Pallet's own: ``sourceDateEpoch``, seconds since 1970.
        """
        check_json(request)
        query = request.query
        raw = await request.body()
        body = decode.load_json(raw) if raw.strip() else None
        made = await self._trees.commit(CommitOptions(
            container=query.get("container"), repository=query.get("repo"), tag=query.get("tag"),
            author=query.get("author"), comment=query.get("comment"),
            pause=query.flag("pause") or not query.get("pause"),
            changes=tuple(query.all("changes")), epoch_s=_epoch(query.get("sourceDateEpoch")),
            config=None if body is None else decode.from_value(ContainerConfig, body)))
        return json_reply(IdResponse(id=made), 201)


def _epoch(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        msg = f"invalid SOURCE_DATE_EPOCH: {text}"
        raise InvalidParameterError(msg)
    return int(text)
