"""Statements on upload sessions.

Owns   who may record progress of an upload: the request with the newest epoch, on any replica.
Runs   in the server's threads; every method is one transaction.
Needs  a prepared ``Database``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pallet.registry.metadata.records import UploadRecord

if TYPE_CHECKING:
    from pallet.registry.metadata.database import Database

_COLUMNS = ("id, repository, algorithm, epoch, size, writer, state, digest, started_at, "
            "touched_at")


class UploadTables:
    """Open upload sessions."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def begin(self, upload_id: str, repository: str, algorithm: str) -> UploadRecord:
        """Open a session, before anything of it is stored."""
        now = self._db.now()
        with self._db.write() as db:
            db.execute("INSERT INTO repositories (name, active_at) VALUES (?, ?) ON CONFLICT (name) "
                       "DO UPDATE SET active_at = excluded.active_at", (repository, now))
            db.execute(f"INSERT INTO uploads ({_COLUMNS}) VALUES (?, ?, ?, 0, 0, '', ?, '', ?, ?)",
                       (upload_id, repository, algorithm, b"", now, now))
        return UploadRecord(id=upload_id, repository=repository, algorithm=algorithm,
                            started_at=now, touched_at=now)

    def get(self, upload_id: str) -> UploadRecord | None:
        """Find a session."""
        with self._db.read() as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM uploads WHERE id = ?", (upload_id,))
        return _record(rows[0]) if rows else None

    def claim(self, upload_id: str, digest: str = "") -> UploadRecord | None:
        """Begin a new epoch: whoever wrote before can record nothing any more.

        Args:
            digest: what the session is being finished as; "" while it goes on.
        """
        with self._db.write() as db:
            rows = db.execute(
                "UPDATE uploads SET epoch = epoch + 1, touched_at = ?, "
                "digest = CASE WHEN ? = '' THEN digest ELSE ? END "
                f"WHERE id = ? RETURNING {_COLUMNS}", (self._db.now(), digest, digest, upload_id))
        return _record(rows[0]) if rows else None

    def record(self, upload: UploadRecord, *, size: int, writer: str, state: bytes) -> bool:
        """Record progress; False when a newer epoch has begun or the session is over."""
        with self._db.write() as db:
            return bool(db.execute(
                "UPDATE uploads SET size = ?, writer = ?, state = ?, touched_at = ? "
                "WHERE id = ? AND epoch = ? RETURNING id",
                (size, writer, state, self._db.now(), upload.id, upload.epoch)))

    def end(self, upload_id: str) -> bool:
        """Forget a session, after everything of it was removed; False when it is unknown."""
        with self._db.write() as db:
            return bool(db.execute("DELETE FROM uploads WHERE id = ? RETURNING id", (upload_id,)))

    def all(self, before: float | None = None) -> list[UploadRecord]:
        """Sessions, or those not touched since ``before``."""
        with self._db.read() as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM uploads WHERE touched_at < ? ORDER BY id",
                              (1e18 if before is None else before,))
        return [_record(row) for row in rows]


def _record(row: tuple[Any, ...]) -> UploadRecord:
    upload_id, repository, algorithm, epoch, size, writer, state, digest, started, touched = row
    return UploadRecord(id=upload_id, repository=repository, algorithm=algorithm, epoch=epoch,
                        size=size, writer=writer, state=bytes(state), digest=digest,
                        started_at=started, touched_at=touched)
