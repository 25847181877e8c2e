"""Open the metadata of a registry by its URL.

Owns   the choice of a database.
Runs   once, when a registry opens its store.
Needs  nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.registry.metadata import schema
from pallet.registry.metadata.content import ContentTables
from pallet.registry.metadata.database import PostgresDatabase, SqliteDatabase
from pallet.registry.metadata.deliveries import DeliveryTables
from pallet.registry.metadata.garbage import GarbageTables
from pallet.registry.metadata.sessions import UploadTables

if TYPE_CHECKING:
    from pallet.registry.metadata.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataStore:
    """Everything the registry knows, on one database."""

    database: Database
    content: ContentTables
    uploads: UploadTables
    garbage: GarbageTables
    deliveries: DeliveryTables

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def open_metadata(url: str, connections: int = 16) -> MetadataStore:
    """Open, and where it is new create, the metadata.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://…``.
        connections: to PostgreSQL at most; further transactions wait.

    Raises:
        InvalidParameterError: another kind of URL.
        UnavailableError: the server does not answer.
        SystemFailureError: not ours, of a later version, or a package is missing.
    """
    scheme, _, rest = url.partition("://")
    database: Database
    if scheme == "sqlite":
        database = SqliteDatabase(Path(rest))
    elif scheme in {"postgresql", "postgres"}:
        database = PostgresDatabase(url, connections)
    else:
        message = f"invalid database {url!r}: want sqlite:///PATH or postgresql://…"
        raise InvalidParameterError(message)
    try:
        schema.prepare(database)
    except BaseException:
        database.close()
        raise
    return MetadataStore(database=database, content=ContentTables(database),
                         uploads=UploadTables(database), garbage=GarbageTables(database),
                         deliveries=DeliveryTables(database))
