"""The files that blobs are fetched into, and the locks beside them.

```
<directory>/<algorithm>-<hex>.part   what has arrived; a fetch that ended early goes on from there
<directory>/<algorithm>-<hex>.lock   locked by the process that fetches; holds the blob's size once known
```

Owns   that directory.
Runs   in threads that fetch, of every worker process; ``sweep`` in collections.
Needs  a local file system.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pallet.spec import digest as digests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pallet.types import Digest

_CHUNK_BYTES = 1 << 20
_STALE_S = 86400.0


class Spool:
    """The file as the sink of a download; hashes what is in it, also of an earlier attempt."""

    def __init__(self, fd: int, algorithm: str, watch: Callable[[int], None]) -> None:
        """``watch`` is told how much there is after each piece."""
        self._fd = fd
        self._algorithm = algorithm
        self._watch = watch
        self._hash = digests.hasher(algorithm)
        self.size = 0
        while piece := os.pread(fd, _CHUNK_BYTES, self.size):
            self._hash.update(piece)
            self.size += len(piece)

    def reset(self) -> None:
        """Begin again. Nobody has read anything: the size is not known yet."""
        os.ftruncate(self._fd, 0)
        self._hash = digests.hasher(self._algorithm)
        self.size = 0

    def write(self, chunk: bytes, /) -> int:
        """See ``Sink``."""
        view = memoryview(chunk)
        while view:
            written = os.pwrite(self._fd, view, self.size)
            self._hash.update(view[:written])
            view = view[written:]
            self.size += written
        self._watch(self.size)
        return self.size

    @property
    def digest(self) -> Digest:
        """Of what is there."""
        return digests.from_hasher(self._hash)


def locked(path: Path) -> int | None:
    """A descriptor that has the lock; None while another process has it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed it meanwhile.
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def recorded_size(lock_fd: int) -> int | None:
    """The size noted in a lock; None when there is none."""
    text = os.pread(lock_fd, 32, 0)
    return int(text) if text.isdigit() else None


def sweep(directory: Path) -> int:
    """Remove fetches that ended early and that nobody went on with for a day; how many."""
    removed, before = 0, time.time() - _STALE_S
    for path in directory.glob("*.lock"):
        with suppress(OSError):
            if path.stat().st_mtime > before or (fd := locked(path)) is None:
                continue
            path.with_suffix(".part").unlink(missing_ok=True)
            path.unlink()
            os.close(fd)
            removed += 1
    return removed
