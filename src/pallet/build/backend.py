"""``api.buildbackend.BuildBackend``: all doors of the Engine API to one builder."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from pallet.build import cacheview
from pallet.build.classic.door import ClassicDoor
from pallet.build.own.door import OwnDoor
from pallet.errors import NotFoundError, PalletError
from pallet.http import streams

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Sequence

    from pallet.build.service import Builder
    from pallet.build.treeclient import WorkerRunner
    from pallet.spec.engine.build import BuildCacheRecord, BuildOptions, BuildPruneOptions
    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.engine.prune import BuildPruneResponse

class BuildDoors:
    """The doors of one daemon."""

    def __init__(self, builder: Builder, workers: WorkerRunner, *, age_of: Callable[[str], float]) -> None:
        """``age_of`` reads an ``until`` filter: how many seconds ago it means."""
        self.builder = builder
        self._age_of = age_of
        self._classic = ClassicDoor(builder, workers)
        self._own = OwnDoor(builder)

    async def classic(self, options: BuildOptions, body: AsyncIterator[bytes],
                      progress: Callable[[ProgressMessage], None]) -> None:
        """Build as the classic endpoint does."""
        await self._classic.build(options, body, progress)

    def cancel(self, build_id: str) -> None:
        """Cancel a classic build."""
        self._classic.cancel(build_id)

    async def converse(self, connection: socket.socket, request: bytes) -> None:
        """Do one build of ``pallet build``."""
        await self._own.converse(connection, request)

    async def prune(self, options: BuildPruneOptions) -> BuildPruneResponse:
        """Remove cache records that no build uses."""
        return await cacheview.prune(self.builder.parts.keeper, options, self._age_of)

    async def cache(self) -> Sequence[BuildCacheRecord]:
        """List the cache."""
        return cacheview.records(self.builder.parts.keeper)

    def check_shell(self, state: str) -> None:
        """See whether a failed step is kept.

        Raises:
            NotFoundError: it is not.
        """
        if self.builder.parts.failed.step(state) is None:
            message = f"the failed step {state[:12]} is not kept any more"
            raise NotFoundError(message)

    async def shell(self, state: str, connection: socket.socket, *, tty: bool, size: tuple[int, int]) -> None:
        """Run a shell in a failed step, and give the step up at its end."""
        failed = self.builder.parts.failed
        step = failed.step(state)
        words = step.args if step is not None else ()
        # The shell form's own shell; a command without one gets the usual.
        shell = words[0] if len(words) > 2 and words[1].startswith("-") else "/bin/sh"
        try:
            await failed.shell(state, [shell], connection, tty=tty, size=size)
        except PalletError as error:
            # The reply's head is out: the client hears of it as the shell's own words.
            text = f"{error}\r\n".encode()
            with suppress(OSError):
                connection.send(text if tty else streams.frame(streams.STDERR, text))
        finally:
            connection.close()  # nobody's if the shell did not come up
            await asyncio.shield(failed.drop(state))
