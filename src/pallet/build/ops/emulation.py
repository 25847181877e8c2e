"""What a failed command of a foreign platform is told beside its exit code: that nothing here can run it.

Owns   the check afterwards; one that works costs nothing.
Runs   on the loop, around the performer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.build.errors import BuildError
from pallet.errors import PalletError
from pallet.supervisor import platforms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.build.graph import Vertex
    from pallet.build.job import Job, Solved
    from pallet.build.ops.perform import Outputs, Performer
    from pallet.supervisor.platforms import Workers

_STDERR = 2


class ForeignPerformer:
    """A performer that explains what cannot run."""

    def __init__(self, performer: Performer, workers: Workers) -> None:
        self._performer = performer
        self._workers = workers

    async def perform(self, vertex: Vertex, inputs: Sequence[Solved], job: Job,
                      output: Callable[[int, bytes], None]) -> Outputs:
        """See ``Performer.perform``."""
        try:
            return await self._performer.perform(vertex, inputs, job, output)
        except BuildError as error:
            if error.exit_code is not None and vertex.platform is not None:
                await self._explain(vertex, output)
            raise

    async def _explain(self, vertex: Vertex, output: Callable[[int, bytes], None]) -> None:
        assert vertex.platform is not None
        try:
            if await platforms.runs(vertex.platform, self._workers):
                return
        except PalletError:
            return  # the step's own failure is what has to be told
        output(_STDERR, f"this host cannot run programs for {vertex.platform}: no emulator for them is registered "
                        f"with its kernel (binfmt_misc, flag F)\n".encode())
