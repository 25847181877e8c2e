"""All SQL: the records of containers, images, networks, volumes, layers, leases and addresses.

Owns   ``meta.db`` (SQLite, WAL) and its migrations. Records are opaque bytes: their documents belong
       to the packages that write them.
Runs   in the daemon, on any thread: one connection behind one lock. A statement takes some tens of
       microseconds and waits for no disk, which is less than a hop to another thread costs, so calls
       on the container start path may be made on the loop thread; big scans belong on a worker.
Needs  a local file system (WAL shares memory through the file system).

Durability: ``synchronous=NORMAL`` in WAL mode never calls fsync at a commit. A killed daemon loses
nothing; a power cut can lose the last commits but never corrupts or reorders them. SQLite's own
checkpoints are off, since they would fsync inside some unlucky commit (10 ms here): after every
``_CHECKPOINT_COMMITS`` a thread does that on a connection of its own, and writers go on.

On a full disk a reserve beside the file is let go of, so that what frees space can be recorded.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pallet.errors import SystemFailureError
from pallet.storage import migrations
from pallet.storage.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pallet.types import DiffID, Digest, ImageId

_CHECKPOINT_COMMITS = 400
"""About 6 MB of WAL with usual records."""
_BUSY_MS = 5000
_PAGE_BYTES = 8192


class MetadataVersionError(SystemFailureError):
    """The store was written by a later version of Pallet."""


class Metadata:
    """Every record Pallet keeps. Methods are single statements, atomic on their own."""

    def __init__(self, path: Path) -> None:
        """Open or create the store and migrate it.

        Raises:
            MetadataVersionError: the store is of a later version.
            SystemFailureError: the file is not a store.
        """
        self._path = path
        self.lock = threading.RLock()
        """Hold it to keep every other writer out while something beside the store changes too
        (a layer's directory, a blob). Take it after any other lock, and never for long."""
        self._depth = 0
        self._commits = 0
        self._leases: dict[str, set[tuple[str, str]]] = {}
        self._checkpointer: threading.Thread | None = None
        # Statements are few and fixed; the default cache of 128 holds them all, prepared.
        self._reserve = Reserve(f"{os.fspath(self._path)}-reserve")
        self._db = self._connect()
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise
        self._reserve.make()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False,
                             timeout=_BUSY_MS / 1000)
        db.execute("PRAGMA wal_autocheckpoint=0")
        return db

    def _prepare(self) -> None:
        try:
            # Of a new store only. Nearly every container's record fits a leaf of this size, so that a
            # commit writes that one page, not overflow pages, the list of free ones and the header.
            self._db.execute(f"PRAGMA page_size={_PAGE_BYTES}")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA temp_store=MEMORY")
            migrations.migrate(self._db)
        except migrations.LaterVersionError as error:
            message = f"{self._path}: {error}"
            raise MetadataVersionError(message) from error
        except sqlite3.Error as error:
            message = f"cannot open {self._path}: {error}"
            raise SystemFailureError(message) from error

    def close(self) -> None:
        """Fold the WAL into the file and close. Idempotent."""
        if self._checkpointer is not None:
            self._checkpointer.join()
        with self.lock:
            self._db.close()

    def checkpoint(self) -> None:
        """Move the WAL into the database file, with fsync; not on the loop thread."""
        db = self._connect()
        try:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        finally:
            db.close()
        self._reserve.make()

    def _committed(self) -> None:
        self._commits += 1
        if self._commits < _CHECKPOINT_COMMITS:
            return
        if self._checkpointer is None or not self._checkpointer.is_alive():
            self._commits = 0
            self._checkpointer = threading.Thread(target=self.checkpoint, name="pallet-checkpoint",
                                                  daemon=True)
            self._checkpointer.start()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the calls inside one atomic commit. Nests; other threads wait, so keep it short.

        Raises:
            SystemFailureError: the disk is full or broken; nothing of it was written.
        """
        with self.lock:
            outermost = self._depth == 0
            if outermost:
                self._reserve.ease()  # SQLite may take back all of it when its commit finds no room
                self._control("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if outermost:
                    self._roll_back()
                raise
            self._depth -= 1
            if outermost:
                self._control("COMMIT")
                self._committed()

    def _control(self, statement: str) -> None:
        try:
            self._db.execute(statement)
        except sqlite3.Error as error:
            if self._room_given(error) and self._db.in_transaction == (statement == "COMMIT"):
                self._control(statement)
                return
            self._roll_back()
            message = f"cannot write {self._path}: {error}"
            raise SystemFailureError(message) from error

    def _room_given(self, error: sqlite3.Error) -> bool:
        """Whether it failed for want of room and there is some now."""
        return error.sqlite_errorcode == sqlite3.SQLITE_FULL and self._reserve.give()

    def _roll_back(self) -> None:
        """SQLite has done it already after some failures, a full disk among them; after others it has not."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _run(self, sql: str, values: Sequence[Any]) -> int:
        with self.lock:
            try:
                changed = self._db.execute(sql, values).rowcount
            except sqlite3.Error as error:
                if self._room_given(error) and self._db.in_transaction == bool(self._depth):
                    return self._run(sql, values)
                message = f"cannot write {self._path}: {error}"
                raise SystemFailureError(message) from error
            if self._depth == 0:
                self._committed()
            return changed

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self.lock:
            return self._db.execute(sql, values).fetchall()

    # Containers

    def put_container(self, container_id: str, name: str, record: bytes) -> None:
        """Insert or replace a container's record. ``name`` is without the slash."""
        self._run("INSERT INTO containers (id, name, record) VALUES (?1, ?2, ?3)"
                  " ON CONFLICT (id) DO UPDATE SET name = ?2, record = ?3",
                  (container_id, name, record))

    def delete_container(self, container_id: str) -> None:
        """Forget a container. Idempotent."""
        self._run("DELETE FROM containers WHERE id = ?", (container_id,))

    def containers(self) -> list[tuple[str, str, bytes]]:
        """``(id, name, record)`` of every container, in no particular order."""
        return self._rows("SELECT id, name, record FROM containers")

    # Images and their names

    def put_image(self, image_id: ImageId, record: bytes) -> None:
        """Insert or replace an image's record."""
        self._run("INSERT INTO images VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET record = ?2",
                  (image_id, record))

    def delete_image(self, image_id: ImageId) -> None:
        """Forget an image; its tags must be gone. Idempotent."""
        self._run("DELETE FROM images WHERE id = ?", (image_id,))

    def images(self) -> list[tuple[ImageId, bytes]]:
        """``(id, record)`` of every image."""
        return self._rows("SELECT id, record FROM images")

    def put_tag(self, ref: str, image_id: ImageId, manifest_digest: Digest | None) -> None:
        """Point the canonical reference ``ref`` (with tag or digest) at an image."""
        self._run("INSERT INTO tags VALUES (?1, ?2, ?3) ON CONFLICT (ref) DO UPDATE"
                  " SET image_id = ?2, manifest = ?3", (ref, image_id, manifest_digest))

    def delete_tag(self, ref: str) -> None:
        """Forget a reference. Idempotent."""
        self._run("DELETE FROM tags WHERE ref = ?", (ref,))

    def tags(self) -> list[tuple[str, ImageId, Digest | None]]:
        """``(canonical reference, image id, manifest digest or None)`` of every tag, by name."""
        return self._rows("SELECT ref, image_id, manifest FROM tags ORDER BY ref")

    # Layers

    def next_layer_number(self) -> int:
        """A directory number no layer has had before."""
        with self.lock:
            row = self._db.execute(
                "UPDATE counters SET value = value + 1 WHERE name = 'layer' RETURNING value"
            ).fetchone()
            return int(row[0])

    def put_layer(self, diff_id: DiffID, record: bytes) -> None:
        """Insert or replace a layer's record."""
        self._run("INSERT INTO layers VALUES (?1, ?2) ON CONFLICT (diff_id) DO UPDATE"
                  " SET record = ?2", (diff_id, record))

    def delete_layer(self, diff_id: DiffID) -> None:
        """Forget a layer. Idempotent."""
        self._run("DELETE FROM layers WHERE diff_id = ?", (diff_id,))

    def layers(self) -> list[tuple[DiffID, bytes]]:
        """``(DiffID, record)`` of every committed layer."""
        return self._rows("SELECT diff_id, record FROM layers")

    # Networks and addresses

    def put_network(self, network_id: str, name: str, record: bytes) -> None:
        """Insert or replace a network's record."""
        self._run("INSERT INTO networks VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE"
                  " SET name = ?2, record = ?3", (network_id, name, record))

    def delete_network(self, network_id: str) -> None:
        """Forget a network and every address leased from it. Idempotent."""
        with self.transaction():
            self._run("DELETE FROM networks WHERE id = ?", (network_id,))
            self._run("DELETE FROM addresses WHERE network_id = ?", (network_id,))

    def networks(self) -> list[tuple[str, str, bytes]]:
        """``(id, name, record)`` of every network."""
        return self._rows("SELECT id, name, record FROM networks")

    def put_address(self, network_id: str, address: str, owner: str) -> bool:
        """Lease ``address`` to ``owner``; False when another owner has it."""
        return self._run(
            "INSERT INTO addresses VALUES (?1, ?2, ?3) ON CONFLICT (network_id, address) DO UPDATE"
            " SET owner = ?3 WHERE owner = ?3", (network_id, address, owner)) > 0

    def delete_addresses(self, owner: str) -> None:
        """Give back every address of ``owner``. Idempotent."""
        self._run("DELETE FROM addresses WHERE owner = ?", (owner,))

    def addresses(self) -> list[tuple[str, str, str]]:
        """``(network id, address, owner)`` of every lease."""
        return self._rows("SELECT network_id, address, owner FROM addresses")

    # Volumes

    def put_volume(self, name: str, record: bytes) -> None:
        """Insert or replace a volume's record."""
        self._run("INSERT INTO volumes VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE"
                  " SET record = ?2", (name, record))

    def delete_volume(self, name: str) -> None:
        """Forget a volume. Idempotent."""
        self._run("DELETE FROM volumes WHERE name = ?", (name,))

    def volumes(self) -> list[tuple[str, bytes]]:
        """``(name, record)`` of every volume, by name."""
        return self._rows("SELECT name, record FROM volumes ORDER BY name")

    # Builds

    def put_build_record(self, record_id: str, record: bytes) -> None:
        """Insert or replace what a build made."""
        self._run("INSERT INTO build_records VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET record = ?2",
                  (record_id, record))

    def put_build_key(self, key: str, record_id: str) -> None:
        """Let a cache key lead to a record."""
        self._run("INSERT INTO build_keys VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET record_id = ?2",
                  (key, record_id))

    def delete_build_record(self, record_id: str) -> None:
        """Forget a record and the keys that lead to it. Idempotent."""
        with self.transaction():
            self._run("DELETE FROM build_records WHERE id = ?", (record_id,))
            self._run("DELETE FROM build_keys WHERE record_id = ?", (record_id,))

    def build_records(self) -> list[tuple[str, bytes]]:
        """``(id, record)`` of everything that builds have made."""
        return self._rows("SELECT id, record FROM build_records")

    def build_keys(self) -> list[tuple[str, str]]:
        """``(cache key, record id)`` of every key."""
        return self._rows("SELECT key, record_id FROM build_keys")

    def put_build_content(self, key: str, digest: str) -> None:
        """Keep the content digest of a part of a chain of layers; ``key`` is ``chain:part``."""
        self._run("INSERT INTO build_contents VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET digest = ?2",
                  (key, digest))

    def delete_build_contents(self, chain: str) -> None:
        """Forget the content digests of a chain. Idempotent."""
        self._run("DELETE FROM build_contents WHERE key >= ? AND key < ?", (f"{chain}:", f"{chain};"))

    def build_contents(self) -> list[tuple[str, str]]:
        """``(key, digest)`` of every content digest."""
        return self._rows("SELECT key, digest FROM build_contents")

    # Leases: in memory, as one that outlives its daemon is nobody's

    def extend_lease(self, lease_id: str, resources: Iterable[tuple[str, str]]) -> None:
        """Protect resources, ``(kind, key)`` with kind ``blob`` or ``layer``, until the lease is deleted."""
        with self.lock:
            self._leases.setdefault(lease_id, set()).update(resources)

    def delete_lease(self, lease_id: str) -> None:
        """End a lease with all it protects. Idempotent."""
        with self.lock:
            self._leases.pop(lease_id, None)

    def leases(self) -> dict[str, set[tuple[str, str]]]:
        """Lease id to the ``(kind, key)`` pairs it protects."""
        with self.lock:
            return {lease_id: set(held) for lease_id, held in self._leases.items()}

    def leased(self, kind: str, key: str) -> bool:
        """Whether any lease protects it."""
        with self.lock:
            return any((kind, key) in held for held in self._leases.values())
