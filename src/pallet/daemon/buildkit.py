"""BuildKit's door of one daemon: the builder, and what clients hear of the worker.

Runs   at the daemon's start.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pallet.api.buildkitbackend import BuildKitDoor
from pallet.supervisor.platforms import native, runnable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.api.buildkitbackend import BuildKitBackend
    from pallet.supervisor.platforms import Workers


def make_door(backend: BuildKitBackend, *, worker_id: str, host_gateway: Callable[[], str],
              version: str, workers: Workers) -> BuildKitDoor:
    """Put it together."""
    return BuildKitDoor(backend=backend, worker_id=worker_id, host_gateway=host_gateway, native=native(),
                        platforms=partial(runnable, workers), version=version)
