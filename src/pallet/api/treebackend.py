"""What the API asks about containers' files: ``backends.py`` bundles it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pallet.spec.engine.options import CommitOptions, Stream


class TreeBackend(Protocol):
    """Containers' file systems. The rules of ``backends.py`` hold here too."""

    async def changes(self, name_or_id: str) -> bytes:
        """Return the list of FilesystemChange as JSON, ``null`` when nothing has changed."""
        ...

    async def export(self, name_or_id: str) -> Stream[bytes]:
        """Open a tar of the whole root, without volumes and other mounts.

        Raises:
            ConflictError: it is being removed.
        """
        ...

    async def commit(self, options: CommitOptions) -> str:
        """Make an image of a container and return its id.

        Raises:
            InvalidParameterError: a change or a name that cannot be.
            ConflictError: it is being removed.
            SystemFailureError: it could not be paused.
        """
        ...
