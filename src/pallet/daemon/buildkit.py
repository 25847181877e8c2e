"""BuildKit's door of one daemon: the builder, and what clients hear of the worker.

Runs   at the daemon's start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.api.buildkitbackend import BuildKitDoor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.api.buildkitbackend import BuildKitBackend
    from pallet.build.usage import CachePrune
    from pallet.config import BuilderConfig
    from pallet.spec.platform import Platform
    from pallet.supervisor.platforms import Workers


def make_door(backend: BuildKitBackend, *, worker_id: str, host_gateway: Callable[[], str],
              version: str, workers: Workers, builder: BuilderConfig, root: str) -> BuildKitDoor:
    """Put it together."""
    def rules() -> Sequence[CachePrune]:
        from pallet.build.collector import rules_of  # who asks for them is about to build

        return rules_of(builder, root)

    def native() -> Sequence[Platform]:
        from pallet.supervisor import platforms

        return platforms.native()

    async def runnable() -> Sequence[Platform]:
        from pallet.supervisor import platforms

        return await platforms.runnable(workers)

    return BuildKitDoor(backend=backend, worker_id=worker_id, host_gateway=host_gateway, native=native,
                        platforms=runnable, version=version, gc_rules=rules)
