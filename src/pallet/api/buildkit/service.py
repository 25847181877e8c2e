"""BuildKit's door as a whole: one gRPC server and the sessions.

Owns   every connection that was turned over for BuildKit.
Runs   on the event loop. Imported with the first such connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.api.buildkit import tunnel
from pallet.api.buildkit.bridge import Bridge
from pallet.api.buildkit.builds import Builds, Uploads
from pallet.api.buildkit.control import Control
from pallet.api.buildkit.frontends import FrontEndImages
from pallet.api.buildkit.grpc import Server
from pallet.api.buildkit.history import History
from pallet.api.buildkit.rest import RestBuilds
from pallet.api.buildkit.session import Sessions
from pallet.api.buildkit.wire.status_pb2 import HealthCheckRequest, HealthCheckResponse

if TYPE_CHECKING:
    from pallet.api.buildkit.grpc import ServerCall
    from pallet.api.buildkitbackend import BuildKitDoor

_SERVING = 1


class BuildKitService:
    """What ``/grpc`` and ``/session`` lead to."""

    def __init__(self, door: BuildKitDoor) -> None:
        self.sessions = Sessions()
        uploads = Uploads()
        self.builds = Builds(self.sessions, uploads, door.backend, FrontEndImages(door))
        self.history = History()
        control = Control(door, self.builds, self.history)
        self.rest = RestBuilds(control, self.builds, uploads)
        self.server = Server({
            **control.methods(),
            **Bridge(door, self.builds).methods(),
            "/moby.buildkit.v1.Control/Session": tunnel.serve_session(self.sessions),
            "/grpc.health.v1.Health/Check": self._health,
        })

    async def _health(self, call: ServerCall) -> None:
        await call.read(HealthCheckRequest)
        await call.send(HealthCheckResponse(status=_SERVING))

    async def close(self) -> None:
        """End every call, build and session."""
        await self.server.close()
        await self.sessions.close()


