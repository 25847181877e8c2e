"""BuildKit's door of one daemon: the builder, and what clients hear of the worker.

Runs   at the daemon's start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.api.buildkitbackend import BuildKitDoor
from pallet.spec.platform import Platform, host

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.api.buildkitbackend import BuildKitBackend


def make_door(backend: BuildKitBackend, *, worker_id: str, host_gateway: Callable[[], str],
              version: str) -> BuildKitDoor:
    """Put it together."""
    here = host()
    also = (Platform(os="linux", architecture="386"),) if here.architecture == "amd64" else ()
    return BuildKitDoor(backend=backend, worker_id=worker_id,
                        host_gateway=host_gateway, platforms=(here, *also), version=version)
