"""The databases under the registry's metadata: what a transaction is, for SQLite and PostgreSQL.

Owns   connections, placeholders, row locks and retries; no statement but the schema's version.
Runs   in the server's threads; a connection is used by one thread at a time.
Needs  for PostgreSQL the package psycopg, imported when such a database is opened.

Serialization: SQLite has one writer at a time (``BEGIN IMMEDIATE``). PostgreSQL runs READ COMMITTED;
what must not change under a transaction is locked by its foreign keys (an insert locks the rows it
refers to) or by ``for_update``.
"""

from __future__ import annotations

import queue
import select
import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from pallet.errors import SystemFailureError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import psycopg

Row = tuple[Any, ...]
_BUSY_S = 30.0
_KEPT_CONNECTIONS = 8
_TRUSTED_S = 1.0
"""A connection that lay idle for longer is asked whether it lives."""


class Session(Protocol):
    """One transaction."""

    for_update: str
    """Appended to a SELECT: locks the rows; rows that others have locked are left out."""
    for_share: str
    """Appended to a SELECT: the rows stay until the end of the transaction."""

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """Run a statement with ``?`` placeholders; its rows, [] for one that returns none."""
        ...


class ContentWatch(Protocol):
    """Tells whether anything was changed that makes a kept reply wrong; for one thread."""

    def version(self) -> int | None:
        """A number that differs once anybody, in any process, has committed such a change.

        None says that it cannot be told just now. Never waits.
        """
        ...

    def close(self) -> None:
        """Let go of the database."""
        ...


class Database(Protocol):
    """A place for the metadata."""

    blob_type: str
    """Column type of bytes."""
    text_type: str
    """Column type of text that sorts by its bytes."""
    url: str

    def read(self) -> AbstractContextManager[Session]:
        """A transaction that only reads."""
        ...

    def write(self, *, durable: bool = False) -> AbstractContextManager[Session]:
        """A transaction; ``durable`` waits for the disk, and for everything committed before."""
        ...

    def is_reference_error(self, error: Exception) -> bool:
        """Whether a statement named a row that is not there, or removed one that is named."""
        ...

    def is_full(self, error: Exception) -> bool:
        """Whether the database has no room."""
        ...

    def is_away(self, error: Exception) -> bool:
        """Whether the database cannot be reached or did not get around to it."""
        ...

    def now(self) -> float:
        """Seconds since the epoch by the clock that all replicas share."""
        ...

    def watch(self) -> ContentWatch | None:
        """Make a watch on the content; None when asking costs as much as reading."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class _SqliteSession:
    for_update = ""
    for_share = ""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(statement, values).fetchall()


class _SqliteWatch:
    """``PRAGMA data_version`` (a look at shared memory, 3 us) says whether to look closer."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
        self._commits = -1
        self._version: int | None = None

    def version(self) -> int | None:
        try:
            ((commits,),) = self._connection.execute("PRAGMA data_version").fetchall()
            if commits != self._commits or self._version is None:
                ((self._version,),) = self._connection.execute(
                    "SELECT version FROM content_version").fetchall()
                self._commits = commits
        except sqlite3.Error:
            return None
        return self._version

    def close(self) -> None:
        self._connection.close()


class SqliteDatabase:
    """A file; replicas on one host may share it.

    Writers hold ``_writing`` too, so that threads of a process queue up instead of polling for the
    file's lock. Commits that are not ``durable`` reach the file but not the disk: a killed process
    loses none, a power cut may lose the last ones, in order; a durable commit syncs all before it.
    """

    blob_type = "BLOB"
    text_type = "TEXT"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = f"sqlite:///{path}"
        self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._writing = threading.Lock()
        self._open()

    def _open(self) -> None:
        try:
            self._writers = {False: self._connect("NORMAL"), True: self._connect("FULL")}
        except sqlite3.Error as error:
            message = f"cannot open {self._path}: {error}"
            raise SystemFailureError(message) from error

    def _connect(self, synchronous: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False,
                                     timeout=_BUSY_S)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA temp_store=MEMORY")
        return connection

    @contextmanager
    def read(self) -> Iterator[Session]:
        """See ``Database``."""
        try:
            connection = self._readers.get_nowait()
        except queue.Empty:
            connection = self._connect("NORMAL")
        try:
            connection.execute("BEGIN")
            try:
                yield _SqliteSession(connection)
            finally:
                connection.execute("COMMIT")
        finally:
            if self._readers.qsize() < _KEPT_CONNECTIONS:
                self._readers.put(connection)
            else:
                connection.close()

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Session]:
        """See ``Database``."""
        with self._writing:
            connection = self._writers[durable]
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield _SqliteSession(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def is_reference_error(self, error: Exception) -> bool:
        """See ``Database``."""
        return isinstance(error, sqlite3.IntegrityError) and "FOREIGN KEY" in str(error)

    def is_full(self, error: Exception) -> bool:
        """See ``Database``; a full disk also shows as an I/O error when the log cannot grow."""
        return isinstance(error, sqlite3.Error) and error.sqlite_errorname.startswith((
            "SQLITE_FULL", "SQLITE_IOERR"))

    def is_away(self, error: Exception) -> bool:
        """See ``Database``."""
        return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)

    def now(self) -> float:
        """See ``Database``."""
        return time.time()

    def watch(self) -> ContentWatch:
        """See ``Database``."""
        return _SqliteWatch(self._path)

    def close(self) -> None:
        """See ``Database``."""
        with self._writing:
            while not self._readers.empty():
                self._readers.get_nowait().close()
            for connection in self._writers.values():
                connection.close()


class _PostgresSession:
    for_update = " FOR UPDATE SKIP LOCKED"
    for_share = " FOR KEY SHARE"

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        # The statements are this package's constants; "%" does not occur in them.
        query = statement.replace("?", "%s")
        cursor = self._connection.execute(query, values)
        return cursor.fetchall() if cursor.description is not None else []


class PostgresDatabase:
    """A PostgreSQL server that any number of replicas share."""

    blob_type = "BYTEA"
    text_type = 'TEXT COLLATE "C"'

    def __init__(self, url: str, connections: int) -> None:
        """Connect.

        Raises:
            UnavailableError: the server does not answer; the message says why.
            SystemFailureError: psycopg is not installed.
        """
        try:
            import psycopg
        except ImportError as error:
            message = "a PostgreSQL database needs psycopg: pip install 'pallet[postgresql]'"
            raise SystemFailureError(message) from error
        self._psycopg = psycopg
        self.url = url
        self._idle: queue.LifoQueue[tuple[float, psycopg.Connection[Row]]] = queue.LifoQueue()
        self._slots = threading.BoundedSemaphore(connections)
        with self.read() as session:
            clock = session.execute("SELECT EXTRACT(EPOCH FROM clock_timestamp())::float8")[0][0]
        self._offset_s = float(clock) - time.time()

    def _connect(self) -> psycopg.Connection[Row]:
        try:
            connection = self._psycopg.connect(self.url, connect_timeout=10)
        except self._psycopg.OperationalError as error:
            message = f"cannot reach the database: {error}"
            raise UnavailableError(message) from error
        return connection

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[Session]:
        with self._slots:
            try:
                since, connection = self._idle.get_nowait()
                # A server that went away has said so; one that idled for long is asked.
                suspect = time.monotonic() - since > _TRUSTED_S or _has_input(connection.fileno())
                if suspect and not self._answers(connection):
                    connection = self._connect()
            except queue.Empty:
                connection = self._connect()
            try:
                with connection.transaction():
                    if not durable:
                        connection.execute("SET LOCAL synchronous_commit TO OFF")
                    yield _PostgresSession(connection)
            finally:
                if connection.closed or connection.broken:
                    connection.close()
                else:
                    self._idle.put((time.monotonic(), connection))

    def _answers(self, connection: psycopg.Connection[Row]) -> bool:
        """Whether a connection that lay idle still lives (the server was restarted?)."""
        try:
            with connection.transaction():
                connection.execute("SELECT 1")
        except self._psycopg.OperationalError:
            connection.close()
            return False
        return True

    @contextmanager
    def read(self) -> Iterator[Session]:
        """See ``Database``."""
        with self._transaction(durable=True) as session:
            yield session

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Session]:
        """See ``Database``."""
        with self._transaction(durable=durable) as session:
            yield session

    def is_reference_error(self, error: Exception) -> bool:
        """See ``Database``."""
        return isinstance(error, self._psycopg.errors.ForeignKeyViolation)

    def is_full(self, error: Exception) -> bool:
        """See ``Database``."""
        return isinstance(error, self._psycopg.errors.DiskFull)

    def is_away(self, error: Exception) -> bool:
        """See ``Database``; a deadlock's victim is told to come again as well."""
        return isinstance(error, UnavailableError | self._psycopg.OperationalError)

    def now(self) -> float:
        """See ``Database``."""
        return time.time() + self._offset_s

    def watch(self) -> None:
        """See ``Database``: a round trip either way."""

    def close(self) -> None:
        """See ``Database``."""
        while not self._idle.empty():
            self._idle.get_nowait()[1].close()


def _has_input(fd: int) -> bool:
    """Whether something was sent unasked, or the connection ended."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
