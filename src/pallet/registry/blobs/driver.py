"""Where blob content lies: the Protocol that storage drivers implement.

Owns   the promises between the registry and its storage; ``tests/contract/test_blob_drivers.py``
       checks them on every driver.
Runs   in the server's threads; every method may block and may be called from any thread.
Needs  nothing.

A driver stores *objects* under *locations*. A location holds the upload session's id, so it is used
once and never again: what is deleted there cannot be what somebody else just pushed. Which digest
lies where is known to the metadata alone. A session's content comes as *segments*, each written by
one process; what a session has is the list of pieces in its record, and bytes beyond that are not
part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pallet.registry.messages import FileRange, Stream
    from pallet.types import Digest

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """The client gets the content there by itself (307)."""

    url: str


class Piece(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Part of an upload that is stored; kept in the session's record, in order."""

    key: str
    """The file of the segment, or the number of the part."""
    size: int
    etag: str = ""
    """What the object store answered for the part."""
    tail: bool = False
    """Too small to be a part: an object of its own until more comes."""


class UploadState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a driver has of an upload; opaque to everybody else."""

    upload_id: str
    token: str = ""
    """The object store's name of the multipart upload."""
    pieces: tuple[Piece, ...] = ()
    digest: str = ""
    """Of all pieces, where the process that stored the last one knew it; kept by ``uploads.py``."""

    @property
    def size(self) -> int:
        """Bytes that belong to the upload."""
        return sum(piece.size for piece in self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One object found by ``objects``."""

    location: str
    size: int
    modified_at: float
    """Seconds since the epoch."""
    upload_id: str
    """The session that wrote it; "" for content of an older layout."""


class BlobDriver(Protocol):
    """Storage of content."""

    name: str

    def append(self, state: UploadState, data: Iterable[bytes], *, writer: str) -> UploadState:
        """Store more of an upload, in constant memory, and return what it has then.

        What arrived before ``data`` raised is lost to the session, which keeps its old state.

        Args:
            state: as recorded.
            writer: this process and session; it alone continues the segments it began.

        Raises:
            UploadBrokenError: what was recorded is gone; so may FileNotFoundError.
        """
        ...

    def finish(self, state: UploadState, digest: Digest) -> str:
        """Make an object of an upload, durable; return its location (``location_of``).

        Idempotent: a second call, after a kill at any point of the first, ends the same.

        Raises:
            UploadBrokenError: pieces are missing or not what was recorded.
        """
        ...

    def adopt(self, file: Path, upload_id: str, digest: Digest) -> str:
        """Make an object of a whole file, durable; return its location. The file may be gone then."""
        ...

    def location_of(self, upload_id: str, digest: Digest) -> str:
        """Where ``finish`` puts the object."""
        ...

    def discard(self, upload_id: str) -> None:
        """Drop everything of an upload but a finished object. Idempotent."""
        ...

    def read_upload(self, state: UploadState) -> Iterator[bytes]:
        """Content of an unfinished upload; raises UploadBrokenError when it can no longer be read."""
        ...

    def size(self, location: str) -> int | None:
        """Bytes of an object; None when there is none."""
        ...

    def read(self, location: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Content of an object in chunks; FileNotFoundError when there is none."""
        ...

    def body(self, location: str, offset: int, length: int) -> FileRange | Stream | Redirect:
        """The same as a reply's body: a file for sendfile, a URL to redirect to, or a stream."""
        ...

    def delete(self, location: str) -> None:
        """Remove an object. Idempotent."""
        ...

    def objects(self) -> Iterator[StoredObject]:
        """Every finished object."""
        ...

    def uploads(self) -> Iterator[tuple[str, float]]:
        """Id and last change of every upload that has anything stored."""
        ...

    def free_bytes(self) -> int | None:
        """Bytes that may still be written; None when there is no such limit."""
        ...

    def is_away(self, error: Exception) -> bool:
        """Whether ``error`` says that the storage cannot be reached."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class UploadBrokenError(Exception):
    """An upload's stored pieces are not what its record says."""
