"""Layers that are stored uncompressed, compressed while they are pushed.

Owns   the compression and the file that keeps what was sent, for a broken transfer.
Runs   in a transfer thread; ISA-L compresses without the interpreter lock.
Needs  an ``Ingest`` of the content store, which hashes; it is dropped after the push.
Spec   RFC 1952. The same layer always gives the same bytes: no name, no time, one level.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from isal import isal_zlib

from pallet.spec import image

if TYPE_CHECKING:
    from pathlib import Path

    from pallet.spec.image import Descriptor
    from pallet.storage.content import ContentStore, Ingest
    from pallet.types import Digest

_GZIP_WINDOW = 31
_GZIP_LEVEL = 1
_PIECE_BYTES = 1 << 20
PACKED_TYPES = {image.OCI_LAYER: image.OCI_LAYER_GZIP, image.DOCKER_LAYER: image.DOCKER_LAYER_GZIP}
"""Media type of a layer that is compressed before it is pushed, and the one it has then."""


class PackedBlob:
    """A layer that is compressed as far as it is read. A context manager: drops its file.

    It reads like a file and may be read again from any offset that was reached.
    """

    def __init__(self, content: ContentStore, source: Digest, media_type: str) -> None:
        """``source`` is the uncompressed blob, ``media_type`` one of ``PACKED_TYPES``."""
        self._media_type = PACKED_TYPES[media_type]
        self._source = content.path(source).open("rb", buffering=0)
        try:
            self._ingest: Ingest = content.ingest()
        except BaseException:
            self._source.close()
            raise
        self._compressor = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
        self._position = 0
        self._whole = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._source.close()
        self._ingest.abort()

    @property
    def path(self) -> Path:
        """The file with what is compressed so far."""
        return self._ingest.path

    @property
    def digest(self) -> Digest:
        """Digest of what is compressed so far: the blob's once ``grow`` has returned False."""
        return self._ingest.digest

    def descriptor(self) -> Descriptor:
        """Descriptor of the whole blob."""
        return image.Descriptor(
            media_type=self._media_type, digest=self.digest, size=self._ingest.size)

    @property
    def source_bytes(self) -> int:
        """How much of the uncompressed layer has been read."""
        return self._source.tell()

    def grow(self) -> bool:
        """Compress a further piece; False at the end."""
        if self._whole:
            return False
        data = self._source.read(_PIECE_BYTES)
        if data:
            self._ingest.write(self._compressor.compress(data))
        else:
            self._ingest.write(self._compressor.flush())
            self._whole = True
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, b"" at the end; compress what is missing for it."""
        while self._position >= self._ingest.size:
            if not self.grow():
                return b""
        wanted = _PIECE_BYTES if size < 0 else size
        data = os.pread(self._ingest.fileno(), wanted, self._position)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to an offset that was reached before."""
        self._position = offset + (self._position if whence == os.SEEK_CUR else 0)
        return self._position
