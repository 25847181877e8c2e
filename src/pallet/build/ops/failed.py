"""Steps that failed, kept as they ended: for a shell that looks at what went wrong.

Owns   their snapshots and the layers below, until ``drop``, the daemon's end, or until there are too many.
Runs   on the loop.
Needs  who asked for the build (``BuildRequest.debug``) to drop what ``BuildError.state`` names.
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.errors import NotFoundError
from pallet.types import DiffID

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pallet.build.job import Solved
    from pallet.build.ports import Step, StepRunner
    from pallet.image.store import ImageStore
    from pallet.storage.leases import Lease

_MOST = 8


@dataclass(frozen=True, slots=True)
class _Kept:
    step: Step
    lease: Lease


class FailedSteps:
    """Failed steps by their ids."""

    def __init__(self, *, images: ImageStore, runner: StepRunner) -> None:
        self._images = images
        self._runner = runner
        self._kept: dict[str, _Kept] = {}
        self._busy: dict[str, asyncio.Lock] = {}

    async def keep(self, step: Step, inputs: Sequence[Solved]) -> None:
        """Keep a step whose command has ended; its snapshot is this object's from here on."""
        while len(self._kept) >= _MOST:
            await self.drop(next(iter(self._kept)))
        lease = await run_blocking(self._images.lease)
        layers = {layer for solved in inputs for layer in solved.layers}
        for layer in layers | {DiffID(layer) for mount in step.mounts for layer in mount.layers}:
            lease.add_layer(layer)
        self._kept[step.id] = _Kept(step, lease)

    async def shell(self, state: str, args: Sequence[str], client: socket.socket, *, tty: bool,
                    size: tuple[int, int] = (0, 0)) -> int:
        """Run ``args`` where the step failed: its files, mounts, environment, user and network.

        Args:
            state: ``BuildError.state``.
            args: a command line; the first word of the step's own shell form is a good one.
            client: see ``ports.StepRunner.shell``; closed here, in every case.

        Raises:
            NotFoundError: it is not kept any more.
        """
        kept = self._kept.get(state)
        if kept is None:
            client.close()
            message = f"the failed step {state[:12]} is not kept any more"
            raise NotFoundError(message)
        async with self._busy.setdefault(state, asyncio.Lock()):
            return await self._runner.shell(dataclasses.replace(kept.step, args=tuple(args)), client, tty=tty,
                                            size=size)

    def step(self, state: str) -> Step | None:
        """What failed; None for what is not kept any more."""
        kept = self._kept.get(state)
        return kept.step if kept is not None else None

    async def drop(self, state: str) -> None:
        """Give a step up. Idempotent."""
        kept = self._kept.pop(state, None)
        self._busy.pop(state, None)
        if kept is not None:
            await run_blocking(self._images.snapshotter.remove, state)
            await run_blocking(kept.lease.end)
