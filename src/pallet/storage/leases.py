"""Leases: what a pull or build brings in is safe from garbage collection until it is recorded.

Runs   on any thread of the daemon; waits for no disk.
Needs  ``Metadata``, whose lock keeps collections out. A lease ends with its daemon at the latest: what a
       pull or a build that died with it brought is swept at start-up.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    from pallet.storage.metadata import Metadata
    from pallet.types import DiffID, Digest


class Lease:
    """One lease; a context manager that ends it."""

    def __init__(self, metadata: Metadata) -> None:
        self.id = secrets.token_hex(8)
        self._metadata = metadata
        self._ended = False

    def add_blob(self, digest: Digest) -> None:
        """Protect a blob, which need not be here yet: call it before the ingest commits."""
        self._add([("blob", digest)])

    def add_layer(self, diff_id: DiffID) -> None:
        """Protect a layer: call it before ``commit_layer``, or before relying on ``has_layer``."""
        self.add_layers([diff_id])

    def add_layers(self, diff_ids: Iterable[DiffID]) -> None:
        """Protect several at once; see ``add_layer``."""
        self._add([("layer", diff_id) for diff_id in diff_ids])

    def _add(self, resources: Sequence[tuple[str, str]]) -> None:
        """Protect something, unless the lease has ended: a thread may still work for what was cancelled meanwhile."""
        with self._metadata.lock:
            if not self._ended:
                self._metadata.extend_lease(self.id, resources)

    def end(self) -> None:
        """Give the protection up, for good. Idempotent."""
        with self._metadata.lock:
            self._ended = True
            self._metadata.delete_lease(self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()
