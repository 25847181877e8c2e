"""Container routes.

Spec   Engine API tag Container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import msgspec

from pallet.api import version
from pallet.api.backends import AttachOptions, ListOptions, LogsOptions
from pallet.api.create import read_create
from pallet.api.hijack import StreamOpener, plain_error
from pallet.api.moments import moment_ns
from pallet.api.routing import JSON, Route, check_json, json_reply, no_content, unimplemented
from pallet.errors import InvalidParameterError, PalletError
from pallet.http.messages import HIJACKED, Reply, Request, Response, StreamResponse
from pallet.http.query import parse_int
from pallet.http.streams import MULTIPLEXED_STREAM, RAW_STREAM
from pallet.spec.engine import filters
from pallet.spec.engine.container import ContainerWaitResponse, WaitError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pallet.api.backends import ContainerBackend, WaitCondition, WaitHandle

_LIST_KEYS: Final = frozenset({
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label",
    "name", "network", "publish", "since", "status", "volume",
})
_CONDITIONS: Final = ("not-running", "next-exit", "removed")
_MAX_SIZE: Final = 2**32 - 1


class ContainerRoutes:
    """``/containers``."""

    def __init__(self, backend: ContainerBackend, prelude: bytes) -> None:
        self._backend = backend
        self._prelude = prelude

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/containers/{id}"
        return [
            Route("GET", "/containers/json", self.list),
            Route("POST", "/containers/create", self.create),
            Route("GET", f"{one}/json", self.inspect),
            Route("GET", f"{one}/logs", self.logs),
            Route("POST", f"{one}/start", self.start),
            Route("POST", f"{one}/stop", self.stop),
            Route("POST", f"{one}/restart", self.restart),
            Route("POST", f"{one}/kill", self.kill),
            Route("POST", f"{one}/rename", self.rename),
            Route("POST", f"{one}/resize", self.resize),
            Route("POST", f"{one}/attach", self.attach),
            Route("POST", f"{one}/wait", self.wait),
            Route("GET", f"{one}/top", unimplemented("top")),
            Route("GET", f"{one}/stats", unimplemented("container statistics")),
            Route("GET", f"{one}/attach/ws", unimplemented("attach by websocket")),
            Route("POST", f"{one}/update", unimplemented("container update")),
            Route("POST", f"{one}/pause", unimplemented("pause")),
            Route("POST", f"{one}/unpause", unimplemented("unpause")),
            Route("DELETE", one, self.remove),
        ]

    async def list(self, request: Request) -> Reply:
        """``GET /containers/json`` (ContainerList): 200; 400 for a bad filter or limit."""
        query = request.query
        wanted = filters.parse(query.get("filters"))
        wanted.validate(_LIST_KEYS)
        found = await self._backend.list(ListOptions(
            all=query.flag("all"), limit=query.int_or_none("limit") or 0,
            size=query.flag("size"), filters=wanted))
        return json_reply([version.container_summary(request.version, item) for item in found])

    async def create(self, request: Request) -> Reply:
        """``POST /containers/create`` (ContainerCreate): 201; 400; 404 no image; 409 name."""
        check_json(request)
        options, warnings = read_create(request, await request.body())
        made = await self._backend.create(options)
        if warnings:
            made = msgspec.structs.replace(made, warnings=[*made.warnings, *warnings])
        return json_reply(made, 201)

    async def inspect(self, request: Request) -> Reply:
        """``GET /containers/{id}/json`` (ContainerInspect): 200; 404."""
        found = await self._backend.inspect(
            request.params["id"], size=request.query.flag("size"))
        return json_reply(version.container(request.version, found))

    async def start(self, request: Request) -> Reply:
        """``POST /containers/{id}/start`` (ContainerStart): 204; 304 runs; 400; 404; 409."""
        if request.has_body and len(await request.body()) > 7:
            msg = ("starting container with non-empty request body was deprecated since API v1.22 "
                   "and removed in v1.24")
            raise InvalidParameterError(msg)
        if request.query.get("checkpoint") or request.query.get("checkpoint-dir"):
            msg = "checkpoint is only supported in experimental mode"
            raise InvalidParameterError(msg)
        await self._backend.start(request.params["id"])
        return no_content()

    async def stop(self, request: Request) -> Reply:
        """``POST /containers/{id}/stop`` (ContainerStop): 204; 304 was not running; 404.

        Query: ``t`` seconds before SIGKILL, -1 waits for ever; ``signal`` name or number.
        """
        await self._backend.stop(
            request.params["id"], signal=_signal(request),
            timeout_s=request.query.int_or_none("t"))
        return no_content()

    async def restart(self, request: Request) -> Reply:
        """``POST /containers/{id}/restart`` (ContainerRestart): 204; 404. Query as ``stop``."""
        await self._backend.restart(
            request.params["id"], signal=_signal(request),
            timeout_s=request.query.int_or_none("t"))
        return no_content()

    async def kill(self, request: Request) -> Reply:
        """``POST /containers/{id}/kill`` (ContainerKill): 204; 400 signal; 404; 409."""
        await self._backend.kill(request.params["id"], signal=request.query.get("signal"))
        return no_content()

    async def rename(self, request: Request) -> Reply:
        """``POST /containers/{id}/rename`` (ContainerRename): 204; 400; 404; 409."""
        await self._backend.rename(request.params["id"], new_name=request.query.get("name"))
        return no_content()

    async def resize(self, request: Request) -> Reply:
        """``POST /containers/{id}/resize`` (ContainerResize): 200; 400; 404; 409."""
        height, width = terminal_size(request)
        await self._backend.resize(request.params["id"], height=height, width=width)
        return Response(200)

    async def remove(self, request: Request) -> Reply:
        """``DELETE /containers/{id}`` (ContainerDelete): 204; 400; 404; 409."""
        query = request.query
        await self._backend.remove(
            request.params["id"], force=query.flag("force"), volumes=query.flag("v"),
            link=query.flag("link"))
        return no_content()

    async def attach(self, request: Request) -> Reply:
        """``POST /containers/{id}/attach`` (ContainerAttach): 101 or 200; 400; 404; 409."""
        query = request.query
        options = AttachOptions(
            stdin=query.flag("stdin"), stdout=query.flag("stdout"), stderr=query.flag("stderr"),
            stream=query.flag("stream"), logs=query.flag("logs"),
            detach_keys=query.get("detachKeys"))
        opener = StreamOpener(request, self._prelude)
        try:
            await self._backend.attach(request.params["id"], options, opener)
        except PalletError as error:
            if opener.opened:
                raise
            return plain_error(error)
        assert opener.opened, "attach returned without a stream and without an error"
        return HIJACKED

    async def logs(self, request: Request) -> Reply:
        """``GET /containers/{id}/logs`` (ContainerLogs): 200 and frames or raw bytes; 400; 404."""
        query = request.query
        stdout, stderr = query.flag("stdout"), query.flag("stderr")
        if not (stdout or stderr):
            msg = "Bad parameters: you must choose at least one stream"
            raise InvalidParameterError(msg)
        log = await self._backend.logs(request.params["id"], LogsOptions(
            stdout=stdout, stderr=stderr, follow=query.flag("follow"),
            since_ns=moment_ns(query.get("since"), "since"),
            until_ns=moment_ns(query.get("until"), "until"),
            timestamps=query.flag("timestamps"), tail=_tail(query.get("tail")),
            details=query.flag("details")))
        framed = not log.tty and request.version >= (1, 42)
        return StreamResponse(
            aiter(log.chunks), close=log.chunks.aclose,
            content_type=MULTIPLEXED_STREAM if framed else RAW_STREAM)

    async def wait(self, request: Request) -> Reply:
        """``POST /containers/{id}/wait`` (ContainerWait): 200, head at once, then the exit code.

        The wait is registered before the head goes out, so a client may start the container as
        soon as it has the head.
        """
        condition = request.query.get("condition") or "not-running"
        if request.version < (1, 30):
            condition = "not-running"
        if condition not in _CONDITIONS:
            msg = f'invalid condition: "{condition}"'
            raise InvalidParameterError(msg)
        handle = await self._backend.subscribe_wait(
            request.params["id"], condition=cast("WaitCondition", condition))

        async def close() -> None:
            handle.close()

        if request.version < (1, 30):
            request.abandonable = True
            try:
                return json_reply(await handle.result())
            finally:
                handle.close()
        return StreamResponse(_wait_result(handle), close=close, content_type=JSON, single=True)


async def _wait_result(handle: WaitHandle) -> AsyncIterator[bytes]:
    try:
        result = await handle.result()
    except PalletError as error:
        result = ContainerWaitResponse(status_code=-1, error=WaitError(message=str(error)))
    yield msgspec.json.encode(result) + b"\n"


def _signal(request: Request) -> str | None:
    """Return the stop signal asked for; clients before 1.42 could not ask for one."""
    return request.query.get("signal") or None if request.version >= (1, 42) else None


def _tail(text: str) -> int | None:
    """Read ``tail``: anything but a number, and a negative one, means all."""
    return int(text) if text.isascii() and text.isdigit() else None


def terminal_size(request: Request) -> tuple[int, int]:
    """Read ``h`` and ``w``.

    Raises:
        InvalidParameterError: absent or no number of 32 bits.
    """
    sizes = []
    for key in ("h", "w"):
        size = parse_int(request.query.get(key))
        if not 0 <= size <= _MAX_SIZE:
            msg = f'strconv.ParseUint: parsing "{size}": value out of range'
            raise InvalidParameterError(msg)
        sizes.append(size)
    return sizes[0], sizes[1]
