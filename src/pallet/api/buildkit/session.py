"""Sessions: connections on which the daemon calls services of a build's client.

Owns   ``Session`` and the ``Sessions`` by id.
Runs   on the event loop. Imports gRPC with the first session.
Spec   buildkit-wire "session".
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from pallet.api.buildkit.grpc import Client
from pallet.api.buildkit.status import Code, GrpcError
from pallet.api.buildkit.wire.status_pb2 import HealthCheckRequest, HealthCheckResponse
from pallet.errors import InvalidParameterError, NotFoundError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

_LATE_S: Final = 5.0
"""A build may name a session whose connection is still on its way."""
_CHECK_EVERY_S: Final = 5.0
_CHECK_TIMEOUT_S: Final = 15.0
_CHECK_FAILURES: Final = 3


class Session:
    """One client's session; its services are called through ``client``."""

    def __init__(self, client: Client, *, session_id: str, name: str, shared_key: str,
                 methods: Iterable[str]) -> None:
        self.client = client
        self.id = session_id
        self.name = name
        self.shared_key = shared_key
        self._methods = frozenset(method.lower() for method in methods)

    def offers(self, method: str) -> bool:
        """Whether the client listed ``/package.Service/Method``."""
        return method.lower() in self._methods

    async def watch_health(self) -> None:
        """Ask now and then whether the client lives; close the connection when it does not answer."""
        failures = 0
        while failures < _CHECK_FAILURES:
            await asyncio.sleep(_CHECK_EVERY_S)
            try:
                await self.client.unary("/grpc.health.v1.Health/Check", HealthCheckRequest(), HealthCheckResponse,
                                        timeout_s=_CHECK_TIMEOUT_S)
                failures = 0
            except GrpcError as error:
                if error.code is Code.UNIMPLEMENTED:
                    return
                failures += 1
        logger.info("session %s does not answer: closed", self.id)
        self.client.connection.abort()


class Sessions:
    """Every session that is connected now."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._pending: set[str] = set()
        self._arrivals: set[asyncio.Future[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def claim(self, session_id: str) -> None:
        """Take an id before its connection is handed over.

        Raises:
            InvalidParameterError: no id, or one that is in use.
        """
        if not session_id:
            message = "no session id provided"
            raise InvalidParameterError(message)
        if session_id in self._sessions or session_id in self._pending:
            message = f"session {session_id} already exists"
            raise InvalidParameterError(message)
        self._pending.add(session_id)

    def drop_claim(self, session_id: str) -> None:
        """The connection did not come."""
        self._pending.discard(session_id)

    async def add(self, sock: socket.socket, *, session_id: str, name: str, shared_key: str,
                  methods: Iterable[str]) -> Session:
        """Make a session of a connection, which belongs to it from now on."""
        self._pending.discard(session_id)
        client = await Client.on_socket(sock)
        session = Session(client, session_id=session_id, name=name, shared_key=shared_key, methods=methods)
        self._sessions[session_id] = session
        health = asyncio.get_running_loop().create_task(session.watch_health())
        self._tasks.add(health)

        def gone(_: asyncio.Future[None]) -> None:
            self._sessions.pop(session_id, None)
            health.cancel()

        client.connection.closed.add_done_callback(gone)
        health.add_done_callback(self._tasks.discard)
        for arrival in list(self._arrivals):
            if not arrival.done():
                arrival.set_result(None)
        return session

    async def get(self, session_id: str) -> Session:
        """Return a session, waiting a little for one that is on its way.

        Raises:
            NotFoundError: it did not come.
        """
        if (found := self._sessions.get(session_id)) is not None:
            return found
        try:
            async with asyncio.timeout(_LATE_S):
                while (found := self._sessions.get(session_id)) is None:
                    arrival: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._arrivals.add(arrival)
                    try:
                        await arrival
                    finally:
                        self._arrivals.discard(arrival)
                return found
        except TimeoutError:
            message = f"no active session for {session_id}: context deadline exceeded"
            raise NotFoundError(message) from None

    async def close(self) -> None:
        """End all of them."""
        for session in list(self._sessions.values()):
            session.client.connection.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
