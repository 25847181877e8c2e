"""Follow the frames of a zstd stream, to know whether it ended where one ends.

The decompressor's streaming reader takes a truncated frame for the end of the data. Block headers
are far apart (one for up to 128 KiB of output), so looking at them costs next to nothing.

Runs   in zygote children.
Spec   RFC 8878 sections 3.1.1 and 3.1.2.
"""

from __future__ import annotations

from typing import Protocol

_MAGIC, _SKIP_SIZE, _DESCRIPTOR, _BLOCK = range(4)
_WIDTH = {_MAGIC: 4, _SKIP_SIZE: 4, _DESCRIPTOR: 1, _BLOCK: 3}
_SKIPPABLE = 0x184D2A50
_RLE_BLOCK = 1


class Readable(Protocol):
    """The compressed stream."""

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes, ``b""`` at the end."""
        ...


class ZstdFrames:
    """A reader that passes bytes on and keeps track of frames and blocks."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._state = _MAGIC
        self._head = b""
        self._skip = 0
        self._checksum_bytes = 0

    @property
    def whole(self) -> bool:
        """Whether all that was read is whole frames."""
        return self._state == _MAGIC and not self._head and not self._skip

    def read(self, size: int) -> bytes:
        """Read from the source."""
        data = self._source.read(size)
        position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
            else:
                step = _WIDTH[self._state] - len(self._head)
                self._head += data[position:position + step]
                if len(self._head) == _WIDTH[self._state]:
                    value, self._head = int.from_bytes(self._head, "little"), b""
                    self._advance(value)
            position += step
        return data

    def _advance(self, value: int) -> None:
        """Take a complete header field. Nonsense is left to the decompressor to refuse."""
        if self._state == _MAGIC:
            self._state = _SKIP_SIZE if value & ~0xF == _SKIPPABLE else _DESCRIPTOR
        elif self._state == _SKIP_SIZE:
            self._skip = value
            self._state = _MAGIC
        elif self._state == _DESCRIPTOR:
            single_segment = value >> 5 & 1
            content_size = (single_segment, 2, 4, 8)[value >> 6]
            self._skip = content_size + (1 - single_segment) + (0, 1, 2, 4)[value & 3]
            self._checksum_bytes = 4 if value & 4 else 0
            self._state = _BLOCK
        else:
            size = value >> 3
            self._skip = 1 if value >> 1 & 3 == _RLE_BLOCK else size
            if value & 1:
                self._skip += self._checksum_bytes
                self._state = _MAGIC
