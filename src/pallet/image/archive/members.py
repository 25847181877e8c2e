"""Members of the archives that leave: headers, small files, blobs of the content store.

Owns   how a member looks, so that the same images give the same archive.
Runs   on the event loop; blobs are read in worker threads.
Spec   POSIX.1-2001 pax interchange format.
"""

from __future__ import annotations

import asyncio
import os
import tarfile
from functools import partial
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.errors import DataLossError
from pallet.image.archive import layout

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pallet.storage.content import ContentStore
    from pallet.types import Digest

_BLOCK = 512
_READ_BYTES = 1 << 20
END = bytes(2 * _BLOCK)
"""What follows the last member."""


def _header(name: str, size: int, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o444) -> bytes:
    """A header without owner and time."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mode = size, kind, mode
    return info.tobuf(tarfile.PAX_FORMAT)


def file(name: str, data: bytes) -> bytes:
    """A document."""
    return _header(name, len(data), mode=0o644) + data + bytes(-len(data) % _BLOCK)


def directory(name: str) -> bytes:
    """A directory, its name without a slash at the end."""
    return _header(f"{name}/", 0, kind=tarfile.DIRTYPE, mode=0o755)


async def blob(content: ContentStore, digest: Digest, size: int) -> AsyncGenerator[bytes, None]:
    """Yield a blob's member in pieces.

    Raises:
        DataLossError: as ``blob_data``.
    """
    head = _header(layout.blob_path(digest), size)
    async for data in blob_data(content, digest, size):
        yield head + data if head else data
        head = b""
    yield head + bytes(-size % _BLOCK)


async def blob_data(content: ContentStore, digest: Digest, size: int) -> AsyncGenerator[bytes, None]:
    """Yield a blob's bytes; the next piece is read while the one before is sent.

    Raises:
        DataLossError: it ends before its size.
    """
    fd = await run_blocking(content.open, digest)
    offset = 0
    ahead = asyncio.ensure_future(run_blocking(os.pread, fd, _READ_BYTES, 0))
    try:
        while offset < size:
            data = await asyncio.shield(ahead)
            if not data:
                message = f"content {digest} is damaged on disk"
                raise DataLossError(message)
            offset += len(data)
            if offset < size:
                ahead = asyncio.ensure_future(run_blocking(partial(os.pread, fd, _READ_BYTES, offset)))
            yield data
    finally:
        await asyncio.wait([ahead])
        os.close(fd)
