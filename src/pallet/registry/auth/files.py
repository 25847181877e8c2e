"""Small files that must be there whole or not at all: users, keys.

Owns   how they are written: beside the old one, then in its place, under a lock on the directory.
Runs   in any thread.
Needs  nothing. What a kill leaves is one file ``.NAME.new``, which the next writer removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One writer at a time in ``directory``."""
    lock_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock_fd)


def write(path: Path, data: bytes, *, like: os.stat_result | None = None, replace: bool = True) -> None:
    """Write a file; readers see the old one or the new one.

    Args:
        like: whose mode and owner it gets; None is 0600 and our own.
        replace: False to fail with FileExistsError where there is one.

    Preconditions:
        ``locked(path.parent)``.
    """
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            if like is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(fd, like.st_uid, like.st_gid)
                os.fchmod(fd, like.st_mode & 0o777)
            file.write(data)
            file.flush()
            os.fsync(fd)
        if replace:
            fresh.replace(path)
        else:
            os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
