"""Upload sessions: blobs on their way in, in chunks, in one piece or as a stream.

Owns   the rules by which requests on any replica go on with an upload. A session's record says which
       stored pieces belong to it; a request claims an epoch, stores, and records its pieces only if
       no newer epoch has begun: a request that hangs on one replica cannot spoil its retry on another.
Runs   in the server's threads.
Needs  a ``BlobDriver`` and the metadata.
Spec   distribution-spec "Pushing blobs": POST, PATCH, PUT, GET, DELETE of a session.

Digests: SHA-2 states of hashlib cannot be stored, so a process remembers the state after each chunk
it recorded, and records the digest so far. Whoever ends an upload compares that; only when chunks came
over several processes the finished object is read back and hashed before anybody can see it.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import msgspec

from pallet.registry.blobs.driver import CHUNK_BYTES, UploadBrokenError, UploadState
from pallet.registry.codes import RegistryHttpError
from pallet.registry.metadata.records import BlobRecord, UploadRecord
from pallet.spec import digest as digests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from hashlib import _Hash
    from pathlib import Path

    from pallet.registry.blobs.driver import BlobDriver
    from pallet.registry.metadata.open import MetadataStore
    from pallet.types import Digest

_SEVERAL = "*"
_STATES = msgspec.json.Decoder(UploadState)
_MAX_REMEMBERED = 4096


class Source(Protocol):
    """A request's body."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, b"" at the end."""
        ...


class Upload:
    """A session as one request sees it. Use it under ``lock``."""

    def __init__(self, uploads: Uploads, record: UploadRecord, lock: threading.Lock) -> None:
        self._uploads = uploads
        self.record = record
        self.lock = lock

    @property
    def size(self) -> int:
        """Bytes recorded."""
        return self.record.size

    def append(self, body: Source) -> None:
        """Take in a body; all of it or, when the connection breaks, nothing.

        Raises:
            RegistryHttpError: BLOB_UPLOAD_UNKNOWN, BLOB_UPLOAD_INVALID (another request went on).
        """
        first = body.read(CHUNK_BYTES)
        if first:
            self.record = self._uploads.append(self.record, first, body)

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
        return {"Location": f"/v2/{self.record.repository}/blobs/uploads/{self.record.id}",
                "Range": f"0-{max(self.size - 1, 0)}", "Docker-Upload-UUID": self.record.id}

    def finish(self, digest: Digest) -> None:
        """Verify, make durable and publish the blob in the session's repository.

        Raises:
            RegistryHttpError: DIGEST_INVALID (the session is over all the same),
                BLOB_UPLOAD_UNKNOWN, BLOB_UPLOAD_INVALID.
        """
        self._uploads.finish(self.record, digest)

    def discard(self) -> None:
        """Drop the session and what came. Idempotent."""
        self._uploads.drop(self.record)


class Uploads:
    """Every open session; replicas see the same ones."""

    def __init__(self, driver: BlobDriver, metadata: MetadataStore) -> None:
        self._driver = driver
        self._metadata = metadata
        self._process = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._hashes: dict[str, tuple[int, _Hash]] = {}

    def begin(self, name: str, algorithm: str = "sha256") -> Upload:
        """Open a session in repository ``name``."""
        record = self._metadata.uploads.begin(secrets.token_hex(16), name, algorithm)
        self._remember(record.id, 0, digests.hasher(algorithm))
        return self._handle(record)

    def get(self, name: str, upload_id: str) -> Upload:
        """Find a session.

        Raises:
            RegistryHttpError: BLOB_UPLOAD_UNKNOWN.
        """
        record = self._metadata.uploads.get(upload_id)
        if record is None or record.repository != name:
            raise RegistryHttpError("BLOB_UPLOAD_UNKNOWN", upload_id)
        return self._handle(record)

    def _handle(self, record: UploadRecord) -> Upload:
        with self._lock:
            lock = self._locks.setdefault(record.id, threading.Lock())
            if len(self._locks) > _MAX_REMEMBERED:
                for upload_id in [key for key, held in self._locks.items() if not held.locked()]:
                    if upload_id != record.id:
                        del self._locks[upload_id]
        return Upload(self, record, lock)

    def _claim(self, record: UploadRecord, digest: str = "") -> UploadRecord:
        claimed = self._metadata.uploads.claim(record.id, digest)
        if claimed is None:
            raise RegistryHttpError("BLOB_UPLOAD_UNKNOWN", record.id)
        if claimed.size != record.size:
            raise RegistryHttpError("BLOB_UPLOAD_INVALID", "another request wrote to this upload")
        if claimed.digest and not digest:
            raise RegistryHttpError("BLOB_UPLOAD_INVALID", "the upload is being finished")
        return claimed

    def append(self, record: UploadRecord, first: bytes, body: Source) -> UploadRecord:
        """Store ``first`` and the rest of ``body``; see ``Upload.append``."""
        record = self._claim(record)
        with self._lock:
            size, state = self._hashes.pop(record.id, (-1, None))
        if record.size == 0:  # begun in any process
            size, state = 0, digests.hasher(record.algorithm)
        # A copy: what comes of a request that breaks off must not stay in the hash.
        hasher = state.copy() if state is not None and size == record.size else None

        def chunks() -> Iterator[bytes]:
            chunk = first
            while chunk:
                if hasher is not None:
                    hasher.update(chunk)
                yield chunk
                chunk = body.read(CHUNK_BYTES)

        try:
            stored = self._driver.append(_state(record), chunks(), writer=self._process)
        except (UploadBrokenError, FileNotFoundError) as error:  # dropped meanwhile
            raise RegistryHttpError("BLOB_UPLOAD_INVALID", str(error)) from error
        except BaseException:
            if state is not None and size == record.size:
                self._remember(record.id, size, state)
            raise
        if hasher is not None:
            stored = msgspec.structs.replace(stored, digest=digests.from_hasher(hasher))
        writer = self._process if record.writer in {"", self._process} else _SEVERAL
        if not self._metadata.uploads.record(record, size=stored.size, writer=writer,
                                             state=msgspec.json.encode(stored)):
            raise RegistryHttpError("BLOB_UPLOAD_INVALID", "another request wrote to this upload")
        if hasher is not None:
            self._remember(record.id, stored.size, hasher)
        return replace(record, size=stored.size, writer=writer,
                               state=msgspec.json.encode(stored))

    def _remember(self, upload_id: str, size: int, state: _Hash) -> None:
        with self._lock:
            self._hashes[upload_id] = (size, state)
            while len(self._hashes) > _MAX_REMEMBERED:
                del self._hashes[next(iter(self._hashes))]

    def finish(self, record: UploadRecord, digest: Digest) -> None:
        """See ``Upload.finish``."""
        if record.digest and record.digest != digest:
            raise RegistryHttpError("DIGEST_INVALID", {"digest": digest})
        with self._lock:
            size, state = self._hashes.pop(record.id, (-1, None))
        trusted = (state is not None and size == record.size
                   and record.writer in {"", self._process}
                   and digests.algorithm(digest) == state.name)
        if trusted and state is not None and digests.from_hasher(state) != digest:
            self.drop(record)
            raise RegistryHttpError("DIGEST_INVALID", {"digest": digest})
        # From here on the record says which object may exist, so that none is ever unaccounted for.
        record = self._claim(record, digest)
        trusted = trusted or _state(record).digest == digest
        try:
            location = self._driver.finish(_state(record), digest)
        except UploadBrokenError as error:
            raise RegistryHttpError("BLOB_UPLOAD_INVALID", str(error)) from error
        if not trusted and self._computed(location, digest) != digest:
            self.drop(record)
            raise RegistryHttpError("DIGEST_INVALID", {"digest": digest})
        self._publish(record, BlobRecord(digest=digest, size=record.size, location=location))

    def take(self, name: str, file: Path, size: int, digest: Digest) -> None:
        """Publish a file of so many bytes, which hashes to ``digest``, as a blob; the file may be gone then."""
        record = self._metadata.uploads.begin(secrets.token_hex(16), name, digests.algorithm(digest))
        record = self._claim(record, digest)
        location = self._driver.adopt(file, record.id, digest)
        self._publish(record, BlobRecord(digest=digest, size=size, location=location))

    def _publish(self, record: UploadRecord, wanted: BlobRecord) -> None:
        found = self._metadata.content.add_blob(record.repository, wanted, record)
        if found is None:
            raise RegistryHttpError("BLOB_UPLOAD_INVALID", "another request ends this upload")
        if found.location != wanted.location:
            self.drop(record)
        self._forget(record.id)

    def _computed(self, location: str, digest: Digest) -> Digest:
        state = digests.hasher(digests.algorithm(digest))
        for chunk in self._driver.read(location):
            state.update(chunk)
        return digests.from_hasher(state)

    def drop(self, record: UploadRecord) -> None:
        """Remove a session and everything stored for it, the record last. Idempotent."""
        current = self._metadata.uploads.claim(record.id)  # nobody records anything from here on
        if current is None:
            return
        self._driver.discard(record.id)
        if current.digest:
            self._driver.delete(self._driver.location_of(record.id, digests.parse(current.digest)))
        self._metadata.uploads.end(record.id)
        self._forget(record.id)

    def _forget(self, upload_id: str) -> None:
        with self._lock:
            self._locks.pop(upload_id, None)
            self._hashes.pop(upload_id, None)


def _state(record: UploadRecord) -> UploadState:
    return _STATES.decode(record.state) if record.state else UploadState(upload_id=record.id)
