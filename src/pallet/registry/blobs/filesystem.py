"""Content on a file system.

```
<root>/
├── blobs/<algorithm>/<2 hex>/<hex>-<upload id>   objects, written once (older: blobs/<algorithm>/<hex>)
└── uploads/<upload id>/<segment>                 uploads; a segment is written by one process
```

Owns   that tree.
Runs   in the server's threads.
Needs  a file system with atomic rename; replicas on several hosts need it shared.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from pallet.registry.blobs.driver import CHUNK_BYTES, Piece, StoredObject, UploadBrokenError, UploadState
from pallet.registry.messages import FileRange
from pallet.spec import digest as digests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pallet.types import Digest

_OBJECT = re.compile(r"[0-9a-f]{64,128}(?:-(?P<upload>[0-9a-f]{32}))?")


class FileSystemDriver:
    """``BlobDriver`` below a directory."""

    name = "filesystem"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = root / "blobs"
        self._uploads = root / "uploads"
        for directory in (self._blobs, self._uploads):
            directory.mkdir(parents=True, exist_ok=True)

    def append(self, state: UploadState, data: Iterable[bytes], *, writer: str) -> UploadState:
        """See ``BlobDriver``."""
        directory = self._uploads / state.upload_id
        directory.mkdir(exist_ok=True)
        pieces = state.pieces
        # Only the process that began a segment goes on with it: nobody can write into another's.
        if pieces and pieces[-1].key.endswith(f"-{writer}"):
            last, pieces = pieces[-1], pieces[:-1]
        else:
            last = Piece(key=f"{len(pieces):06}-{writer}", size=0)
        size = last.size
        fd = os.open(directory / last.key, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(fd, size)
            os.lseek(fd, size, os.SEEK_SET)
            for chunk in data:
                view = memoryview(chunk)
                while view:
                    written = os.write(fd, view)
                    view = view[written:]
                    size += written
        except BaseException:
            os.ftruncate(fd, last.size)  # gives back the room, which may be what there was too little of
            raise
        finally:
            os.close(fd)
        return UploadState(upload_id=state.upload_id,
                           pieces=(*pieces, Piece(key=last.key, size=size)))

    def finish(self, state: UploadState, digest: Digest) -> str:
        """See ``BlobDriver``."""
        location = self.location_of(state.upload_id, digest)
        target = self._root / location
        if target.exists():
            self.discard(state.upload_id)
            return location
        directory = self._uploads / state.upload_id
        directory.mkdir(exist_ok=True)
        if len(state.pieces) == 1:
            whole = directory / state.pieces[0].key
            fd = self._open_piece(state.upload_id, state.pieces[0], os.O_RDWR)
        else:
            # A name of its own: two requests may be ending this upload, on two hosts.
            whole = directory / f"whole-{secrets.token_hex(8)}"
            fd = os.open(whole, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            if len(state.pieces) != 1:
                for piece in state.pieces:
                    self._copy(state.upload_id, piece, fd)
            os.ftruncate(fd, state.size)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        self._place(whole, target)
        self.discard(state.upload_id)
        return location

    def _place(self, whole: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        whole.rename(target)
        _sync_directory(target.parent)

    def adopt(self, file: Path, upload_id: str, digest: Digest) -> str:
        """See ``BlobDriver``."""
        location = self.location_of(upload_id, digest)
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
        try:
            self._place(file, self._root / location)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with file.open("rb", buffering=0) as source:
                state = self.append(UploadState(upload_id=upload_id), _chunks(source.read, None), writer="")
            return self.finish(state, digest)
        return location

    def _open_piece(self, upload_id: str, piece: Piece, flags: int = os.O_RDONLY) -> int:
        try:
            fd = os.open(self._uploads / upload_id / piece.key, flags | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise UploadBrokenError(str(error)) from error
        if os.fstat(fd).st_size < piece.size:
            os.close(fd)
            message = f"{piece.key}: shorter than recorded"
            raise UploadBrokenError(message)
        return fd

    def _copy(self, upload_id: str, piece: Piece, target_fd: int) -> None:
        fd = self._open_piece(upload_id, piece)
        try:
            left = piece.size
            while left:
                copied = os.sendfile(target_fd, fd, None, min(left, 1 << 30))
                if not copied:
                    message = f"{piece.key}: ended early"
                    raise UploadBrokenError(message)
                left -= copied
        finally:
            os.close(fd)

    def location_of(self, upload_id: str, digest: Digest) -> str:
        """See ``BlobDriver``."""
        encoded = digests.encoded(digest)
        return f"blobs/{digests.algorithm(digest)}/{encoded[:2]}/{encoded}-{upload_id}"

    def discard(self, upload_id: str) -> None:
        """See ``BlobDriver``."""
        shutil.rmtree(self._uploads / upload_id, ignore_errors=True)

    def read_upload(self, state: UploadState) -> Iterator[bytes]:
        """See ``BlobDriver``."""
        for piece in state.pieces:
            fd = self._open_piece(state.upload_id, piece)
            with open(fd, "rb", buffering=0) as file:
                yield from _chunks(file.read, piece.size)

    def size(self, location: str) -> int | None:
        """See ``BlobDriver``."""
        try:
            return (self._root / location).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, location: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See ``BlobDriver``."""
        with (self._root / location).open("rb", buffering=0) as file:
            file.seek(offset)
            yield from _chunks(file.read, length)

    def body(self, location: str, offset: int, length: int) -> FileRange:
        """See ``BlobDriver``."""
        return FileRange(path=self._root / location, offset=offset, length=length)

    def delete(self, location: str) -> None:
        """See ``BlobDriver``."""
        (self._root / location).unlink(missing_ok=True)

    def objects(self) -> Iterator[StoredObject]:
        """See ``BlobDriver``."""
        for directory, _, names in os.walk(self._blobs):
            for name in names:
                path = os.path.join(directory, name)
                with suppress(FileNotFoundError):
                    status = os.stat(path)
                    match = _OBJECT.fullmatch(name)
                    yield StoredObject(
                        location=os.path.relpath(path, self._root), size=status.st_size,
                        modified_at=status.st_mtime,
                        upload_id=(match and match["upload"]) or "")

    def uploads(self) -> Iterator[tuple[str, float]]:
        """See ``BlobDriver``."""
        with os.scandir(self._uploads) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_dir():
                        yield entry.name, entry.stat().st_mtime
                    else:  # a file of an older layout
                        os.unlink(entry.path)

    def free_bytes(self) -> int | None:
        """See ``BlobDriver``."""
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def is_away(self, error: Exception) -> bool:
        """See ``BlobDriver``."""
        return isinstance(error, OSError) and error.errno in {errno.ESTALE, errno.EIO}

    def close(self) -> None:
        """See ``BlobDriver``."""


def _chunks(read: Callable[[int], bytes | None], length: int | None) -> Iterator[bytes]:
    left = length
    while left is None or left > 0:
        chunk = read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
        if not chunk:
            return
        if left is not None:
            left -= len(chunk)
        yield chunk


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
