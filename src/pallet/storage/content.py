"""The content store: blobs by digest, exactly as they came.

Owns   ``content/blobs`` and ``content/ingest`` below the data root.
Runs   in the daemon's worker threads (hashing and writing release the interpreter lock).
Needs  blobs and ingest on one file system, for the rename.
Spec   image-spec descriptor.md#digests, image-layout.md#blobs.

A blob is written to ``ingest/<n>``, hashed on the way, fsynced, and renamed to its digest: a file
under ``blobs`` is always whole and always what its name says. It is never written again. The one
exception is a layer's blob that is committed with ``durable`` false while its layer comes in: the
sync that makes the layer durable covers it. Until then a power cut may damage it; the layer is then
dropped too, and who unpacks the blob again finds out by its digest (``heal``).
"""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from typing import TYPE_CHECKING

from pallet.errors import DataLossError, NotFoundError
from pallet.spec import digest as digests
from pallet.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from hashlib import _Hash
    from pathlib import Path
    from typing import Self

    from pallet.paths import DataPaths


_READ_BYTES = 1 << 20


class BlobNotFoundError(NotFoundError):
    """The store has no blob of this digest."""


class DigestMismatchError(DataLossError):
    """The bytes are not what their digest says."""


class Ingest:
    """A blob on its way in. Used by one thread at a time; ``path`` may be read while it grows.

    As a context manager it aborts unless ``commit`` was called.
    """

    def __init__(self, store: ContentStore, path: Path, expected: Digest | None) -> None:
        self.path = path
        self.size = 0
        """Bytes written so far: where a broken transfer is resumed."""
        self._store = store
        self._expected = expected
        self._hash: _Hash = digests.hasher(
            digests.algorithm(expected) if expected is not None else "sha256")
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def fileno(self) -> int:
        """The file being written, open for reading too (``pread`` it: the offset is the writer's)."""
        return self._fd

    def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Append ``chunk``, hash it, and return the new size.

        Raises:
            OSError: the disk is full or broken.
        """
        view = memoryview(chunk)
        while view:
            written = os.write(self._fd, view)
            self._hash.update(view[:written])
            self.size += written
            view = view[written:]
        return self.size

    def adopt(self, size_bytes: int) -> None:
        """Take in what another process has written into the file, from its beginning.

        Raises:
            DigestMismatchError: it is not as long as that.
        """
        self._forget()
        while data := os.pread(self._fd, _READ_BYTES, self.size):
            self._hash.update(data)
            self.size += len(data)
        if self.size != size_bytes:
            message = f"unexpected size: {self.size} bytes instead of {size_bytes}"
            raise DigestMismatchError(message)

    def _forget(self) -> None:
        """Forget what was hashed; the file stays."""
        self.size = 0
        self._hash = digests.hasher(self._hash.name)

    def restart(self) -> None:
        """Drop what was written, for a server that cannot resume. Readers must be gone."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._forget()

    @property
    def algorithm(self) -> str:
        """What names the blob, as in a digest."""
        return self._hash.name

    @property
    def digest(self) -> Digest:
        """Digest of what was written so far."""
        return digests.from_hasher(self._hash)

    def commit(self, *, durable: bool = True) -> Digest:
        """Verify, make durable and publish the blob; return its digest. Closes the ingest.

        Args:
            durable: False leaves the sync to the layer that is committed after this.

        Raises:
            DigestMismatchError: not the expected digest; nothing is kept.
            OSError: the disk refused; nothing is kept.
        """
        actual = self.digest
        try:
            if self._expected is not None and actual != self._expected:
                message = (f"filesystem layer verification failed for digest {self._expected}"
                           f": got {actual}")
                raise DigestMismatchError(message)
            self._store.publish(self._fd, self.path, actual, durable=durable)
        except BaseException:
            self.abort()
            raise
        self._close()
        return actual

    def replace(self) -> Digest:
        """Like ``commit``, in place of a damaged blob of the same digest.

        Raises:
            DigestMismatchError: not the expected digest; the old file stays.
        """
        actual = self.digest
        if self._expected is None or actual == self._expected:
            self._store.delete(actual)
        return self.commit()

    def abort(self) -> None:
        """Drop the ingest. Idempotent, and nothing after a commit."""
        if self._fd >= 0:
            self._close()
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.abort()


class ContentStore:
    """Blobs of one data root."""

    def __init__(self, paths: DataPaths) -> None:
        self._blobs = paths.blobs
        self._ingest = paths.ingest
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._known_dirs: set[str] = set()
        self._ingest.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._blobs.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, digest: Digest) -> Path:
        """Where the blob is or would be. ``digest`` was checked by whoever made it a ``Digest``."""
        return self._blobs / digests.algorithm(digest) / digests.encoded(digest)

    def has(self, digest: Digest) -> bool:
        """Whether the whole blob is here."""
        return self.path(digest).is_file()

    def size(self, digest: Digest) -> int:
        """Bytes of a blob.

        Raises:
            BlobNotFoundError: it is not here.
        """
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def open(self, digest: Digest) -> int:
        """Open a blob for reading; the caller closes the fd.

        Raises:
            BlobNotFoundError: it is not here.
        """
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def read(self, digest: Digest, *, verify: bool = False) -> bytes:
        """Return a small blob (a manifest or a config) whole.

        Raises:
            BlobNotFoundError: it is not here.
            DigestMismatchError: with ``verify``, when the disk returned other bytes.
        """
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError as error:
            raise _missing(digest) from error
        if verify and digests.of_bytes(data, digests.algorithm(digest)) != digest:
            message = f"content {digest} is damaged on disk"
            raise DigestMismatchError(message)
        return data

    def head(self, digest: Digest, size: int) -> bytes:
        """Return the first ``size`` bytes of a blob, ``b""`` when it is not here."""
        try:
            with open(self.path(digest), "rb", buffering=0) as file:
                return file.read(size)
        except FileNotFoundError:
            return b""

    def put(self, data: bytes, expected: Digest | None = None) -> Digest:
        """Store a small blob in one call. Nothing is written when it is already here.

        Raises:
            DigestMismatchError: ``data`` does not match ``expected``.
        """
        actual = digests.of_bytes(data, digests.algorithm(expected) if expected else "sha256")
        if (expected is None or actual == expected) and self.has(actual):
            return actual
        with self.ingest(expected or actual) as ingest:
            ingest.write(data)
            return ingest.commit()

    def ingest(self, expected: Digest | None = None) -> Ingest:
        """Begin a blob; ``expected`` None accepts any content and names it by sha256.

        Several ingests of one digest may run at the same time: the last rename wins and both
        succeed.
        """
        return Ingest(self, self._ingest / f"{os.getpid()}-{next(self._numbers)}", expected)

    def publish(self, fd: int, path: Path, digest: Digest, *, durable: bool) -> None:
        """Give a verified ingest file its digest's name. Only ``Ingest.commit`` calls it."""
        target = self.path(digest)
        if target.exists():
            path.unlink()
            return
        directory = target.parent
        if str(directory) not in self._known_dirs:
            with self._lock:
                directory.mkdir(exist_ok=True, mode=0o700)
                _fsync_directory(self._blobs)
                self._known_dirs.add(str(directory))
        if durable:
            os.fdatasync(fd)
        path.rename(target)
        if durable:
            _fsync_directory(directory)

    def heal(self, digest: Digest) -> bool:
        """Remove a blob if it is not what its name says. Whether it was sound."""
        if self.verify(digest):
            return True
        self.delete(digest)
        return False

    def verify(self, digest: Digest) -> bool:
        """Read a blob through: whether it is what its name says.

        Raises:
            BlobNotFoundError: it is not here.
            OSError: the disk does not give it back.
        """
        state = digests.hasher(digests.algorithm(digest))
        fd = self.open(digest)
        try:
            while chunk := os.read(fd, _READ_BYTES):
                state.update(chunk)
        finally:
            os.close(fd)
        return digests.from_hasher(state) == digest

    def delete(self, digest: Digest) -> int:
        """Remove a blob and return the bytes it had, 0 when it was not here. Idempotent."""
        gone = self.detach(digest)
        if gone is None:
            return 0
        size = gone.stat().st_size
        gone.unlink()
        return size

    def detach(self, digest: Digest) -> Path | None:
        """Take a blob out of the store by a rename; the caller unlinks the path it gets.

        Unlinking a large file takes milliseconds, a rename does not: this is for those who hold a
        lock. None when the blob is not here.
        """
        target = self._ingest / f"{os.getpid()}-{next(self._numbers)}"
        try:
            os.rename(self.path(digest), target)
        except FileNotFoundError:
            return None
        return target

    def walk(self) -> Iterator[tuple[Digest, int]]:
        """Yield ``(digest, size)`` of every blob."""
        for algorithm in sorted(digests.HEX_LENGTH):
            try:
                entries = os.scandir(self._blobs / algorithm)
            except FileNotFoundError:
                continue
            with entries:
                for entry in entries:
                    try:
                        yield Digest(f"{algorithm}:{entry.name}"), entry.stat().st_size
                    except FileNotFoundError:
                        continue  # deleted while we walk

    def sweep(self) -> int:
        """Remove what an earlier daemon left in ``ingest``; return how many. At start-up only."""
        removed = 0
        with os.scandir(self._ingest) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
                removed += 1
        return removed


def _missing(digest: Digest) -> BlobNotFoundError:
    return BlobNotFoundError(f"content digest {digest}: not found")


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
