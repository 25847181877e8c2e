"""System routes: ping, version, info, events, disk usage.

Spec   Engine API tag System.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pallet.api import version
from pallet.api.backends import EventsOptions
from pallet.api.moments import optional_moment_ns
from pallet.api.routing import JSON, Route, json_reply
from pallet.errors import InvalidParameterError
from pallet.http.messages import Reply, Request, Response, StreamResponse
from pallet.spec.engine import filters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pallet.api.backends import Stream, SystemBackend
    from pallet.spec.engine.event import EventMessage

_USAGE_KINDS: Final = frozenset({"container", "image", "volume", "build-cache"})

_PING_HEADERS: Final = (
    ("Cache-Control", "no-cache, no-store, must-revalidate"),
    ("Pragma", "no-cache"),
    ("Swarm", "inactive"),
)


class SystemRoutes:
    """The daemon about itself."""

    def __init__(self, backend: SystemBackend, *, buildkit: bool = False) -> None:
        """Make the routes; with ``buildkit`` clients are told to build over gRPC."""
        self._backend = backend
        self._ping_headers = (("Builder-Version", "2" if buildkit else "1"), *_PING_HEADERS)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", "/_ping", self.ping),
            Route("HEAD", "/_ping", self.ping),
            Route("GET", "/version", self.version),
            Route("GET", "/info", self.info),
            Route("GET", "/events", self.events),
            Route("GET", "/system/df", self.disk_usage, (1, 25)),
        ]

    async def ping(self, request: Request) -> Reply:
        """``GET`` and ``HEAD /_ping`` (SystemPing): 200 OK."""
        body = b"" if request.method == "HEAD" else b"OK"
        return Response(200, body, "text/plain; charset=utf-8", self._ping_headers)

    async def version(self, request: Request) -> Reply:
        """``GET /version`` (SystemVersion): 200."""
        del request
        return json_reply(await self._backend.version())

    async def info(self, request: Request) -> Reply:
        """``GET /info`` (SystemInfo): 200."""
        return json_reply(version.info(request.version, await self._backend.info()))

    async def events(self, request: Request) -> Reply:
        """``GET /events`` (SystemEvents): 200 and one JSON a line, until ``until``; 400.

        Unlike the lists, an unknown filter key is no error here; it just never matters.
        """
        query = request.query
        wanted = filters.parse(query.get("filters"))
        since = optional_moment_ns(query.get("since"))
        until = optional_moment_ns(query.get("until"))
        if since is not None and until is not None and until < since:
            msg = (f"`since` time ({query.get('since')}) cannot be after "
                   f"`until` time ({query.get('until')})")
            raise InvalidParameterError(msg)
        stream = await self._backend.events(
            EventsOptions(since_ns=since, until_ns=until, filters=wanted))
        return StreamResponse(
            _event_lines(request.version, stream), close=stream.aclose, content_type=JSON)

    async def disk_usage(self, request: Request) -> Reply:
        """``GET /system/df`` (SystemDataUsage): 200; 400 for an unknown ``type``."""
        kinds = request.query.all("type") if request.version >= (1, 42) else []
        for kind in kinds:
            if kind not in _USAGE_KINDS:
                msg = f"unknown object type: {kind}"
                raise InvalidParameterError(msg)
        usage = await self._backend.disk_usage(frozenset(kinds))
        return json_reply(version.disk_usage(request.version, usage))


async def _event_lines(
    client: tuple[int, int], stream: Stream[EventMessage]
) -> AsyncIterator[bytes]:
    encode = msgspec.json.Encoder().encode
    async for event in stream:
        if client < (1, 46) and event.type == "image" and event.action == "create":
            continue
        yield encode(event) + b"\n"
