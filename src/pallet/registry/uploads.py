"""Upload sessions: blobs on their way in, in chunks, in one piece or as a stream.

Owns   the open sessions and their files under ``uploads/``.
Runs   in the server's threads; one request at a time a session.
Needs  ``RegistryStore``.
Spec   distribution-spec "Pushing blobs": POST, PATCH, PUT, GET, DELETE of a session.
"""

from __future__ import annotations

import os
import secrets
import threading
from typing import TYPE_CHECKING, Protocol

from pallet.registry.codes import RegistryHttpError
from pallet.spec import digest as digests

if TYPE_CHECKING:
    from hashlib import _Hash
    from pathlib import Path

    from pallet.registry.store import RegistryStore
    from pallet.types import Digest

_CHUNK_BYTES = 1 << 20


class Source(Protocol):
    """A request's body."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, b"" at the end."""
        ...


class Upload:
    """One session. Use its methods under ``lock``."""

    def __init__(self, upload_id: str, name: str, path: Path, algorithm: str) -> None:
        self.id = upload_id
        self.name = name
        self.lock = threading.Lock()
        self.size = 0
        self._path = path
        self._hash: _Hash = digests.hasher(algorithm)
        self._file = path.open("xb", buffering=0)

    def append(self, body: Source) -> None:
        """Take in a body. What arrived before a broken connection stays."""
        while chunk := body.read(_CHUNK_BYTES):
            view = memoryview(chunk)
            self._hash.update(view)
            while view:
                view = view[self._file.write(view):]
            self.size += len(chunk)

    def expect_start(self, content_range: str, length: int | None) -> None:
        """Check that a chunk continues where the session stands.

        Raises:
            RegistryHttpError: RANGE_INVALID, SIZE_INVALID.
        """
        first, _, last = content_range.removeprefix("bytes ").partition("/")[0].partition("-")
        if not (first.isdigit() and last.isdigit()):
            raise RegistryHttpError("RANGE_INVALID", content_range, headers=self.headers())
        if int(first) != self.size or int(last) < int(first) - 1:
            raise RegistryHttpError("RANGE_INVALID", content_range, headers=self.headers())
        if length is not None and int(last) - int(first) + 1 != length:
            raise RegistryHttpError("SIZE_INVALID", content_range, headers=self.headers())

    def headers(self) -> dict[str, str]:
        """Where to go on, and how much is there."""
        return {"Location": f"/v2/{self.name}/blobs/uploads/{self.id}",
                "Range": f"0-{max(self.size - 1, 0)}", "Docker-Upload-UUID": self.id}

    def finish(self, store: RegistryStore, digest: Digest) -> None:
        """Verify, make durable and publish the blob in the session's repository.

        Raises:
            RegistryHttpError: DIGEST_INVALID; the session is over all the same.
        """
        if self._computed(digest) != digest:
            self.discard()
            raise RegistryHttpError("DIGEST_INVALID", {"digest": digest})
        os.fdatasync(self._file.fileno())
        self._file.close()
        store.adopt(self._path, digest)
        store.link_blob(self.name, digest)

    def _computed(self, digest: Digest) -> Digest:
        """Digest of the content; read again when the session hashed with another algorithm."""
        if digests.algorithm(digest) == self._hash.name:
            return digests.from_hasher(self._hash)
        state = digests.hasher(digests.algorithm(digest))
        with self._path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                state.update(chunk)
        return digests.from_hasher(state)

    def discard(self) -> None:
        """Drop what came. Idempotent."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class Uploads:
    """Every open session of the server."""

    def __init__(self, store: RegistryStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._open: dict[str, Upload] = {}

    def begin(self, name: str, algorithm: str = "sha256") -> Upload:
        """Open a session in repository ``name``."""
        upload_id = secrets.token_hex(16)
        upload = Upload(upload_id, name, self._store.uploads / upload_id, algorithm)
        with self._lock:
            self._open[upload_id] = upload
        return upload

    def get(self, name: str, upload_id: str) -> Upload:
        """Find a session.

        Raises:
            RegistryHttpError: BLOB_UPLOAD_UNKNOWN.
        """
        with self._lock:
            upload = self._open.get(upload_id)
        if upload is None or upload.name != name:
            raise RegistryHttpError("BLOB_UPLOAD_UNKNOWN", upload_id)
        return upload

    def forget(self, upload: Upload) -> None:
        """Take a session that is over off the list."""
        with self._lock:
            self._open.pop(upload.id, None)

    def close(self) -> None:
        """Drop every session."""
        with self._lock:
            uploads, self._open = list(self._open.values()), {}
        for upload in uploads:
            upload.discard()
