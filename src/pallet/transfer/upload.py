"""Uploading one blob: is it there, can it be mounted, otherwise send it.

Owns   the order of checks, the retries of an upload and where a broken one goes on.
Runs   in a transfer thread; blocks.
Needs  a ``RepositoryClient`` with push scope and the blob's file.
Spec   distribution-spec "Pushing blobs" (POST then PUT; chunks), "Mounting a blob from another
       repository", "Resuming an upload".

A blob is first sent in one piece, which every registry takes. After a broken transfer the session
is asked how far it came and the rest goes in chunks, so that each one that arrived counts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pallet.transfer.failures import RefusedError, RegistryError

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pallet.transfer.cancellation import Cancellation
    from pallet.transfer.client import RepositoryClient
    from pallet.transfer.packing import PackedBlob
    from pallet.transfer.retry import Retries
    from pallet.types import Digest

CHUNK_BYTES = 16 << 20
_SMALL_BYTES = 100 << 10
_MEDIUM_BYTES = 10 << 20


class Outcome(Enum):
    """How a blob got to the registry."""

    EXISTED = "Layer already exists"
    MOUNTED = "Mounted from"
    SENT = "Pushed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """What surrounds an upload: ``on_bytes`` gets the bytes sent so far."""

    retries: Retries
    cancel: Cancellation
    on_bytes: Callable[[int], None]


def mount_attempts(size_bytes: int) -> int:
    """Repositories worth trying as a mount's source: the larger the blob, the more."""
    if size_bytes > _MEDIUM_BYTES:
        return 4
    return 3 if size_bytes > _SMALL_BYTES else 1


def find(client: RepositoryClient, digest: Digest, size_bytes: int,
         sources: Sequence[str]) -> tuple[Outcome | None, str]:
    """Whether the blob is in the repository or can be mounted there, and from where.

    With no outcome it must be sent; the text is then the URL of a session that was opened, or "".

    Raises:
        RegistryError: the registry does not say.
    """
    if client.has_blob(digest):
        return Outcome.EXISTED, ""
    location: str | None = ""
    for source in sources[:mount_attempts(size_bytes)]:
        if location:
            client.cancel_upload(location)
        try:
            location = client.start_upload(mount=digest, source=source)
        except RefusedError as error:
            if error.retry:
                raise
            location = ""  # no access to the source is no reason not to push
        if location is None:
            return Outcome.MOUNTED, source
    return None, location or ""


def upload(
    client: RepositoryClient, digest: Digest, path: Path, *, sources: Sequence[str],
    attempts: Attempts,
) -> tuple[Outcome, str]:
    """Make sure that the repository has the blob; how it got there, and the mount's source.

    Args:
        sources: paths of repositories on the same registry that may have the blob.

    Raises:
        RegistryError: the attempts are used up, or a refusal that no retry can mend.
        CancelledRequestError: cancelled.
    """
    return _BlobUpload(client, digest, path, sources, attempts).run()


def upload_packed(client: RepositoryClient, blob: PackedBlob, *, attempts: Attempts) -> Outcome:
    """Send a layer while it is being compressed; its digest is known at the end.

    Raises:
        RegistryError, CancelledRequestError: as ``upload``.
    """
    try:
        location = client.start_upload() or ""
        location = client.send_chunk(location, _Watched(blob, attempts), None, None)
        client.finish_upload(location, blob.digest, None, 0)
    except RegistryError as error:
        attempts.cancel.check()
        attempts.retries.failed(error, progressed=False)
    else:
        return Outcome.SENT
    # What is left is compressed now: from here it is a blob like any other.
    while blob.grow():
        attempts.cancel.check()
    return upload(client, blob.digest, blob.path, sources=(), attempts=attempts)[0]


class _BlobUpload:
    """One blob on its way; ``_location`` is the session's URL, ``_offset`` what it has for sure."""

    def __init__(self, client: RepositoryClient, digest: Digest, path: Path,
                 sources: Sequence[str], attempts: Attempts) -> None:
        self._client = client
        self._digest = digest
        self._path = path
        self._sources = sources
        self._attempts = attempts
        self._size = path.stat().st_size
        self._location: str | None = None
        self._offset = 0
        self._broken = False

    def run(self) -> tuple[Outcome, str]:
        """Try until it is there or the attempts are used up."""
        while True:
            self._attempts.cancel.check()
            before = self._offset
            try:
                return self._attempt()
            except RegistryError as error:
                self._attempts.cancel.check()
                if self._broken and isinstance(error, RefusedError) and 400 <= error.status < 500:
                    # The session and we disagree about what it has: from the start, once more.
                    error.retry = error.retry or self._location is not None
                    self._location = None
                self._broken = True
                self._attempts.retries.failed(error, progressed=self._offset > before)

    def _attempt(self) -> tuple[Outcome, str]:
        if self._broken and self._location is not None:
            self._ask()
        if self._location is None:
            self._offset = 0
            outcome, text = find(self._client, self._digest, self._size, self._sources)
            if outcome is not None:
                return outcome, text
            self._location = text or self._client.start_upload()
        assert self._location is not None
        with self._path.open("rb", buffering=0) as file:
            body = _Watched(file, self._attempts)
            if self._broken:
                self._send_chunks(body)
                self._client.finish_upload(self._location, self._digest, None, 0)
            else:
                self._client.finish_upload(self._location, self._digest, body, self._size)
        return Outcome.SENT, ""

    def _ask(self) -> None:
        """Learn how far the session came; without an answer to that a new one is begun."""
        assert self._location is not None
        try:
            self._location, self._offset = self._client.upload_status(self._location)
        except RefusedError as error:
            if error.retry:
                raise
            self._location = None

    def _send_chunks(self, body: _Watched) -> None:
        while self._offset < self._size:
            assert self._location is not None
            end = min(self._offset + CHUNK_BYTES, self._size)
            body.limit(self._offset, end)
            self._location = self._client.send_chunk(
                self._location, body, self._offset, end - self._offset)
            self._offset = end


class _Watched:
    """A file that counts what is read from it and stops when cancelled."""

    def __init__(self, source: io.FileIO | PackedBlob, attempts: Attempts) -> None:
        self._source = source
        self._attempts = attempts
        self._position = 0
        self._end: int | None = None

    def limit(self, start: int, end: int) -> None:
        """Go to ``start`` and end at ``end``."""
        self._position = self._source.seek(start)
        self._end = end

    def read(self, size: int = -1, /) -> bytes:
        """Read and count."""
        self._attempts.cancel.check()
        if self._end is not None:
            left = self._end - self._position
            size = left if size < 0 else min(size, left)
        data = self._source.read(size)
        self._position += len(data)
        self._attempts.on_bytes(self._position)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move, and count from there."""
        self._position = self._source.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position
