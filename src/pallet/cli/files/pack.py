"""A file or directory of this machine as a tar stream."""

from __future__ import annotations

import io
import os
import stat
import tarfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK_BYTES = 1 << 18


def pack(path: str, name: str, *, follow: bool) -> Iterator[bytes]:
    """Yield ``path`` with everything below it as a tar, where it is called ``name``.

    Args:
        follow: take what ``path`` points to if it is a symlink; links below stay links.

    A file keeps the size it had when it was opened; sockets are left out.
    """
    archive = tarfile.open(fileobj=io.BytesIO(), mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
    yield from _one(archive, os.path.realpath(path) if follow else path, name)
    yield tarfile.NUL * (2 * tarfile.BLOCKSIZE)


def _one(archive: tarfile.TarFile, path: str, name: str) -> Iterator[bytes]:
    if stat.S_ISSOCK(os.lstat(path).st_mode):
        return
    info = archive.gettarinfo(path, name)
    info.uname = info.gname = ""
    if not info.isreg():
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    else:
        with open(path, "rb", buffering=0) as file:
            info.size = os.fstat(file.fileno()).st_size
            yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            left = info.size
            while left:
                chunk = file.read(min(left, _CHUNK_BYTES)) or bytes(min(left, _CHUNK_BYTES))
                left -= len(chunk)
                yield chunk
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    if info.isdir():
        for base in sorted(os.listdir(path)):
            yield from _one(archive, os.path.join(path, base), f"{name}/{base}")
