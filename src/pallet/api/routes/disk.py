"""Routes about disk space: prunes of containers and images, and Pallet's own ``/pallet`` calls.

Spec   Engine API ContainerPrune, ImagePrune; ``docs/disk.md`` for the rest.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from pallet.api.routes.build import registry_config
from pallet.api.routing import JSON, Route, json_reply, no_content, unimplemented
from pallet.api.status import message_of
from pallet.http.messages import Reply, Request, StreamResponse
from pallet.spec.engine import filters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pallet.api.diskbackend import DiskBackend, PruneBackend
    from pallet.spec.own.disk import CheckMessage

_CONTAINER_KEYS: Final = frozenset({"label", "label!", "until"})
_IMAGE_KEYS: Final = frozenset({"dangling", "label", "label!", "until"})


class PruneRoutes:
    """``POST /containers/prune`` and ``/images/prune``; without a backend they answer 501."""

    def __init__(self, backend: PruneBackend | None) -> None:
        self._given = backend

    @property
    def _backend(self) -> PruneBackend:
        assert self._given is not None, "routes() registers no handler without a backend"
        return self._given

    def routes(self) -> list[Route]:
        """Return the routes."""
        known = self._given is not None
        return [
            Route("POST", "/containers/prune",
                  self.containers if known else unimplemented("container prune"), (1, 25)),
            Route("POST", "/images/prune",
                  self.images if known else unimplemented("image prune"), (1, 25)),
        ]

    async def containers(self, request: Request) -> Reply:
        """``POST /containers/prune`` (ContainerPrune): 200; 400; 409 one is running."""
        wanted = filters.parse(request.query.get("filters"))
        wanted.validate(_CONTAINER_KEYS)
        return json_reply(await self._backend.containers(wanted))

    async def images(self, request: Request) -> Reply:
        """``POST /images/prune`` (ImagePrune): 200; 400; 409 one is running."""
        wanted = filters.parse(request.query.get("filters"))
        wanted.validate(_IMAGE_KEYS)
        return json_reply(await self._backend.images(wanted))


class DiskRoutes:
    """``/pallet/…``; without a backend there is none."""

    def __init__(self, backend: DiskBackend | None) -> None:
        self._given = backend

    @property
    def _backend(self) -> DiskBackend:
        assert self._given is not None, "routes() registers no handler without a backend"
        return self._given

    def routes(self) -> list[Route]:
        """Return the routes."""
        if self._given is None:
            return []
        return [
            Route("GET", "/pallet/disk", self.usage),
            Route("POST", "/pallet/check", self.check),
            Route("GET", "/pallet/images/{name}/explore", self.explore),
            Route("POST", "/pallet/images/{name}/pin", self.pin),
            Route("POST", "/pallet/images/{name}/unpin", self.unpin),
        ]

    async def usage(self, request: Request) -> Reply:
        """``GET /pallet/disk``: 200."""
        del request
        return json_reply(await self._backend.usage())

    async def pin(self, request: Request) -> Reply:
        """``POST /pallet/images/{name}/pin``: 204; 404."""
        await self._backend.pin(request.params["name"], pinned=True)
        return no_content()

    async def unpin(self, request: Request) -> Reply:
        """``POST /pallet/images/{name}/unpin``: 204; 404."""
        await self._backend.pin(request.params["name"], pinned=False)
        return no_content()

    async def explore(self, request: Request) -> Reply:
        """``GET /pallet/images/{name}/explore``: 200 and one document; 404. Query: ``entries``."""
        request.abandonable = True
        chunks = await self._backend.explore(
            request.params["name"], entries=request.query.flag("entries", default=True))
        return StreamResponse(aiter(chunks), close=chunks.aclose, content_type=JSON)

    async def check(self, request: Request) -> Reply:
        """``POST /pallet/check``: 200 and one JSON a line; 409 one is running. Query: ``repair``.

        ``X-Registry-Config`` has credentials for what a repair fetches, as of a build.

        The check ends when the client goes away; a repair of one layer ends whole.
        """
        queue: asyncio.Queue[CheckMessage | None] = asyncio.Queue()
        backend, repair, credentials = self._backend, request.query.flag("repair"), registry_config(request)

        async def run() -> None:
            try:
                await backend.check(repair=repair, credentials=credentials, report=queue.put_nowait)
            finally:
                queue.put_nowait(None)

        task = asyncio.get_running_loop().create_task(run())

        async def close() -> None:
            task.cancel()
            await asyncio.wait([task])

        request.abandonable = True
        try:
            first = await queue.get()
        except BaseException:
            await close()
            raise
        if first is None:
            await task
        return StreamResponse(_check_lines(first, queue, task), close=close, content_type=JSON)


async def _check_lines(
    first: CheckMessage | None, queue: asyncio.Queue[CheckMessage | None], task: asyncio.Task[None]
) -> AsyncIterator[bytes]:
    encode = msgspec.json.Encoder().encode
    message = first
    while message is not None:
        yield encode(message) + b"\n"
        message = await queue.get()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        assert isinstance(error, Exception)
        yield encode({"error": message_of(error)}) + b"\n"
