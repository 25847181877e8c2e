"""Chunked request bodies, decoded. No I/O.

Owns   the framing of one body. h11 spends 60 us on a chunk, and Docker's client sends 32 KiB at a
       time: an upload of a gigabyte took two seconds more.
Runs   on the event loop; used by ``h1.py``.
Spec   RFC 9112 section 7.1.
"""

from __future__ import annotations

import re
from typing import Final

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?")
_MAX_LINE_BYTES: Final = 4096
_MAX_TRAILER_BYTES: Final = 64 * 1024


class ChunkError(Exception):
    """The bytes are not a chunked body."""


class ChunkedBody:
    """Bytes in, body out."""

    def __init__(self, data: bytes) -> None:
        """Begin with the bytes that came behind the head."""
        self._data = data
        self._pos = 0
        self._left = 0
        """Bytes to come of the present chunk, with its line end."""
        self._in_trailer = False
        self._trailer_bytes = 0
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Take bytes as they came from the client."""
        self._data = self._data[self._pos:] + data if self._pos < len(self._data) else data
        self._pos = 0

    @property
    def rest(self) -> bytes:
        """What was not taken yet; once ``ended``, what follows the body."""
        return self._data[self._pos:]

    def take(self) -> bytes:
        """Return all of the body that is there; b"" needs more bytes, or is the end.

        Raises:
            ChunkError: malformed.
        """
        parts: list[memoryview] = []
        while not self.ended:
            if self._left:
                if not self._take_data(parts):
                    break
                continue
            line = self._line()
            if line is None:
                break
            if self._in_trailer:
                self._trailer_bytes += len(line)
                if self._trailer_bytes > _MAX_TRAILER_BYTES:
                    message = "trailers are too long"
                    raise ChunkError(message)
                self.ended = not line
                continue
            match = _SIZE.fullmatch(line)
            if match is None:
                message = "illegal chunk header"
                raise ChunkError(message)
            size = int(match[1], 16)
            self._in_trailer = not size
            self._left = size + 2 if size else 0
        return b"".join(parts)

    def _take_data(self, parts: list[memoryview]) -> bool:
        """Take of the present chunk; False when more has to come first."""
        if self._left > 2:
            piece = memoryview(self._data)[self._pos:self._pos + self._left - 2]
            if not piece:
                return False
            parts.append(piece)
            self._pos += len(piece)
            self._left -= len(piece)
            return True
        if len(self._data) - self._pos < 2:
            return False
        if self._data[self._pos:self._pos + 2] != b"\r\n":
            message = "malformed chunk footer"
            raise ChunkError(message)
        self._pos += 2
        self._left = 0
        return True

    def _line(self) -> bytes | None:
        end = self._data.find(b"\n", self._pos, self._pos + _MAX_LINE_BYTES)
        if end < 0:
            if len(self._data) - self._pos >= _MAX_LINE_BYTES:
                message = "chunk header is too long"
                raise ChunkError(message)
            return None
        line = self._data[self._pos:end]
        if line[-1:] != b"\r":
            message = "illegal chunk header"
            raise ChunkError(message)
        self._pos = end + 1
        return line[:-1]
