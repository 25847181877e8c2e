"""Limits on sizes: of one blob, and of the blobs in one repository.

Owns   how much an upload may still bring.
Runs   in the server's threads.
Needs  ``RegistryStore``, only where repositories are limited.
Spec   distribution-spec "Error codes" (SIZE_INVALID, DENIED); RFC 9110 413.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.registry.codes import RegistryHttpError

if TYPE_CHECKING:
    from pallet.registry.auth.settings import LimitsConfig
    from pallet.registry.messages import RequestBody
    from pallet.registry.store import RegistryStore


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLimits:
    """The sizes of ``[limits]``; 0 is no limit."""

    blob_bytes: int
    repository_bytes: int

    @classmethod
    def of(cls, config: LimitsConfig) -> SizeLimits:
        """Take them from the settings."""
        return cls(blob_bytes=config.max_blob_bytes, repository_bytes=config.repository_bytes)

    def body(self, store: RegistryStore, name: str, taken: int, body: RequestBody) -> RequestBody:
        """``body`` as far as an upload to repository ``name`` that has ``taken`` bytes may go on.

        Raises:
            RegistryHttpError: at once when the announced length is too much, else from ``read``.
        """
        checked = body
        if self.blob_bytes:
            checked = _Bounded(checked, self.blob_bytes - taken, RegistryHttpError(
                "SIZE_INVALID", {"limit": self.blob_bytes}, status=413,
                message=f"blob is too large: at most {self.blob_bytes} bytes are taken"))
        if self.repository_bytes:
            left = self.repository_bytes - store.repository_bytes(name)
            checked = _Bounded(checked, left - taken, self._full(name))
        return checked

    def mounted(self, store: RegistryStore, name: str, size: int) -> None:
        """Refuse (DENIED) to link a blob of ``size`` bytes into a repository that has no room for it."""
        if self.repository_bytes and store.repository_bytes(name) + size > self.repository_bytes:
            raise self._full(name)

    def _full(self, name: str) -> RegistryHttpError:
        return RegistryHttpError("DENIED", {"limit": self.repository_bytes}, message=(
            f"repository {name} is full: its blobs may have {self.repository_bytes} bytes together"))


class _Bounded:
    """A body of at most ``left`` bytes."""

    def __init__(self, body: RequestBody, left: int, refusal: RegistryHttpError) -> None:
        if (body.length or 0) > left:
            raise refusal
        self.length = body.length
        self._body = body
        self._left = left
        self._refusal = refusal

    def read(self, size: int, /) -> bytes:
        data = self._body.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise self._refusal
        return data
