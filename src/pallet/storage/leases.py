"""Leases: what a pull or build brings in is safe from garbage collection until it is recorded.

Runs   on any thread of the daemon.
Needs  ``Metadata``. A lease of a killed daemon is dropped at start-up (``drop_all``): its pull died
       with it, and what it brought is swept.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from pallet.storage.metadata import Metadata
    from pallet.types import DiffID, Digest


class Lease:
    """One lease; a context manager that ends it."""

    def __init__(self, metadata: Metadata) -> None:
        self.id = secrets.token_hex(8)
        self._metadata = metadata
        self._held: set[tuple[str, str]] = set()
        """What is protected already; nothing is recorded before there is something."""

    def add_blob(self, digest: Digest) -> None:
        """Protect a blob, which need not be here yet: call it before the ingest commits."""
        self._add({("blob", digest)})

    def add_layer(self, diff_id: DiffID) -> None:
        """Protect a layer: call it before ``commit_layer``, or before relying on ``has_layer``."""
        self._add({("layer", diff_id)})

    def add_layers(self, diff_ids: Iterable[DiffID]) -> None:
        """Protect several at once; see ``add_layer``."""
        self._add({("layer", diff_id) for diff_id in diff_ids})

    def _add(self, wanted: set[tuple[str, str]]) -> None:
        new = wanted - self._held
        if new:
            self._metadata.extend_lease(self.id, new)
            self._held |= new

    def end(self) -> None:
        """Give the protection up. Idempotent."""
        if self._held:
            self._metadata.delete_lease(self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()


def drop_all(metadata: Metadata) -> None:
    """End every lease an earlier daemon left. At start-up only."""
    for lease_id in metadata.leases():
        metadata.delete_lease(lease_id)
