"""Tables of the registry's metadata and their migrations.

Owns   the schema and its version (table ``meta``), for SQLite and PostgreSQL alike.
Runs   when a database is opened.
Needs  a ``Database``.

The foreign keys are half of the collection's safety (``registry/gc.py``): a link names its blob, a
manifest's needs name links, a tag names its manifest, so nobody can name what is going away and
nobody can remove what is being named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.errors import SystemFailureError

if TYPE_CHECKING:
    from pallet.registry.metadata.database import Database

VERSION = 2
_LOCK = 0x50616C6C
"""Any number that nothing else in the database locks."""

_TABLES = (
    """CREATE TABLE repositories (
        name {text} PRIMARY KEY, active_at DOUBLE PRECISION NOT NULL)""",
    """CREATE TABLE blobs (
        digest {text} PRIMARY KEY, size BIGINT NOT NULL, location {text} NOT NULL,
        created_at DOUBLE PRECISION NOT NULL)""",
    """CREATE TABLE links (
        repository {text} NOT NULL REFERENCES repositories (name),
        digest {text} NOT NULL REFERENCES blobs (digest),
        used_at DOUBLE PRECISION NOT NULL, deleted_at DOUBLE PRECISION,
        PRIMARY KEY (repository, digest))""",
    "CREATE INDEX links_digest ON links (digest)",
    """CREATE TABLE manifests (
        repository {text} NOT NULL REFERENCES repositories (name), digest {text} NOT NULL,
        media_type {text} NOT NULL, raw {blob} NOT NULL, subject {text},
        artifact_type {text} NOT NULL, descriptor {blob} NOT NULL,
        pushed_at DOUBLE PRECISION NOT NULL, touched_at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (repository, digest))""",
    "CREATE INDEX manifests_subject ON manifests (repository, subject)",
    """CREATE TABLE needs (
        repository {text} NOT NULL, manifest {text} NOT NULL, digest {text} NOT NULL,
        PRIMARY KEY (repository, manifest, digest),
        FOREIGN KEY (repository, manifest) REFERENCES manifests (repository, digest)
            ON DELETE CASCADE,
        FOREIGN KEY (repository, digest) REFERENCES links (repository, digest))""",
    "CREATE INDEX needs_digest ON needs (repository, digest)",
    """CREATE TABLE children (
        repository {text} NOT NULL, manifest {text} NOT NULL, child {text} NOT NULL,
        PRIMARY KEY (repository, manifest, child),
        FOREIGN KEY (repository, manifest) REFERENCES manifests (repository, digest)
            ON DELETE CASCADE)""",
    "CREATE INDEX children_child ON children (repository, child)",
    """CREATE TABLE tags (
        repository {text} NOT NULL, name {text} NOT NULL, digest {text} NOT NULL,
        updated_at DOUBLE PRECISION NOT NULL, PRIMARY KEY (repository, name),
        FOREIGN KEY (repository, digest) REFERENCES manifests (repository, digest)
            ON DELETE CASCADE)""",
    "CREATE INDEX tags_digest ON tags (repository, digest)",
    """CREATE TABLE uploads (
        id {text} PRIMARY KEY, repository {text} NOT NULL, algorithm {text} NOT NULL,
        epoch BIGINT NOT NULL, size BIGINT NOT NULL, writer {text} NOT NULL, state {blob} NOT NULL,
        digest {text} NOT NULL, started_at DOUBLE PRECISION NOT NULL,
        touched_at DOUBLE PRECISION NOT NULL)""",
    """CREATE TABLE trash (
        location {text} PRIMARY KEY, digest {text} NOT NULL, size BIGINT NOT NULL,
        deleted_at DOUBLE PRECISION NOT NULL)""",
    """CREATE TABLE tasks (
        name {text} PRIMARY KEY, holder {text} NOT NULL, until DOUBLE PRECISION NOT NULL)""",
)

# A delivery is one notification for one receiver. `content_version` counts what can make a reply that
# somebody keeps in memory wrong; triggers, so that no statement can forget to. SQLite only: asking
# PostgreSQL for it would take as long as asking for the content, and its row would be one that all
# pushes wait for.
_DELIVERIES = (
    """CREATE TABLE deliveries (
        id {text} PRIMARY KEY, receiver {text} NOT NULL, event {blob} NOT NULL,
        created_at DOUBLE PRECISION NOT NULL, due_at DOUBLE PRECISION NOT NULL,
        attempts BIGINT NOT NULL, dead BIGINT NOT NULL, problem {text} NOT NULL)""",
    "CREATE INDEX deliveries_due ON deliveries (dead, due_at)",
)
_CHANGED = "BEGIN UPDATE content_version SET version = version + 1; END"
_CONTENT_VERSION = (
    "CREATE TABLE content_version (version BIGINT NOT NULL)",
    "INSERT INTO content_version (version) VALUES (1)",
    f"CREATE TRIGGER tag_moved AFTER UPDATE OF digest ON tags "
    f"WHEN old.digest IS NOT new.digest {_CHANGED}",
    f"CREATE TRIGGER tag_gone AFTER DELETE ON tags {_CHANGED}",
    f"CREATE TRIGGER manifest_changed AFTER UPDATE OF media_type ON manifests "
    f"WHEN old.media_type IS NOT new.media_type {_CHANGED}",
    f"CREATE TRIGGER manifest_gone AFTER DELETE ON manifests {_CHANGED}",
    f"CREATE TRIGGER link_gone AFTER DELETE ON links {_CHANGED}",
    f"CREATE TRIGGER link_deleted AFTER UPDATE OF deleted_at ON links "
    f"WHEN new.deleted_at IS NOT NULL {_CHANGED}",
    f"CREATE TRIGGER blob_moved AFTER UPDATE OF location ON blobs "
    f"WHEN old.location IS NOT new.location {_CHANGED}",
    f"CREATE TRIGGER blob_gone AFTER DELETE ON blobs {_CHANGED}",
)


def prepare(database: Database) -> None:
    """Create the tables where there are none, or those that later versions added.

    Raises:
        SystemFailureError: the database was made by a later version.
    """
    with database.write(durable=True) as session:
        if session.for_update:
            # Replicas that start together: one makes the tables, the others wait for it.
            session.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
        session.execute("CREATE TABLE IF NOT EXISTS meta (version BIGINT PRIMARY KEY)")
        rows = session.execute("SELECT version FROM meta")
        found = rows[0][0] if rows else 0
        if found > VERSION:
            message = f"{database.url}: schema {found} is of a later version of Pallet"
            raise SystemFailureError(message)
        steps = [*(_TABLES if found < 1 else ()), *(_DELIVERIES if found < 2 else ())]
        if found < 2 and not session.for_update:
            steps += _CONTENT_VERSION
        for statement in steps:
            session.execute(statement.format(blob=database.blob_type, text=database.text_type))
        if found < VERSION:
            session.execute("DELETE FROM meta")
            session.execute("INSERT INTO meta (version) VALUES (?)", (VERSION,))
