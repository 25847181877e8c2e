"""BuildKit's door of one daemon: the builder, and what clients hear of the worker.

Runs   at the daemon's start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.api.buildkitbackend import BuildKitDoor, DeviceFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.api.buildkitbackend import BuildKitBackend
    from pallet.build.devices import Devices
    from pallet.build.ports import Planner
    from pallet.build.usage import CachePrune
    from pallet.config import BuilderConfig
    from pallet.spec.platform import Platform
    from pallet.supervisor.platforms import Workers


def make_door(backend: BuildKitBackend, *, worker_id: str, host_gateway: Callable[[], str],
              version: str, workers: Workers, builder: BuilderConfig, root: str,
              registry: Devices) -> BuildKitDoor:
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

    async def devices() -> Sequence[DeviceFacts]:
        from pallet.build.devices import is_allowed_always

        catalog = await run_blocking(registry.look)
        return [DeviceFacts(name=name, allowed=is_allowed_always(name, catalog), annotations=known.annotations)
                for name, known in catalog.devices.items()]

    return BuildKitDoor(backend=backend, worker_id=worker_id, host_gateway=host_gateway, native=native,
                        platforms=runnable, version=version, gc_rules=rules, devices=devices)


class FrontEnds:
    """Front ends that are images: their protocol is imported with the first of them."""

    def __init__(self, door: Callable[[], BuildKitDoor]) -> None:
        self._door = door

    def planner(self, cmdline: str) -> Planner:
        """See ``build.ports.FrontEnds``."""
        from pallet.api.buildkit.frontends import FrontEndImages

        return FrontEndImages(self._door()).planner(cmdline)
