"""What a layer's blob holds, by path: the index that ``layer/explore.py`` works on.

Runs   in a zygote child (kind ``layer.index``); sync, no threads.
Spec   image-spec layer.md: of two entries of one path the later one counts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import PalletError
from pallet.layer import tarheader, whiteout
from pallet.layer.model import LimitError, Limits
from pallet.layer.source import ByteStream, Source, chunks
from pallet.layer.worker import WorkerFailure, failure_of

if TYPE_CHECKING:
    from collections.abc import Sequence

DELETED = "deleted"
OPAQUE = "opaque"
_KINDS = {tarheader.REGULAR: "file", tarheader.DIRECTORY: "directory", tarheader.SYMLINK: "symlink",
          tarheader.HARDLINK: "hardlink", tarheader.CHAR: "device", tarheader.BLOCKDEV: "device",
          tarheader.FIFO: "fifo"}
_MAX_BYTES = 1 << 50


class IndexEntry(msgspec.Struct, frozen=True, array_like=True):
    """One path of a layer. ``kind`` is one of ``_KINDS``, ``deleted`` or ``opaque``."""

    path: bytes
    """Without a leading slash; b"" is the root."""
    kind: str
    size: int = 0
    """Bytes of a regular file, or of a symlink's target; 0 for everything else."""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    target: bytes = b""


class IndexRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Index a layer. fds: the blob, then the file to write MessagePack of ``list[IndexEntry]`` to."""


class IndexReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run_index`` answers."""

    entries: int = 0
    failure: WorkerFailure | None = None

    def result(self) -> int:
        """Return the number of paths or raise what went wrong."""
        if self.failure is not None:
            self.failure.raise_()
        return self.entries


_encoder = msgspec.json.Encoder()


def run_index(_request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``layer.index``: ``IndexRequest`` to ``IndexReply``."""
    try:
        found = index(fds[0])
        with open(fds[1], "wb", closefd=False) as out:
            out.write(msgspec.msgpack.encode(found))
        reply = IndexReply(entries=len(found))
    except (PalletError, OSError) as error:
        reply = IndexReply(failure=failure_of(error))
    return _encoder.encode(reply)


def index(blob_fd: int) -> list[IndexEntry]:
    """Read a layer's blob, of whatever compression, and return its paths in their tar's order.

    Raises:
        ArchiveError: malformed, damaged or truncated.
        LimitError: it has more entries than a layer may.
    """
    stream = ByteStream(chunks(Source(blob_fd, None), "auto"), _MAX_BYTES)
    reader = tarheader.TarReader(stream)
    found: dict[bytes, IndexEntry] = {}
    count, most = 0, Limits().max_entries
    while (entry := reader.next()) is not None:
        count += 1
        if count > most:
            message = f"layer has more than the {most} entries it may have"
            raise LimitError(message)
        one = _entry(entry)
        if one is not None:
            found[one.path + b"/" if one.kind == OPAQUE else one.path] = one
    return list(found.values())


def _entry(entry: tarheader.Entry) -> IndexEntry | None:
    path = clean(entry.name)
    parent, _, name = path.rpartition(b"/")
    if name == whiteout.OPAQUE:
        return IndexEntry(parent, OPAQUE)
    if any(part.startswith(whiteout.META_PREFIX) for part in path.split(b"/")):  # aufs' own
        return None
    if name.startswith(whiteout.PREFIX):
        hidden = name[len(whiteout.PREFIX):]
        return IndexEntry(parent + b"/" + hidden if parent else hidden, DELETED)
    size = {tarheader.REGULAR: entry.real_size, tarheader.SYMLINK: len(entry.link)}.get(entry.type, 0)
    return IndexEntry(path, _KINDS.get(entry.type, "other"), size, entry.mode, entry.uid, entry.gid, entry.link)


def clean(name: bytes) -> bytes:
    """Drop slashes at both ends, ``.`` and empty components."""
    return os.path.normpath(b"/" + name).lstrip(b"/")
