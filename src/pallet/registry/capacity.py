"""Read-only while the disk is full.

Owns   when the registry refuses writes, and that it takes them again by itself.
Runs   in the server's threads.
Needs  a driver that knows its room.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from pallet.registry.codes import RegistryHttpError

if TYPE_CHECKING:
    from pallet.registry.blobs.driver import BlobDriver
    from pallet.registry.metadata.database import Database

_LOOK_S = 0.25
_RETRY_AFTER_S = 30
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class Capacity:
    """Watches the room of a store; looks at most every quarter of a second."""

    def __init__(self, driver: BlobDriver, database: Database, min_free_bytes: int) -> None:
        self._driver = driver
        self._database = database
        self._min_free_bytes = min_free_bytes
        self._looked_at = -1.0
        self._enough = True

    def writable(self) -> bool:
        """Whether there is room to write."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_S or self._looked_at < 0:
            free = self._driver.free_bytes()
            self._enough = free is None or free >= self._min_free_bytes
            self._looked_at = now
        return self._enough

    def require(self) -> None:
        """Refuse a write while there is no room.

        Raises:
            RegistryHttpError: UNAVAILABLE (503).
        """
        if not self.writable():
            raise full()

    def is_full(self, error: Exception) -> bool:
        """Whether ``error`` is storage or database running out of room in the middle of a write."""
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        return self._database.is_full(error)

    def refusal(self, error: Exception) -> RegistryHttpError | None:
        """What a client is told when ``error`` ended its request; None for any other failure."""
        if self.is_full(error):
            return full()
        if self._database.is_away(error) or self._driver.is_away(error):
            return RegistryHttpError("UNAVAILABLE", message="the registry's storage does not answer",
                                     headers={"Retry-After": "5"})
        return None


def full() -> RegistryHttpError:
    """Make the refusal of a write for lack of room."""
    return RegistryHttpError("UNAVAILABLE", message="the registry is read-only: no space left",
                             headers={"Retry-After": str(_RETRY_AFTER_S)})
