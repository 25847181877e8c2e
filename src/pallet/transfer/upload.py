"""Uploading one blob: is it there, can it be mounted, otherwise send it.

Owns   the order of checks and the retries of an upload.
Runs   in a transfer thread; blocks.
Needs  a ``RepositoryClient`` with push scope and the blob's file.
Spec   distribution-spec "Pushing blobs" (POST then PUT), "Mounting a blob from another repository".
"""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING

from pallet.transfer.failures import RegistryError

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pallet.transfer.client import RepositoryClient
    from pallet.transfer.retry import Retries
    from pallet.transfer.transport import Cancellation
    from pallet.types import Digest

_SMALL_BYTES = 100 << 10
_MEDIUM_BYTES = 10 << 20


class Outcome(Enum):
    """How a blob got to the registry."""

    EXISTED = "Layer already exists"
    MOUNTED = "Mounted from"
    SENT = "Pushed"


def mount_attempts(size_bytes: int) -> int:
    """Repositories worth trying as a mount's source: the larger the blob, the more."""
    if size_bytes > _MEDIUM_BYTES:
        return 4
    return 3 if size_bytes > _SMALL_BYTES else 1


def upload(
    client: RepositoryClient, digest: Digest, path: Path, *, sources: Sequence[str],
    retries: Retries, cancel: Cancellation, on_bytes: Callable[[int], None],
) -> tuple[Outcome, str]:
    """Make sure that the repository has the blob; how it got there, and the mount's source.

    Args:
        sources: paths of repositories on the same registry that may have the blob.
        on_bytes: called with the bytes sent so far.

    Raises:
        RegistryError: the attempts are used up, or a refusal that no retry can mend.
        CancelledRequestError: cancelled.
    """
    size = path.stat().st_size
    while True:
        cancel.check()
        try:
            if client.has_blob(digest):
                return Outcome.EXISTED, ""
            location, source = _open_session(client, digest, sources[:mount_attempts(size)])
            if location is None:
                return Outcome.MOUNTED, source
            with path.open("rb", buffering=0) as file:
                client.finish_upload(location, digest, _Watched(file, cancel, on_bytes), size)
            return Outcome.SENT, ""
        except RegistryError as error:
            cancel.check()
            retries.failed(error, progressed=False)


def _open_session(
    client: RepositoryClient, digest: Digest, sources: Sequence[str]
) -> tuple[str | None, str]:
    """Location to upload to, or None and the repository the blob was mounted from."""
    location: str | None = None
    for source in sources:
        location = client.start_upload(mount=digest, source=source)
        if location is None:
            return None, source
    return location or client.start_upload(), ""


class _Watched:
    """A file that counts what is read from it and stops when cancelled."""

    def __init__(self, source: io.FileIO, cancel: Cancellation,
                 on_bytes: Callable[[int], None]) -> None:
        self._source = source
        self._cancel = cancel
        self._on_bytes = on_bytes
        self._position = 0

    def read(self, size: int = -1, /) -> bytes:
        """Read and count."""
        self._cancel.check()
        data = self._source.read(size)
        self._position += len(data)
        self._on_bytes(self._position)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move, and count from there."""
        self._position = self._source.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position
