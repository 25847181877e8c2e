"""Statements on mirrored repositories: how fresh a tag is, and what was used least recently.

Owns   what the mirror asks beyond what pushes and pulls need.
Runs   in the server's threads; every method is one transaction.
Needs  a prepared ``Database``.

In a mirrored repository blobs and manifests are entries of a cache: ``links.used_at`` and
``manifests.touched_at`` say when somebody last asked, ``tags.updated_at`` when upstream last
confirmed the tag. Its manifests have no rows in ``needs`` or ``children``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.registry.metadata.content import drop_manifest
from pallet.registry.metadata.records import TagRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pallet.registry.metadata.database import Database
    from pallet.types import Digest

_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A blob or a manifest of a repository."""

    repository: str
    digest: Digest
    size: int
    used_at: float


class MirrorTables:
    """Cache entries."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def tag(self, repository: str, name: str) -> TagRecord | None:
        """A tag and when it was last confirmed."""
        with self._db.read() as db:
            rows = db.execute("SELECT digest, updated_at FROM tags WHERE repository = ? AND name = ?",
                              (repository, name))
        if not rows:
            return None
        return TagRecord(name=name, digest=rows[0][0], updated_at=rows[0][1])

    def confirm(self, repository: str, tag: TagRecord) -> None:
        """Note that upstream still has the tag as it is here."""
        with self._db.write() as db:
            db.execute("UPDATE tags SET updated_at = ? WHERE repository = ? AND name = ? AND digest = ?",
                       (self._db.now(), repository, tag.name, tag.digest))

    def use(self, repository: str, manifest: Digest, before: float,
            blobs: Callable[[], Iterable[Digest]]) -> None:
        """Note that a manifest was asked for, and ``blobs`` with it, unless that was noted since ``before``."""
        with self._db.read() as db:
            if not db.execute("SELECT 1 FROM manifests WHERE repository = ? AND digest = ? "
                              "AND touched_at < ?", (repository, manifest, before)):
                return
        names, now = sorted(blobs()), self._db.now()
        with self._db.write() as db:
            db.execute("UPDATE manifests SET touched_at = ? WHERE repository = ? AND digest = ?",
                       (now, repository, manifest))
            for start in range(0, len(names), _PAGE):
                page = names[start:start + _PAGE]
                db.execute("UPDATE links SET used_at = ? WHERE repository = ? AND digest IN "
                           f"({', '.join('?' * len(page))})", (now, repository, *page))

    def links(self) -> list[Entry]:
        """Every repository's blobs that are not deleted, least recently used first."""
        with self._db.read() as db:
            rows = db.execute(
                "SELECT l.repository, l.digest, b.size, l.used_at FROM links AS l JOIN blobs AS b "
                "ON b.digest = l.digest WHERE l.deleted_at IS NULL "
                "ORDER BY l.used_at, l.repository, l.digest")
        return [Entry(repository=name, digest=digest, size=size, used_at=at)
                for name, digest, size, at in rows]

    def manifests(self, until: float) -> list[Entry]:
        """Manifests that nobody asked for after ``until``, those that were pushed left out."""
        with self._db.read() as db:
            rows = db.execute(
                "SELECT repository, digest, LENGTH(raw), touched_at FROM manifests AS m WHERE touched_at <= ? "
                "AND NOT EXISTS (SELECT 1 FROM needs WHERE repository = m.repository AND manifest = m.digest) "
                "AND NOT EXISTS (SELECT 1 FROM children WHERE repository = m.repository "
                "AND manifest = m.digest) ORDER BY touched_at", (until,))
        return [Entry(repository=name, digest=digest, size=size, used_at=at)
                for name, digest, size, at in rows]

    def drop_link(self, entry: Entry) -> bool:
        """Take a blob from its repository unless it was used again."""
        try:
            with self._db.write() as db:
                return bool(db.execute(
                    "DELETE FROM links WHERE repository = ? AND digest = ? AND used_at = ? "
                    "RETURNING digest", (entry.repository, entry.digest, entry.used_at)))
        except Exception as error:
            # A manifest that was pushed before the name became a mirrored one.
            if self._db.is_reference_error(error):
                return False
            raise

    def drop_manifest(self, entry: Entry) -> bool:
        """Forget a manifest with its tags unless it was used again."""
        with self._db.write() as db:
            rows = db.execute("SELECT 1 FROM manifests WHERE repository = ? AND digest = ? "
                              "AND touched_at = ?" + db.for_update,
                              (entry.repository, entry.digest, entry.used_at))
            return bool(rows) and drop_manifest(db, entry.repository, entry.digest, self._db.now())
