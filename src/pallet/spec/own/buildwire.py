"""The conversation of ``POST /pallet/build``: frames in both directions over one raw stream.

Owns   the kinds of frames and how they are cut. Both ends import this and nothing else of each other,
       so it imports nothing itself: the client pays for every module at its start.
Spec   Pallet's own; ``docs/dev/build.md`` "The conversation of pallet build".

A frame is a letter, the payload's length (4 bytes, big endian) and the payload::

    daemon to client                              client to daemon
    e  events: a JSON list                        l  listing: id, then directories and their blocks
    q  question: JSON with an id                  f  files: id, then pieces
    w  wanted files: id, paths between NULs       a  answer: JSON with the question's id
    o  output: its number, bytes; none is the end s  stream: number, bytes; none is the end
    s  stream: number, bytes; none is the end
    r  result: JSON; the last frame
    x  error: JSON; the last frame

An id or number has 4 bytes. A listing's end is an empty directory name with an empty block.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

EVENTS, QUESTION, WANTED, OUTPUT, STREAM, RESULT, ERROR = b"e", b"q", b"w", b"o", b"s", b"r", b"x"
LISTING, FILES, ANSWER = b"l", b"f", b"a"

IDENTITY_TOKEN_USER, REGISTRY_TOKEN_USER = "<token>", "<registrytoken>"
"""Users of credentials that are a token: one that the registry's token server takes, or one for the registry itself."""

HEAD_BYTES = 5
MAX_FRAME_BYTES = 16 << 20
MORE, LAST, GONE = 0, 1, 2
"""Flags of a piece of a file: more follows, the last one, the file cannot be read (text)."""
_PIECE_HEAD_BYTES = 9


def frame(kind: bytes, payload: bytes) -> bytes:
    """One frame, encoded."""
    return kind + len(payload).to_bytes(4, "big") + payload


def piece(index: int, flag: int, data: bytes) -> bytes:
    """One piece of a file in a ``f`` frame; ``index`` is its place among the wanted ones."""
    return index.to_bytes(4, "big") + bytes((flag,)) + len(data).to_bytes(4, "big") + data


def pieces(payload: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Index, flag and data of each piece in a ``f`` frame, its id taken off.

    Raises:
        ValueError: the payload is cut off.
    """
    at, size = 0, len(payload)
    while at < size:
        index = int.from_bytes(payload[at:at + 4], "big")
        end = at + _PIECE_HEAD_BYTES + int.from_bytes(payload[at + 5:at + _PIECE_HEAD_BYTES], "big")
        if end > size or at + _PIECE_HEAD_BYTES > size:
            message = "a piece of a file is cut off"
            raise ValueError(message)
        yield index, payload[at + 4], payload[at + _PIECE_HEAD_BYTES:end]
        at = end


def listed(directory: bytes, block: bytes) -> bytes:
    """One directory in a ``l`` frame."""
    return (len(directory).to_bytes(4, "big") + directory + len(block).to_bytes(4, "big") + block)


def listings(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Directories and blocks in a ``l`` frame, its id taken off.

    Raises:
        ValueError: the payload is cut off.
    """
    at, size = 0, len(payload)
    while at < size:
        parts = []
        for _ in range(2):
            length = int.from_bytes(payload[at:at + 4], "big")
            at += 4
            if at + length > size:
                message = "a listing is cut off"
                raise ValueError(message)
            parts.append(payload[at:at + length])
            at += length
        yield parts[0], parts[1]
