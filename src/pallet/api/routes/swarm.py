"""Swarm, plugins, build and the rest that this Docker does not have, answered as Docker does.

Spec   Engine API tags Swarm, Node, Service, Task, Secret, Config, Plugin, Session, Distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pallet.api.routing import Route, json_reply, unimplemented
from pallet.errors import NotFoundError, NotImplementedApiError, UnavailableError

if TYPE_CHECKING:
    from pallet.http.messages import Reply, Request

_NOT_MANAGER: Final = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
    "this node to swarm and try again."
)
_NOT_IN_SWARM: Final = "This node is not part of a swarm"
_NOT_EXPERIMENTAL: Final = (
    "This experimental feature is disabled by default. Start the Docker daemon in experimental "
    "mode in order to enable it."
)

_MANAGER_ROUTES: Final = (
    ("GET", "/swarm"), ("POST", "/swarm/update"), ("GET", "/swarm/unlockkey"),
    ("GET", "/nodes"), ("GET", "/nodes/{id}"), ("DELETE", "/nodes/{id}"),
    ("POST", "/nodes/{id}/update"),
    ("GET", "/services"), ("POST", "/services/create"), ("GET", "/services/{id}/logs"),
    ("GET", "/services/{id}"), ("DELETE", "/services/{id}"), ("POST", "/services/{id}/update"),
    ("GET", "/tasks"), ("GET", "/tasks/{id}/logs"), ("GET", "/tasks/{id}"),
    ("GET", "/secrets"), ("POST", "/secrets/create"), ("GET", "/secrets/{id}"),
    ("DELETE", "/secrets/{id}"), ("POST", "/secrets/{id}/update"),
    ("GET", "/configs"), ("POST", "/configs/create"), ("GET", "/configs/{id}"),
    ("DELETE", "/configs/{id}"), ("POST", "/configs/{id}/update"),
)

_UNIMPLEMENTED: Final = (
    ("POST", "/swarm/init", "swarm mode"),
    ("POST", "/swarm/join", "swarm mode"),
    ("GET", "/plugins/privileges", "managed plugins"),
    ("POST", "/plugins/pull", "managed plugins"),
    ("POST", "/plugins/create", "managed plugins"),
)


class SwarmRoutes:
    """Everything a Docker outside swarm mode, without plugins and without a builder, answers."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        plugin = "/plugins/{name}"
        return [
            *(Route(method, pattern, _needs_manager) for method, pattern in _MANAGER_ROUTES),
            Route("POST", "/swarm/leave", _needs_swarm),
            Route("POST", "/swarm/unlock", _needs_swarm),
            *(Route(method, pattern, unimplemented(feature))
              for method, pattern, feature in _UNIMPLEMENTED),
            Route("GET", "/plugins", _no_plugins),
            Route("GET", f"{plugin}/json", _no_such_plugin),
            Route("DELETE", plugin, _no_such_plugin),
            *(Route("POST", f"{plugin}/{verb}", _no_such_plugin)
              for verb in ("enable", "disable", "upgrade", "push", "set")),
            Route("GET", "/containers/{name}/checkpoints", _experimental),
            Route("POST", "/containers/{name}/checkpoints", _experimental),
            Route("DELETE", "/containers/{name}/checkpoints/{checkpoint}", _experimental),
        ]


async def _needs_manager(request: Request) -> Reply:
    del request
    raise UnavailableError(_NOT_MANAGER)


async def _needs_swarm(request: Request) -> Reply:
    del request
    raise UnavailableError(_NOT_IN_SWARM)


async def _no_plugins(request: Request) -> Reply:
    del request
    return json_reply([])


async def _no_such_plugin(request: Request) -> Reply:
    msg = f'plugin "{request.params["name"]}" not found'
    raise NotFoundError(msg)


async def _experimental(request: Request) -> Reply:
    del request
    raise NotImplementedApiError(_NOT_EXPERIMENTAL)
