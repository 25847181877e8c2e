"""BuildKit routes: connections that clients turn over for gRPC.

Spec   buildkit-wire "transport".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pallet.api.routing import JSON, Route, unimplemented
from pallet.errors import InvalidParameterError
from pallet.http.messages import HIJACKED, Reply, Request, Response, StreamResponse

if TYPE_CHECKING:
    from pallet.api.buildkit.service import BuildKitService
    from pallet.api.buildkitbackend import BuildKitDoor
    from pallet.spec.engine.build import BuildOptions

_SWITCH: Final = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
_EXPOSE: Final = b"x-docker-expose-session-"


class BuildKitRoutes:
    """``/grpc`` and ``/session``. gRPC is imported with the first of them."""

    def __init__(self, door: BuildKitDoor | None, prelude: bytes) -> None:
        self._door = door
        self._prelude = prelude
        self._made: BuildKitService | None = None

    def routes(self) -> list[Route]:
        """Return the routes; without a builder they answer 501, and clients go to the classic endpoint."""
        if self._door is None:
            missing = unimplemented("build sessions")
            return [Route("POST", "/grpc", missing), Route("POST", "/session", missing)]
        return [Route("POST", "/grpc", self.grpc), Route("POST", "/session", self.session)]

    async def build(self, request: Request, options: BuildOptions) -> Reply:
        """``POST /build?version=2``: 200 and BuildKit's progress in JSON lines; 400."""
        rest = self._service.rest
        if await rest.upload(options, request.stream()):
            return Response(200)
        build = rest.begin(options, request.stream())
        lines = rest.lines(build)

        async def close() -> None:
            await lines.aclose()
            self._service.builds.end(build)  # also of a client that went before the first line

        return StreamResponse(lines, close=close, content_type=JSON)

    def cancel(self, build_id: str) -> None:
        """Cancel a build by its reference; an unknown one is no error."""
        if self._made is not None:
            self._made.builds.cancel(build_id)

    async def close(self) -> None:
        """End every connection."""
        if self._made is not None:
            await self._made.close()

    @property
    def _service(self) -> BuildKitService:
        if self._made is None:
            from pallet.api.buildkit.service import BuildKitService

            assert self._door is not None
            self._made = BuildKitService(self._door)
        return self._made

    async def grpc(self, request: Request) -> Reply:
        """``POST /grpc``: 101, then the client calls Control and LLBBridge; 400 without the upgrade."""
        _check_upgrade(request)
        service = self._service
        await service.server.serve(await request.hijack(_SWITCH + self._prelude + b"\r\n"))
        return HIJACKED

    async def session(self, request: Request) -> Reply:
        """``POST /session``: 101, then the daemon calls the client's services; 400 for a bad id."""
        _check_upgrade(request)
        values = _exposed(request)
        session_id = values.get("uuid", [""])[0]
        service = self._service
        service.sessions.claim(session_id)
        try:
            sock = await request.hijack(_SWITCH + self._prelude + b"\r\n")
            await service.sessions.add(
                sock, session_id=session_id, name=values.get("name", [""])[0],
                shared_key=values.get("sharedkey", [""])[0], methods=values.get("grpc-method", []))
        finally:
            service.sessions.drop_claim(session_id)
        return HIJACKED


def _check_upgrade(request: Request) -> None:
    if (request.header("upgrade") or "").lower() != "h2c":
        message = "no upgrade proto in request"
        raise InvalidParameterError(message)


def _exposed(request: Request) -> dict[str, list[str]]:
    """Every ``X-Docker-Expose-Session-*`` header's values by the rest of its name."""
    found: dict[str, list[str]] = {}
    for name, value in request.head.headers:
        if name.startswith(_EXPOSE):
            found.setdefault(name[len(_EXPOSE):].decode("latin-1"), []).append(value.decode("utf-8", "replace"))
    return found
