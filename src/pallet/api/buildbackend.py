"""What the API's own build routes ask of the builder; BuildKit's door: ``buildkitbackend.py``.

Owns   the Protocol ``BuildBackend``; ``backends.py`` bundles it.
Runs   every method on the daemon's event loop. The rules of ``backends.py`` hold here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Sequence

    from pallet.spec.engine.build import BuildCacheRecord, BuildOptions, BuildPruneOptions
    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.engine.prune import BuildPruneResponse


class BuildBackend(Protocol):
    """Builds and their cache."""

    async def classic(
        self, options: BuildOptions, body: AsyncIterator[bytes],
        progress: Callable[[ProgressMessage], None],
    ) -> None:
        """Build as the classic endpoint does; ``progress`` as in ``ImageBackend.pull``.

        Cancelled when the client goes away.

        Raises:
            InvalidParameterError: the Dockerfile or an option, in Docker's words.
            SystemFailureError: a step failed.
        """
        ...

    def cancel(self, build_id: str) -> None:
        """Cancel the classic build of that id; an unknown one is no error."""
        ...

    async def prune(self, options: BuildPruneOptions) -> BuildPruneResponse:
        """Remove cache records that no build uses."""
        ...

    async def cache(self) -> Sequence[BuildCacheRecord]:
        """List the cache, as ``docker system df -v`` and ``builder du`` show it."""
        ...

    async def converse(self, connection: socket.socket, request: bytes) -> None:
        """Do one build of ``pallet build`` over a hijacked connection; returns at its end.

        Args:
            connection: non-blocking; it is the builder's from here on.
            request: JSON of ``spec.own.build.BuildCall``.
        """
        ...

    def check_shell(self, state: str) -> None:
        """See whether a failed step is kept.

        Raises:
            NotFoundError: it is not.
        """
        ...

    async def shell(self, state: str, connection: socket.socket, *, tty: bool, size: tuple[int, int]) -> None:
        """Run a shell in a failed step, and give the step up at its end."""
        ...
