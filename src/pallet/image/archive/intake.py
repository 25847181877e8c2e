"""Taking an archive apart while it arrives: documents to memory, layers to the content store.

Owns   the reading of the outer tar (plain or compressed) and the writing of blobs.
Runs   ``Intake.run`` in a thread of its own; ``Pieces.feed`` on the event loop.
Needs  a content store, a lease; whoever unpacks is told of each layer as its first bytes arrive.
Spec   as ``layout``. Nothing is unpacked by name: names only serve as keys.

An archive may bring its layers before it says what they are. So every file that looks like a layer
is stored and offered for unpacking at once; what no image of the archive turns out to need is
dropped by the collection that follows.
"""

from __future__ import annotations

import asyncio
import posixpath
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast
from zlib import adler32

from pallet.errors import (
    CancelledRequestError,
    DataLossError,
    InvalidParameterError,
    PalletError,
)
from pallet.image.archive import layout
from pallet.image.importer import Recoder
from pallet.layer import tarheader
from pallet.layer.model import ArchiveError
from pallet.layer.source import ByteStream, Source, chunks, detect
from pallet.spec import digest as digests
from pallet.storage.content import DigestMismatchError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pallet.storage.content import ContentStore, Ingest
    from pallet.storage.leases import Lease
    from pallet.types import DiffID, Digest

_BATCH_BYTES = 128 * 1024
_QUEUE_BYTES = 8 << 20
_MAX_DOCUMENT_BYTES = 8 << 20
_MAX_DOCUMENTS_BYTES = 64 << 20
_MAX_MEMBERS = 100_000
_NO_LIMIT = 1 << 62
_MAX_LINKS = 16
_EOF = "unexpected EOF"


class Pieces:
    """A stream between the event loop and a thread: bounded, either side may end it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._room = asyncio.Event()
        self._room.set()
        self._lock = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._broken = False
        self._current = memoryview(b"")

    async def feed(self, source: AsyncIterator[bytes]) -> None:
        """Pass everything on; returns early once the reader has given up."""
        batch: list[bytes] = []
        size = 0
        async for chunk in source:
            batch.append(chunk)
            size += len(chunk)
            if size >= _BATCH_BYTES:
                await self._put(batch[0] if len(batch) == 1 else b"".join(batch))
                batch, size = [], 0
        await self._put(b"".join(batch))
        with self._lock:
            self._ended = True
            self._lock.notify()

    async def _put(self, data: bytes) -> None:
        with self._lock:
            if data:
                self._queue.append(data)
                self._size += len(data)
                self._lock.notify()
            if self._size > _QUEUE_BYTES and not self._broken:
                self._room.clear()
        await self._room.wait()

    def cut(self) -> None:
        """Make the reader fail: the writer is gone."""
        with self._lock:
            self._broken = True
            self._lock.notify()

    def close(self) -> None:
        """Let the writer go on without a reader. Called by the reader's thread."""
        with self._lock:
            self._broken = True
            self._queue.clear()
            self._size = 0
        self._loop.call_soon_threadsafe(self._room.set)

    # What ``layer.source.chunks`` reads from.

    def peek(self, size: int) -> bytes:
        """Return up to ``size`` first bytes without consuming them; fewer only at the end."""
        while len(self._current) < size and (more := self._next()):
            self._current = memoryview(bytes(self._current) + more)
        return bytes(self._current[:size])

    def read(self, size: int = _BATCH_BYTES) -> bytes:
        """Return at most ``size`` bytes, b"" at the end.

        Who asks for a batch or more gets pieces as they came, uncopied and perhaps a little longer.

        Raises:
            CancelledRequestError: the writer gave up.
        """
        if not self._current:
            piece = self._next()
            if size >= _BATCH_BYTES:
                return piece
            self._current = memoryview(piece)
        data = bytes(self._current[:size])
        self._current = self._current[size:]
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """``read`` into ``buffer``."""
        data = self.read(min(len(buffer), _BATCH_BYTES - 1))
        memoryview(buffer)[:len(data)] = data
        return len(data)

    def _next(self) -> bytes:
        with self._lock:
            while not self._queue:
                if self._broken:
                    message = "the archive was not sent to its end"
                    raise CancelledRequestError(message)
                if self._ended:
                    return b""
                self._lock.wait()
            data = self._queue.popleft()
            self._size -= len(data)
            full = self._size > _QUEUE_BYTES // 2
        if not full and not self._room.is_set():
            self._loop.call_soon_threadsafe(self._room.set)
        return data


@dataclass(slots=True, eq=False)
class Arrival:
    """A file of the archive that looks like a layer. Filled by the intake's thread."""

    path: str
    size: int
    compression: str
    """Of the blob that is kept: ``none``, ``gzip`` or ``zstd``."""
    ingest: Ingest | None = None
    """None: the content store has this blob already."""
    digest: Digest | None = None
    """Of the blob that is kept; None until it has come whole."""
    names_tar: bool = False
    """The blob is the tar itself, so its digest will be the DiffID."""
    blob_bytes: int = 0
    diff_id: DiffID | None = None
    """Of its tar, once it was unpacked; set by whoever unpacks."""
    failure: PalletError | None = None
    """Why it was not."""


@dataclass(slots=True)
class Contents:
    """What an archive holds. Keys are clean paths."""

    documents: dict[str, bytes] = field(default_factory=dict)
    layers: dict[str, Arrival] = field(default_factory=dict)
    blobs: dict[str, Digest] = field(default_factory=dict)
    """Blobs that are neither documents nor layers."""
    links: dict[str, str] = field(default_factory=dict)

    def document(self, path: str) -> bytes | None:
        """A document by its path, links followed."""
        found = self.resolve(path)
        return self.documents.get(found) if found else None

    def layer(self, path: str) -> Arrival | None:
        """A layer by its path, links followed."""
        found = self.resolve(path)
        return self.layers.get(found) if found else None

    def resolve(self, path: str) -> str | None:
        """Follow links; None when they run in a circle."""
        path = clean(path)
        for _ in range(_MAX_LINKS):
            target = self.links.get(path)
            if target is None:
                return path
            path = target
        return None


class Intake:
    """One archive on its way in."""

    def __init__(self, content: ContentStore, lease: Lease, pieces: Pieces, *,
                 began: Callable[[Arrival], None], grew: Callable[[Arrival, int], None],
                 ended: Callable[[Arrival, int], None]) -> None:
        """Nothing is read yet.

        Args:
            began: told of each layer that is not here yet, before its first byte is written to
                ``ingest``; in the intake's thread, like the others.
            grew: told of the bytes that are in the file now.
            ended: told of all there are; the blob is in the store.
        """
        self.contents = Contents()
        self._content = content
        self._lease = lease
        self._pieces = pieces
        self._began = began
        self._grew = grew
        self._ended = ended
        self._document_bytes = 0

    def run(self) -> Contents:
        """Read to the end.

        Raises:
            ArchiveError: malformed, damaged or truncated.
            InvalidParameterError: a name leaves the archive, or there is too much of something.
            DigestMismatchError: a blob is not what its name says.
            OSError: the disk refused.
        """
        try:
            # What is written is bounded by the disk; what is skipped (blobs that are here) is not.
            stream = ByteStream(chunks(cast("Source", self._pieces), "auto"), _NO_LIMIT, hashed=False)
            reader = tarheader.TarReader(stream)
            count = 0
            while entry := reader.next():
                count += 1
                if count > _MAX_MEMBERS:
                    message = f"the archive has more than {_MAX_MEMBERS} files"
                    raise InvalidParameterError(message)
                self._take(entry, stream)
            stream.drain()
            return self.contents
        finally:
            self._pieces.close()

    def _take(self, entry: tarheader.Entry, stream: ByteStream) -> None:
        path = clean(entry.name.decode("utf-8", "surrogateescape"))
        if entry.type == tarheader.REGULAR and entry.sparse is None:
            self._forget(path)
            self._file(path, entry.size, stream)
        elif entry.type in (tarheader.SYMLINK, tarheader.HARDLINK):
            target = entry.link.decode("utf-8", "surrogateescape")
            if entry.type == tarheader.SYMLINK:
                target = posixpath.join(posixpath.dirname(path), target)
            self._forget(path)
            self.contents.links[path] = clean(target)

    def _forget(self, path: str) -> None:
        """A later member of the same name takes the place of the earlier one."""
        found = self.contents
        self._document_bytes -= len(found.documents.pop(path, b""))
        found.layers.pop(path, None)
        found.links.pop(path, None)

    def _file(self, path: str, size: int, stream: ByteStream) -> None:
        head = min(size, tarheader.BLOCK)
        if not stream.need(head):
            raise ArchiveError(_EOF)
        compression = _layer_kind(stream.data[stream.pos:stream.pos + head])
        expected = layout.blob_digest(path)
        if compression:
            self._layer(Arrival(path, size, compression), expected, stream)
        elif size <= _MAX_DOCUMENT_BYTES:
            self._document(path, size, expected, stream)
        elif expected is not None:
            self._blob(path, size, expected, stream)

    def _document(self, path: str, size: int, expected: Digest | None, stream: ByteStream) -> None:
        self._document_bytes += size
        if self._document_bytes > _MAX_DOCUMENTS_BYTES:
            message = f"the documents of the archive are larger than {_MAX_DOCUMENTS_BYTES} bytes"
            raise InvalidParameterError(message)
        data = stream.take(size)
        if expected is not None and digests.of_bytes(data, digests.algorithm(expected)) != expected:
            message = f"content of {path} does not match its digest"
            raise DigestMismatchError(message)
        self.contents.documents[path] = data

    def _blob(self, path: str, size: int, expected: Digest, stream: ByteStream) -> None:
        self._lease.add_blob(expected)
        if not self._content.has(expected):
            with self._content.ingest(expected) as ingest:
                for piece in _pieces(stream, size):
                    ingest.write(piece)
                ingest.commit()
        self.contents.blobs[path] = expected

    def _layer(self, arrival: Arrival, expected: Digest | None, stream: ByteStream) -> None:
        content = self._content
        if expected is not None:
            self._lease.add_blob(expected)
            if content.has(expected):
                arrival.digest, arrival.blob_bytes = expected, content.size(expected)
                self.contents.layers[arrival.path] = arrival
                return
        with content.ingest(expected) as ingest:
            # Registries take neither bzip2 nor xz: those become gzip.
            recoder = Recoder(ingest) if arrival.compression in ("bzip2", "xz") else None
            arrival.ingest = ingest
            arrival.names_tar = arrival.compression == "none" and ingest.algorithm == "sha256"
            self._began(arrival)
            for piece in _pieces(stream, arrival.size):
                self._grew(arrival, recoder.write(bytes(piece)) if recoder else ingest.write(piece))
            if recoder:
                recoder.finish()
                arrival.compression = "gzip"
            arrival.digest, arrival.blob_bytes = ingest.digest, ingest.size
            if expected is None:
                self._lease.add_blob(ingest.digest)
            ingest.commit(durable=False)
        self._ended(arrival, arrival.blob_bytes)
        self.contents.layers[arrival.path] = arrival


def _pieces(stream: ByteStream, size: int) -> Iterator[memoryview]:
    """Yield the next ``size`` bytes of a stream, without copies."""
    while size:
        if stream.pos == stream.end and not stream.more():
            raise ArchiveError(_EOF)
        wanted = min(size, stream.end - stream.pos)
        piece = stream.view[stream.pos:stream.pos + wanted]
        stream.pos += wanted
        size -= wanted
        yield piece


def clean(path: str) -> str:
    """Path in the archive without ``./``, doubled and leading slashes.

    Raises:
        InvalidParameterError: it leaves the archive.
    """
    found = posixpath.normpath(path.lstrip("/"))
    if found == ".." or found.startswith("../"):
        message = f'invalid archive: "{path}" is outside of it'
        raise InvalidParameterError(message)
    return found


def _layer_kind(head: bytes) -> str:
    """Compression of what may be a layer's tar by its first bytes; "" when it is none."""
    found = detect(head)
    if found != "none":
        return found
    if len(head) < tarheader.BLOCK:
        return ""
    if not head.strip(b"\0"):
        return "none"  # an archive without members
    checksum = head[148:156].rstrip(b"\0 ")
    if not checksum or checksum.strip(b"01234567 "):
        return ""
    computed = (adler32(head) & 0xFFFF) - 1 - sum(head[148:156]) + 256
    return "none" if not (computed - int(checksum, 8)) % 65521 else ""


def missing(path: str) -> DataLossError:
    """A file that the archive's documents name is not in it: Docker's words."""
    return DataLossError(f"open {path}: no such file or directory")
