"""Statements of the collection: every removal rechecks, under locks, that nothing names the thing.

Owns   what ``registry/gc.py`` and ``registry/check.py`` remove.
Runs   in the server's threads; removals are transactions of one row each, beside running pushes.
Needs  a prepared ``Database``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.registry.metadata.content import drop_manifest
from pallet.registry.metadata.records import BlobRecord, Figures, ManifestSummary, TagRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.registry.metadata.database import Database, Session
    from pallet.types import Digest

_UNTAGGED = """
    SELECT digest FROM manifests AS m WHERE repository = ? AND touched_at < ?
    AND NOT EXISTS (SELECT 1 FROM tags WHERE repository = m.repository AND digest = m.digest)
    AND NOT EXISTS (SELECT 1 FROM children WHERE repository = m.repository AND child = m.digest)
    AND NOT EXISTS (SELECT 1 FROM manifests AS s
                    WHERE s.repository = m.repository AND s.digest = m.subject)"""

_UNUSED_LINKS = """
    SELECT l.repository, l.digest FROM links AS l JOIN repositories AS r ON r.name = l.repository
    WHERE (l.deleted_at IS NOT NULL
           OR (l.used_at < ? AND (r.active_at < ? OR l.used_at < ?)))
    AND NOT EXISTS (SELECT 1 FROM needs WHERE repository = l.repository AND digest = l.digest)"""

_UNLINKED = """
    SELECT digest, size, location FROM blobs AS b
    WHERE NOT EXISTS (SELECT 1 FROM links WHERE digest = b.digest)"""


class GarbageTables:
    """What nothing names any more."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def drop_tag(self, repository: str, tag: TagRecord) -> bool:
        """Remove a tag unless it was set again since it was looked at."""
        with self._db.write() as db:
            gone = db.execute(
                "DELETE FROM tags WHERE repository = ? AND name = ? AND digest = ? "
                "AND updated_at = ? RETURNING name",
                (repository, tag.name, tag.digest, tag.updated_at))
            if gone:
                db.execute("UPDATE manifests SET touched_at = ? WHERE repository = ? "
                           "AND digest = ?", (self._db.now(), repository, tag.digest))
        return bool(gone)

    def untagged(self, repository: str, before: float) -> list[Digest]:
        """Manifests without a tag, a list that has them or a living subject, since ``before``."""
        with self._db.read() as db:
            return [digest for (digest,) in db.execute(_UNTAGGED, (repository, before))]

    def drop_untagged(self, repository: str, digest: Digest, before: float) -> bool:
        """Remove one of ``untagged`` if it still is one."""
        with self._db.write() as db:
            # The lock first, then the question: in PostgreSQL the second statement sees what was
            # committed until then, and nothing can name a locked row afterwards.
            if not db.execute("SELECT digest FROM manifests WHERE repository = ? AND digest = ?"
                              + db.for_update, (repository, digest)):
                return False
            if not db.execute(_UNTAGGED + " AND m.digest = ?", (repository, before, digest)):
                return False
            return drop_manifest(db, repository, digest, self._db.now())

    def unused_links(self, before: float, at_last: float) -> list[tuple[str, Digest]]:
        """Blobs that no manifest of their repository needs.

        Args:
            before: links used since then stay, and every link of a repository pushed to since then.
            at_last: links not used since then go even so.
        """
        with self._db.read() as db:
            return [(name, digest)
                    for name, digest in db.execute(_UNUSED_LINKS, (before, before, at_last))]

    def drop_unused_link(
        self, repository: str, digest: Digest, before: float, at_last: float
    ) -> bool:
        """Remove one of ``unused_links`` if it still is one."""
        def drop(db: Session) -> bool:
            if not db.execute("SELECT digest FROM links WHERE repository = ? AND digest = ?"
                              + db.for_update, (repository, digest)):
                return False
            if not db.execute(_UNUSED_LINKS + " AND l.repository = ? AND l.digest = ?",
                              (before, before, at_last, repository, digest)):
                return False
            db.execute("DELETE FROM links WHERE repository = ? AND digest = ?",
                       (repository, digest))
            return True
        return self._unless_named(drop)

    def drop_unlinked_blobs(self) -> int:
        """Move the content that no repository has to the trash; how many."""
        with self._db.read() as db:
            found = db.execute(_UNLINKED)
        return sum(self._drop_unlinked_blob(digest) for digest, _, _ in found)

    def _drop_unlinked_blob(self, digest: Digest) -> bool:
        return self._unless_named(lambda db: self._trash_blob(db, digest))

    def _trash_blob(self, db: Session, digest: Digest) -> bool:
        if not db.execute("SELECT digest FROM blobs WHERE digest = ?" + db.for_update, (digest,)):
            return False
        rows = db.execute(_UNLINKED + " AND b.digest = ?", (digest,))
        if not rows:
            return False
        _, size, location = rows[0]
        db.execute("INSERT INTO trash (location, digest, size, deleted_at) VALUES (?, ?, ?, ?) "
                   "ON CONFLICT (location) DO NOTHING", (location, digest, size, self._db.now()))
        db.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
        return True

    def _unless_named(self, drop: Callable[[Session], bool]) -> bool:
        try:
            with self._db.write() as db:
                return drop(db)
        except Exception as error:
            if self._db.is_reference_error(error):
                return False
            raise

    def trash(self) -> list[BlobRecord]:
        """Objects to delete; no record names them any more, nor ever will."""
        with self._db.read() as db:
            rows = db.execute("SELECT digest, size, location, deleted_at FROM trash")
        return [BlobRecord(digest=digest, size=size, location=location, created_at=at)
                for digest, size, location, at in rows]

    def forget_trash(self, location: str) -> None:
        """After the object was deleted."""
        with self._db.write() as db:
            db.execute("DELETE FROM trash WHERE location = ?", (location,))

    def drop_empty_repositories(self, before: float) -> int:
        """Forget names under which there is nothing, and was no push since ``before``."""
        with self._db.write() as db:
            return len(db.execute(
                "DELETE FROM repositories WHERE active_at < ? "
                "AND NOT EXISTS (SELECT 1 FROM links WHERE repository = name) "
                "AND NOT EXISTS (SELECT 1 FROM manifests WHERE repository = name) "
                "AND NOT EXISTS (SELECT 1 FROM uploads WHERE repository = name) RETURNING name",
                (before,)))

    # For the check

    def blobs(self) -> list[BlobRecord]:
        """Every blob."""
        with self._db.read() as db:
            rows = db.execute("SELECT digest, size, location, created_at FROM blobs ORDER BY digest")
        return [BlobRecord(digest=digest, size=size, location=location, created_at=at)
                for digest, size, location, at in rows]

    def forget_blob(self, record: BlobRecord) -> None:
        """Remove a damaged blob from every repository; manifests that need it stay, broken."""
        with self._db.write(durable=True) as db:
            db.execute("DELETE FROM needs WHERE digest = ?", (record.digest,))
            db.execute("DELETE FROM links WHERE digest = ?", (record.digest,))
            db.execute("DELETE FROM blobs WHERE digest = ? AND location = ?",
                       (record.digest, record.location))

    def needed_by(self, digest: Digest) -> list[tuple[str, Digest]]:
        """Repositories and manifests that need a blob."""
        with self._db.read() as db:
            rows = db.execute("SELECT repository, manifest FROM needs WHERE digest = ? "
                              "ORDER BY repository, manifest", (digest,))
        return [(name, manifest) for name, manifest in rows]

    def manifests(self, repository: str) -> list[ManifestSummary]:
        """Every manifest of a repository."""
        with self._db.read() as db:
            rows = db.execute("SELECT digest, touched_at, subject FROM manifests "
                              "WHERE repository = ? ORDER BY digest", (repository,))
        return [ManifestSummary(digest=digest, touched_at=at, subject=subject)
                for digest, at, subject in rows]

    def figures(self) -> Figures:
        """Sums over everything."""
        with self._db.read() as db:
            ((blobs, size),) = db.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM blobs")
            ((manifests,),) = db.execute("SELECT COUNT(*) FROM manifests")
            ((uploads,),) = db.execute("SELECT COUNT(*) FROM uploads")
            waiting: dict[int, int] = dict(db.execute(
                "SELECT dead, COUNT(*) FROM deliveries GROUP BY dead"))
        return Figures(blobs=blobs, bytes=int(size), manifests=manifests, uploads=uploads,
                       pending=waiting.get(0, 0), dead=waiting.get(1, 0))

    # One collector at a time

    def take_task(self, name: str, holder: str, for_s: float) -> bool:
        """Become the one that does ``name`` for a while; False while somebody else is."""
        now = self._db.now()
        with self._db.write() as db:
            return bool(db.execute(
                "INSERT INTO tasks (name, holder, until) VALUES (?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, "
                "until = excluded.until WHERE tasks.until < ? OR tasks.holder = excluded.holder "
                "RETURNING name", (name, holder, now + for_s, now)))

    def release_task(self, name: str, holder: str) -> None:
        """Let others do ``name``."""
        with self._db.write() as db:
            db.execute("DELETE FROM tasks WHERE name = ? AND holder = ?", (name, holder))
