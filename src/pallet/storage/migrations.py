"""Migrations of ``meta.db``: numbered, each run once in a transaction, kept in ``user_version``.

Owns   the schema. A migration, once released, is never edited: add the next one.
Runs   at daemon start, before anything else uses the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

# Tables without a rowid keep a record in the tree of its key: one page to write, not two.
_V1 = """
CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE images (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE tags (ref TEXT PRIMARY KEY, image_id TEXT NOT NULL, manifest TEXT) WITHOUT ROWID;
CREATE TABLE layers (diff_id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE networks (id TEXT PRIMARY KEY, name TEXT NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE addresses (network_id TEXT, address TEXT, owner TEXT NOT NULL,
                        PRIMARY KEY (network_id, address)) WITHOUT ROWID;
CREATE INDEX addresses_owner ON addresses (owner);
CREATE TABLE volumes (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE leases (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE lease_resources (lease_id TEXT, kind TEXT, key TEXT,
                              PRIMARY KEY (lease_id, kind, key)) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('layer', 0);
"""

# Records of containers are some 5 KB and written at each change of state. A table without a rowid
# keeps only a quarter of a page in its leaf and the rest in overflow pages, which each update
# allocates anew; in a leaf of an ordinary table the whole record stays in place.
_V2 = """
ALTER TABLE containers RENAME TO containers_v1;
CREATE TABLE containers (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
                         record BLOB NOT NULL);
INSERT INTO containers (id, name, record) SELECT id, name, record FROM containers_v1;
DROP TABLE containers_v1;
"""

# What builds have made. A content's key begins with the digest of the chain of layers it is about.
_V3 = """
CREATE TABLE build_records (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE build_keys (key TEXT PRIMARY KEY, record_id TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX build_keys_record ON build_keys (record_id);
CREATE TABLE build_contents (key TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;
"""

# Leases are in memory.
_V4 = "DROP TABLE leases; DROP TABLE lease_resources;"

MIGRATIONS: tuple[str, ...] = (_V1, _V2, _V3, _V4)
"""``MIGRATIONS[n]`` takes a store from version n to n + 1."""

CURRENT = len(MIGRATIONS)


class LaterVersionError(Exception):
    """The store's version is higher than this program knows."""

    def __init__(self, found: int) -> None:
        super().__init__(f"the store has version {found}, this program knows up to {CURRENT}: "
                         "use a newer Pallet or another --data-root")


def migrate(db: sqlite3.Connection) -> None:
    """Bring ``db`` to ``CURRENT``, one transaction a step.

    Raises:
        LaterVersionError: nothing was changed.
    """
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > CURRENT:
        raise LaterVersionError(found)
    for number in range(found, CURRENT):
        # executescript commits on its own: the script carries the transaction.
        try:
            db.executescript(f"BEGIN IMMEDIATE;{MIGRATIONS[number]}"
                             f"PRAGMA user_version={number + 1};COMMIT;")
        except BaseException:
            db.rollback()
            raise
