"""Statements on repositories, blobs, manifests and tags.

Owns   what a push writes and a pull reads.
Runs   in the server's threads; every method is one transaction.
Needs  a prepared ``Database``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.registry.metadata.deliveries import queue
from pallet.registry.metadata.records import BlobRecord, ManifestRecord, TagRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.registry.metadata.database import Database, Row, Session
    from pallet.registry.metadata.records import Delivery, UploadRecord
    from pallet.types import Digest

_MANIFEST = "digest, media_type, raw, subject, artifact_type, descriptor, pushed_at"
_ATTEMPTS = 5


class MissingContentError(Exception):
    """A manifest names what its repository does not have."""

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self.digest = digest


class ContentTables:
    """Repositories and what they have."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # Blobs

    def blob(self, repository: str, digest: Digest) -> BlobRecord | None:
        """The blob, if ``repository`` has it."""
        with self._db.read() as db:
            return _blob(db, repository, digest)

    def touch_blob(self, repository: str, digest: Digest, before: float) -> None:
        """Note that a push relies on the blob, if the last note is older than ``before``."""
        with self._db.read() as db:
            if not db.execute("SELECT 1 FROM links WHERE repository = ? AND digest = ? "
                              "AND used_at < ?", (repository, digest, before)):
                return
        now = self._db.now()
        with self._db.write() as db:
            _activate(db, repository, now)
            db.execute("UPDATE links SET used_at = ? WHERE repository = ? AND digest = ?",
                       (now, repository, digest))

    def add_blob(
        self, repository: str, record: BlobRecord, upload: UploadRecord | None
    ) -> BlobRecord | None:
        """Publish what an upload brought and end the upload.

        Args:
            upload: with the epoch claimed for its end; None for content without a session.

        Returns:
            The record in force: where the content was there before, its location is another one;
            then the upload stays on record, as one whose object is to be removed. None when a newer
            epoch has begun: then nothing was published, and the object is somebody else's to remove.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return self._add_blob(repository, record, upload)
            except Exception as error:
                # Collected between two statements: the next attempt brings it itself.
                if attempt == _ATTEMPTS - 1 or not self._db.is_reference_error(error):
                    raise
        raise AssertionError

    def _add_blob(
        self, repository: str, record: BlobRecord, upload: UploadRecord | None
    ) -> BlobRecord | None:
        now = self._db.now()
        with self._db.write() as db:
            _activate(db, repository, now)
            if upload is not None and not db.execute(
                    "UPDATE uploads SET touched_at = ? WHERE id = ? AND epoch = ? RETURNING id",
                    (now, upload.id, upload.epoch)):
                return None
            db.execute("INSERT INTO blobs (digest, size, location, created_at) VALUES (?, ?, ?, ?) "
                       "ON CONFLICT (digest) DO NOTHING",
                       (record.digest, record.size, record.location, now))
            _link(db, repository, record.digest, now)
            found = _blob(db, repository, record.digest)
            assert found is not None
            if upload is not None and found.location == record.location:
                db.execute("DELETE FROM uploads WHERE id = ?", (upload.id,))
            return found

    def mount_blob(self, repository: str, digest: Digest) -> bool:
        """Give ``repository`` a blob that another one has; False when there is none."""
        now = self._db.now()
        try:
            with self._db.write() as db:
                if not db.execute("SELECT 1 FROM links WHERE digest = ? AND deleted_at IS NULL "
                                  "LIMIT 1", (digest,)):
                    return False
                _activate(db, repository, now)
                _link(db, repository, digest, now)
        except Exception as error:
            if self._db.is_reference_error(error):
                return False
            raise
        return True

    def unlink_blob(self, repository: str, digest: Digest) -> bool:
        """Take the blob from ``repository``; False when it has none.

        Manifests that need it keep its content alive, but nobody gets at it.
        """
        with self._db.write(durable=True) as db:
            return bool(db.execute(
                "UPDATE links SET deleted_at = ? WHERE repository = ? AND digest = ? "
                "AND deleted_at IS NULL RETURNING digest", (self._db.now(), repository, digest)))

    def holders(self, digest: Digest) -> list[str]:
        """Repositories that have the blob."""
        with self._db.read() as db:
            rows = db.execute("SELECT repository FROM links WHERE digest = ? "
                              "AND deleted_at IS NULL ORDER BY repository", (digest,))
        return [name for (name,) in rows]

    # Manifests and tags

    def put_manifest(self, repository: str, record: ManifestRecord, tags: Sequence[str],
                     deliveries: Sequence[Delivery] = ()) -> None:
        """Keep a manifest, point tags at it and queue notifications; durable, and all or nothing.

        Raises:
            MissingContentError: the repository lacks a blob or a child of it.
        """
        for attempt in range(_ATTEMPTS):
            try:
                with self._db.write(durable=True) as db:
                    _put_manifest(db, repository, record, tags, self._db.now())
                    queue(db, deliveries, self._db.now())
                return
            except Exception as error:
                # Collected between check and insert: the next attempt's check says which.
                if attempt == _ATTEMPTS - 1 or not self._db.is_reference_error(error):
                    raise

    def manifest(self, repository: str, digest: Digest) -> ManifestRecord | None:
        """A manifest (without ``blobs`` and ``children``)."""
        with self._db.read() as db:
            rows = db.execute(f"SELECT {_MANIFEST} FROM manifests "
                              "WHERE repository = ? AND digest = ?", (repository, digest))
        return _manifest(rows[0]) if rows else None

    def tagged(self, repository: str, tag: str) -> ManifestRecord | None:
        """The manifest a tag points to, as ``manifest`` gives it, by one statement."""
        columns = ", ".join(f"m.{name}" for name in _MANIFEST.split(", "))
        with self._db.read() as db:
            rows = db.execute(
                f"SELECT {columns} FROM tags AS t JOIN manifests AS m "
                "ON m.repository = t.repository AND m.digest = t.digest "
                "WHERE t.repository = ? AND t.name = ?", (repository, tag))
        return _manifest(rows[0]) if rows else None

    def touch_manifest(self, repository: str, digest: Digest, before: float) -> None:
        """As ``touch_blob``, for a manifest that an index is about to list."""
        with self._db.read() as db:
            if not db.execute("SELECT 1 FROM manifests WHERE repository = ? AND digest = ? "
                              "AND touched_at < ?", (repository, digest, before)):
                return
        now = self._db.now()
        with self._db.write() as db:
            _activate(db, repository, now)
            db.execute("UPDATE manifests SET touched_at = ? WHERE repository = ? AND digest = ?",
                       (now, repository, digest))

    def resolve(self, repository: str, tag: str) -> Digest | None:
        """What a tag points to."""
        with self._db.read() as db:
            rows = db.execute("SELECT digest FROM tags WHERE repository = ? AND name = ?",
                              (repository, tag))
        return rows[0][0] if rows else None

    def untag(self, repository: str, tag: str, deliveries: Sequence[Delivery] = ()) -> bool:
        """Forget a tag; False when there is none."""
        with self._db.write(durable=True) as db:
            rows = db.execute("DELETE FROM tags WHERE repository = ? AND name = ? RETURNING digest",
                              (repository, tag))
            for (digest,) in rows:
                _touch_manifest(db, repository, digest, self._db.now())
                queue(db, deliveries, self._db.now())
        return bool(rows)

    def delete_manifest(self, repository: str, digest: Digest, deliveries: Sequence[Delivery] = ()) -> bool:
        """Forget a manifest and its tags; False when there is none."""
        with self._db.write(durable=True) as db:
            found = drop_manifest(db, repository, digest, self._db.now())
            if found:
                queue(db, deliveries, self._db.now())
        return found

    def tags(self, repository: str, last: str = "", limit: int | None = None) -> list[TagRecord]:
        """Tags after ``last`` in the order of their bytes."""
        with self._db.read() as db:
            rows = db.execute(
                "SELECT name, digest, updated_at FROM tags WHERE repository = ? AND name > ? "
                "ORDER BY name" + _limit(limit), (repository, last))
        return [TagRecord(name=name, digest=digest, updated_at=updated_at)
                for name, digest, updated_at in rows]

    def referrers(self, repository: str, subject: Digest, artifact_type: str = "", last: str = "",
                  limit: int | None = None) -> list[bytes]:
        """Descriptors of the manifests whose subject this is, by digest, after ``last``."""
        with self._db.read() as db:
            rows = db.execute(
                "SELECT descriptor FROM manifests WHERE repository = ? AND subject = ? AND digest > ? "
                "AND (artifact_type = ? OR ? = '') ORDER BY digest" + _limit(limit),
                (repository, subject, last, artifact_type, artifact_type))
        return [bytes(descriptor) for (descriptor,) in rows]

    # Repositories

    def repository_bytes(self, repository: str) -> int:
        """Sum of the sizes of a repository's blobs."""
        with self._db.read() as db:
            rows = db.execute("SELECT SUM(b.size) FROM links AS l JOIN blobs AS b ON b.digest = l.digest "
                              "WHERE l.repository = ? AND l.deleted_at IS NULL", (repository,))
        return int(rows[0][0] or 0)

    def has_repository(self, repository: str) -> bool:
        """Whether the repository has anything."""
        with self._db.read() as db:
            return bool(db.execute(
                "SELECT 1 FROM links WHERE repository = ? AND deleted_at IS NULL UNION ALL "
                "SELECT 1 FROM manifests WHERE repository = ? LIMIT 1", (repository, repository)))

    def repositories(self, last: str = "", limit: int | None = None) -> list[str]:
        """Names after ``last`` in the order of their bytes."""
        with self._db.read() as db:
            rows = db.execute(
                "SELECT name FROM repositories AS r WHERE name > ? AND ("
                "EXISTS (SELECT 1 FROM manifests WHERE repository = r.name) OR EXISTS ("
                "SELECT 1 FROM links WHERE repository = r.name AND deleted_at IS NULL)) "
                "ORDER BY name" + _limit(limit), (last,))
        return [name for (name,) in rows]


def _manifest(row: Row) -> ManifestRecord:
    digest, media_type, raw, subject, artifact_type, descriptor, pushed_at = row
    return ManifestRecord(digest=digest, media_type=media_type, raw=bytes(raw), subject=subject,
                          artifact_type=artifact_type, descriptor=bytes(descriptor), pushed_at=pushed_at)


def _limit(limit: int | None) -> str:
    return "" if limit is None else f" LIMIT {int(limit)}"


def _blob(db: Session, repository: str, digest: Digest) -> BlobRecord | None:
    rows = db.execute(
        "SELECT b.size, b.location, b.created_at FROM links AS l JOIN blobs AS b "
        "ON b.digest = l.digest WHERE l.repository = ? AND l.digest = ? AND l.deleted_at IS NULL",
        (repository, digest))
    if not rows:
        return None
    size, location, created_at = rows[0]
    return BlobRecord(digest=digest, size=size, location=location, created_at=created_at)


def _activate(db: Session, repository: str, now: float) -> None:
    """Note a push to the repository; first in every transaction, so that all lock in one order."""
    db.execute("INSERT INTO repositories (name, active_at) VALUES (?, ?) "
               "ON CONFLICT (name) DO UPDATE SET active_at = excluded.active_at", (repository, now))


def _link(db: Session, repository: str, digest: Digest, now: float) -> None:
    db.execute("INSERT INTO links (repository, digest, used_at) VALUES (?, ?, ?) "
               "ON CONFLICT (repository, digest) DO UPDATE SET used_at = excluded.used_at, "
               "deleted_at = NULL", (repository, digest, now))


def _touch_manifest(db: Session, repository: str, digest: str, now: float) -> None:
    db.execute("UPDATE manifests SET touched_at = ? WHERE repository = ? AND digest = ?",
               (now, repository, digest))


def _require(found: Iterable[tuple[str]], wanted: frozenset[Digest]) -> None:
    missing = wanted.difference(digest for (digest,) in found)
    if missing:
        raise MissingContentError(min(missing))


def _put_manifest(
    db: Session, repository: str, record: ManifestRecord, tags: Sequence[str], now: float
) -> None:
    _activate(db, repository, now)
    for wanted, statement in (
        (record.blobs, "SELECT digest FROM links WHERE repository = ? AND deleted_at IS NULL "
                       "AND digest IN ({})"),
        (record.children, "SELECT digest FROM manifests WHERE repository = ? AND digest IN ({})"
                          + db.for_share),
    ):
        # A page of names at a time: databases limit the values of a statement.
        names = sorted(wanted)
        rows = [row for start in range(0, len(names), 500)
                for page in [names[start:start + 500]]
                for row in db.execute(statement.format(", ".join("?" * len(page))),
                                      (repository, *page))]
        _require(rows, wanted)
    db.execute(
        f"INSERT INTO manifests (repository, {_MANIFEST}, touched_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (repository, digest) DO UPDATE SET "
        "media_type = excluded.media_type, descriptor = excluded.descriptor, "
        "touched_at = excluded.touched_at",
        (repository, record.digest, record.media_type, record.raw, record.subject,
         record.artifact_type, record.descriptor, now, now))
    for digest in sorted(record.blobs):
        db.execute("INSERT INTO needs (repository, manifest, digest) VALUES (?, ?, ?) "
                   "ON CONFLICT DO NOTHING", (repository, record.digest, digest))
    for digest in sorted(record.children):
        db.execute("INSERT INTO children (repository, manifest, child) VALUES (?, ?, ?) "
                   "ON CONFLICT DO NOTHING", (repository, record.digest, digest))
    for tag in sorted(set(tags)):
        db.execute("UPDATE manifests SET touched_at = ? WHERE repository = ? AND digest IN ("
                   "SELECT digest FROM tags WHERE repository = ? AND name = ?)",
                   (now, repository, repository, tag))
        db.execute("INSERT INTO tags (repository, name, digest, updated_at) VALUES (?, ?, ?, ?) "
                   "ON CONFLICT (repository, name) DO UPDATE SET digest = excluded.digest, "
                   "updated_at = excluded.updated_at", (repository, tag, record.digest, now))


def drop_manifest(db: Session, repository: str, digest: Digest, now: float) -> bool:
    """Remove a manifest in a running transaction; what it needed is in grace from now on."""
    db.execute("UPDATE links SET used_at = ? WHERE repository = ? AND digest IN ("
               "SELECT digest FROM needs WHERE repository = ? AND manifest = ?)",
               (now, repository, repository, digest))
    db.execute("UPDATE manifests SET touched_at = ? WHERE repository = ? AND digest IN ("
               "SELECT child FROM children WHERE repository = ? AND manifest = ?)",
               (now, repository, repository, digest))
    return bool(db.execute("DELETE FROM manifests WHERE repository = ? AND digest = ? "
                           "RETURNING digest", (repository, digest)))
