"""Exec routes.

Spec   Engine API tag Exec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from pallet.api.backends import ExecStartOptions
from pallet.api.hijack import StreamOpener
from pallet.api.routes.containers import terminal_size
from pallet.api.routing import Route, json_reply, read_json
from pallet.errors import InvalidParameterError
from pallet.http.messages import HIJACKED, Reply, Request, Response
from pallet.spec.engine.config import IdResponse
from pallet.spec.engine.exec import ExecConfig, ExecStartConfig

if TYPE_CHECKING:
    from pallet.api.backends import ExecBackend


class ExecRoutes:
    """``/exec`` and ``/containers/{id}/exec``."""

    def __init__(self, backend: ExecBackend, prelude: bytes) -> None:
        self._backend = backend
        self._prelude = prelude

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("POST", "/containers/{id}/exec", self.create),
            Route("POST", "/exec/{id}/start", self.start),
            Route("POST", "/exec/{id}/resize", self.resize),
            Route("GET", "/exec/{id}/json", self.inspect),
        ]

    async def create(self, request: Request) -> Reply:
        """``POST /containers/{id}/exec`` (ContainerExec): 201; 400 no command; 404; 409."""
        config = await read_json(request, ExecConfig)
        if not config.cmd:
            msg = "No exec command specified"
            raise InvalidParameterError(msg)
        if request.version < (1, 42):
            config = msgspec.structs.replace(config, console_size=UNSET)
        made = await self._backend.create(request.params["id"], config)
        return json_reply(IdResponse(id=made), 201)

    async def start(self, request: Request) -> Reply:
        """``POST /exec/{id}/start`` (ExecStart): 200 detached, else 101 or 200; 404; 409."""
        body = await read_json(request, ExecStartConfig)
        size = body.console_size if request.version >= (1, 42) and body.tty else UNSET
        options = ExecStartOptions(
            tty=body.tty, console_size=None if size is UNSET else size)
        exec_id = request.params["id"]
        if body.detach:
            await self._backend.start(exec_id, options, None)
            return Response(200)
        opener = StreamOpener(request, self._prelude)
        await self._backend.start(exec_id, options, opener)
        assert opener.opened, "exec start returned without a stream and without an error"
        return HIJACKED

    async def resize(self, request: Request) -> Reply:
        """``POST /exec/{id}/resize`` (ExecResize): 200; 400; 404; 409."""
        height, width = terminal_size(request)
        await self._backend.resize(request.params["id"], height=height, width=width)
        return Response(200)

    async def inspect(self, request: Request) -> Reply:
        """``GET /exec/{id}/json`` (ExecInspect): 200; 404."""
        return json_reply(await self._backend.inspect(request.params["id"]))
