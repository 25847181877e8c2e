"""What the API asks about disk space: pruning, and Pallet's own calls under ``/pallet``.

Owns   the Protocols ``PruneBackend`` and ``DiskBackend``; ``backends.py`` bundles them.
Runs   every method on the daemon's event loop. The rules of ``backends.py`` hold here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pallet.spec.engine.auth import AuthConfig
    from pallet.spec.engine.filters import Filters
    from pallet.spec.engine.options import Stream
    from pallet.spec.engine.prune import ContainerPruneResponse, ImagePruneResponse
    from pallet.spec.own.disk import CheckMessage, StoreUsage


class PruneBackend(Protocol):
    """Pruning of containers and images; networks and volumes have their own."""

    async def containers(self, filters: Filters) -> ContainerPruneResponse:
        """Remove what does not run. Filter keys: label, label!, until.

        Raises:
            ConflictError: "a prune operation is already running".
            InvalidParameterError: a filter that cannot be read.
        """
        ...

    async def images(self, filters: Filters) -> ImagePruneResponse:
        """Remove what no container was made from. Filter keys: dangling, label, label!, until.

        Raises:
            ConflictError: "a prune operation is already running".
            InvalidParameterError: a filter that cannot be read.
        """
        ...


class DiskBackend(Protocol):
    """What Docker has no call for."""

    async def usage(self) -> StoreUsage:
        """Say what the store holds, and per image when it was used and whether it is pinned."""
        ...

    async def pin(self, name: str, *, pinned: bool) -> None:
        """Protect an image from eviction, or stop that.

        Raises:
            NotFoundError: "No such image: x:latest".
        """
        ...

    async def explore(self, name: str, *, entries: bool) -> Stream[bytes]:
        """Open the JSON document ``spec.own.explore.Exploration`` of an image.

        Args:
            entries: with every file, not only the sums.

        Raises:
            NotFoundError: no such image.
            DataLossError: a layer's blob is missing or damaged.
        """
        ...

    async def check(self, *, repair: bool, credentials: Mapping[str, AuthConfig],
                    report: Callable[[CheckMessage], None]) -> None:
        """Verify blobs, layers and records; ``report`` is called on the loop and never blocks.

        The last message carries the sums.

        Args:
            credentials: by registry, for what ``repair`` fetches.

        Raises:
            ConflictError: a check is running.
        """
        ...
