"""What the API asks about containers' files: ``backends.py`` bundles it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pallet.spec.engine.archive import PathStat
    from pallet.spec.engine.options import CommitOptions, Stream


class ArchiveBackend(Protocol):
    """Single files of containers (``docker cp``)."""

    async def stat(self, name_or_id: str, path: str) -> PathStat:
        """Describe the file at ``path``; a symlink itself unless a slash follows.

        Raises:
            NotFoundError: "Could not find the file x in container y".
        """
        ...

    async def get(self, name_or_id: str, path: str) -> Stream[bytes]:
        """Open a tar of the file or directory, with the name it has there."""
        ...

    async def put(
        self, name_or_id: str, path: str, source: AsyncIterator[bytes], *, keep_kinds: bool,
        as_user: bool,
    ) -> None:
        """Unpack a tar into the directory ``path``.

        Args:
            keep_kinds: refuse to replace a directory by something else, and the other way round.
            as_user: everything is to belong to the container's user.

        Raises:
            InvalidParameterError: no directory, read-only, or an archive that cannot be.
            NotFoundError: "Could not find the file x in container y".
        """
        ...


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
