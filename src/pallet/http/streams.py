"""Stream formats of the Engine API: multiplexed output and JSON lines.

Spec   semantics "mux frame", "json progress".
"""

from __future__ import annotations

from typing import Final

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
SYSTEM_ERROR: Final = 3

HEADER_BYTES: Final = 8

RAW_STREAM: Final = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM: Final = "application/vnd.docker.multiplexed-stream"


def frame(stream: int, payload: bytes) -> bytes:
    """Put the 8-byte header before ``payload``: stream, three zeros, length big-endian."""
    return b"%c\0\0\0%b%b" % (stream, len(payload).to_bytes(4, "big"), payload)


class Deframer:
    """Multiplexed bytes in, ``(stream, payload)`` pairs out; for clients and tests."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes in any portions and return the frames that became complete."""
        buffer = self._buffer
        buffer += data
        frames = []
        at = 0
        while len(buffer) - at >= HEADER_BYTES:
            size = int.from_bytes(buffer[at + 4:at + HEADER_BYTES], "big")
            end = at + HEADER_BYTES + size
            if len(buffer) < end:
                break
            frames.append((buffer[at], bytes(buffer[at + HEADER_BYTES:end])))
            at = end
        del buffer[:at]
        return frames

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame."""
        return len(self._buffer)
