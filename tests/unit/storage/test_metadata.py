"""storage/metadata and migrations: records, transactions, versions."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest

from pallet.errors import SystemFailureError
from pallet.storage import migrations
from pallet.storage.leases import Lease
from pallet.storage.metadata import Metadata, MetadataVersionError
from pallet.types import DiffID, Digest, ImageId

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGE = ImageId("sha256:" + "1" * 64)


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[Metadata]:
    opened = Metadata(tmp_path / "meta.db")
    yield opened
    opened.close()


def test_records_come_back(metadata: Metadata, tmp_path: Path) -> None:
    metadata.put_container("c1", "name", b"\0record")
    metadata.put_container("c1", "other", b"newer")
    metadata.put_image(IMAGE, b"i")
    metadata.put_tag("docker.io/library/b:1", IMAGE, Digest("sha256:m"))
    metadata.put_tag("docker.io/library/a:1", IMAGE, None)
    metadata.put_layer(DiffID("sha256:l"), b"l")
    metadata.put_network("n1", "bridge", b"n")
    metadata.put_volume("v1", b"v")
    metadata.close()
    again = Metadata(tmp_path / "meta.db")
    try:
        assert again.containers() == [("c1", "other", b"newer")]
        assert again.images() == [(IMAGE, b"i")]
        assert again.tags() == [("docker.io/library/a:1", IMAGE, None),
                                ("docker.io/library/b:1", IMAGE, "sha256:m")]
        assert again.layers() == [("sha256:l", b"l")]
        assert again.networks() == [("n1", "bridge", b"n")]
        assert again.volumes() == [("v1", b"v")]
        again.delete_container("c1")
        again.delete_container("c1")
        again.delete_tag("docker.io/library/a:1")
        again.delete_image(IMAGE)
        again.delete_layer(DiffID("sha256:l"))
        again.delete_network("n1")
        again.delete_volume("v1")
        left = [again.containers(), again.images(), again.layers(), again.networks(),
                again.volumes()]
        assert left == [[]] * 5
        assert len(again.tags()) == 1
    finally:
        again.close()


def test_addresses_belong_to_one_owner(metadata: Metadata) -> None:
    assert metadata.put_address("net", "10.0.0.2", "c1")
    assert metadata.put_address("net", "10.0.0.2", "c1")
    assert not metadata.put_address("net", "10.0.0.2", "c2")
    assert metadata.put_address("other", "10.0.0.2", "c2")
    assert metadata.addresses() == [("net", "10.0.0.2", "c1"), ("other", "10.0.0.2", "c2")]
    metadata.delete_addresses("c1")
    assert metadata.put_address("net", "10.0.0.2", "c2")
    metadata.delete_network("net")
    assert metadata.addresses() == [("other", "10.0.0.2", "c2")]


def test_layer_numbers_are_never_used_twice(metadata: Metadata, tmp_path: Path) -> None:
    first = metadata.next_layer_number()
    metadata.close()
    again = Metadata(tmp_path / "meta.db")
    assert again.next_layer_number() == first + 1
    again.close()


def test_leases(metadata: Metadata) -> None:
    with Lease(metadata) as lease:
        lease.add_blob(Digest("sha256:b"))
        lease.add_layer(DiffID("sha256:l"))
        lease.add_layer(DiffID("sha256:l"))
        assert metadata.leases() == {lease.id: {("blob", "sha256:b"), ("layer", "sha256:l")}}
        assert metadata.leased("blob", "sha256:b")
        assert not metadata.leased("layer", "sha256:b")
    assert metadata.leases() == {}
    assert not metadata.leased("blob", "sha256:b")


def test_what_comes_after_a_leases_end_is_not_protected(metadata: Metadata) -> None:
    """A thread that works on for a build that was cancelled must not bring its lease back."""
    lease = Lease(metadata)
    lease.add_blob(Digest("sha256:b"))
    lease.end()
    lease.add_blob(Digest("sha256:late"))
    lease.add_layer(DiffID("sha256:late"))
    lease.end()
    assert metadata.leases() == {}
    assert not metadata.leased("layer", "sha256:late")


def test_transactions_are_all_or_nothing(metadata: Metadata) -> None:
    with pytest.raises(ZeroDivisionError), metadata.transaction():
        metadata.put_volume("v", b"1")
        with metadata.transaction():
            metadata.put_volume("w", b"1")
        1 / 0  # noqa: B018
    assert metadata.volumes() == []
    with metadata.transaction():
        metadata.put_volume("v", b"1")
    assert metadata.volumes() == [("v", b"1")]


def test_threads_may_share_it(metadata: Metadata) -> None:
    def work(name: str) -> None:
        for number in range(50):
            with metadata.transaction():
                metadata.put_container(f"{name}{number}", name, b"x")
                metadata.put_volume(f"{name}{number}", b"x")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(metadata.containers()) == len(metadata.volumes()) == 200


def test_the_log_is_folded_in_by_another_thread(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    threads: list[str] = []
    real = metadata.checkpoint

    def checkpoint() -> None:
        threads.append(threading.current_thread().name)
        real()

    monkeypatch.setattr(metadata, "checkpoint", checkpoint)
    for number in range(399):
        metadata.put_container("c", str(number), b"x" * 3000)
    assert threads == []
    for number in range(2000):
        metadata.put_container("c", str(number), b"x" * 3000)
    assert threads
    assert set(threads) == {"pallet-checkpoint"}
    assert metadata.containers() == [("c", "1999", b"x" * 3000)]
    assert metadata._checkpointer is not None
    metadata._checkpointer.join()  # two at a time: one of them does nothing
    real()
    size = (tmp_path / "meta.db-wal").stat().st_size
    for number in range(10):
        metadata.put_container("c", str(number), b"x" * 3000)
    assert (tmp_path / "meta.db-wal").stat().st_size == size, "the log begins anew"


def test_a_killed_daemon_loses_nothing(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        opened = Metadata(tmp_path / "meta.db")
        opened.put_volume("v", b"1")
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    again = Metadata(tmp_path / "meta.db")
    assert again.volumes() == [("v", b"1")]
    again.close()


def test_later_version_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    Metadata(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(MetadataVersionError, match="version 99"):
        Metadata(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (99,)
    db.close()


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(SystemFailureError, match="not a database"):
        Metadata(tmp_path / "meta.db")


def test_an_update_of_a_usual_record_writes_one_page(tmp_path: Path) -> None:
    with contextlib.closing(Metadata(tmp_path / "meta.db")) as metadata:
        metadata.put_container("a", "n", b"x" * 5000)
        wal = tmp_path / "meta.db-wal"
        before = wal.stat().st_size
        metadata.put_container("a", "n", b"y" * 5100)
        assert wal.stat().st_size - before == 24 + 8192


class TestMigrations:
    """Each migration, from the version before it."""

    def test_1_makes_the_tables(self) -> None:
        db = sqlite3.connect(":memory:", isolation_level=None)
        migrations.migrate(db)
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        assert names == {"containers", "images", "tags", "layers", "networks", "addresses",
                         "volumes", "counters",
                         "build_records", "build_keys", "build_contents"}
        assert db.execute("PRAGMA user_version").fetchone() == (migrations.CURRENT,)
        db.close()

    def test_2_keeps_the_containers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        db = sqlite3.connect(":memory:", isolation_level=None)
        with monkeypatch.context() as patch:
            patch.setattr(migrations, "CURRENT", 1)
            migrations.migrate(db)
        db.execute("INSERT INTO containers VALUES ('i', 'n', x'01')")
        migrations.migrate(db)
        assert db.execute("SELECT id, name, record FROM containers").fetchall() == [
            ("i", "n", b"\x01")]
        assert db.execute("PRAGMA index_list(containers)").fetchall()
        db.close()

    def test_4_drops_leases_of_dead_daemons(self, monkeypatch: pytest.MonkeyPatch) -> None:
        db = sqlite3.connect(":memory:", isolation_level=None)
        with monkeypatch.context() as patch:
            patch.setattr(migrations, "CURRENT", 3)
            migrations.migrate(db)
        db.execute("INSERT INTO leases VALUES ('l')")
        db.execute("INSERT INTO lease_resources VALUES ('l', 'blob', 'sha256:b')")
        migrations.migrate(db)
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name LIKE 'lease%'").fetchall()
        db.close()

    def test_running_again_changes_nothing(self) -> None:
        db = sqlite3.connect(":memory:", isolation_level=None)
        migrations.migrate(db)
        db.execute("INSERT INTO volumes VALUES ('v', x'00')")
        migrations.migrate(db)
        assert db.execute("SELECT count(*) FROM volumes").fetchone() == (1,)
        db.close()

    def test_a_failing_step_leaves_the_version_before(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        db = sqlite3.connect(":memory:", isolation_level=None)
        broken = "CREATE TABLE extra (x); CREATE TABLE volumes (x);"
        monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, broken))
        monkeypatch.setattr(migrations, "CURRENT", migrations.CURRENT + 1)
        with pytest.raises(sqlite3.Error, match="already exists"):
            migrations.migrate(db)
        assert db.execute("PRAGMA user_version").fetchone() == (migrations.CURRENT - 1,)
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name='extra'").fetchall()
        db.close()


def test_a_full_disk_undoes_a_transaction_and_no_more(tmp_path: Path) -> None:
    """SQLite rolls some failures back by itself; what comes after them works, and they say what they were."""
    store = Metadata(tmp_path / "meta.db")
    store.put_volume("before", b"")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    for _ in range(2):
        with pytest.raises(SystemFailureError, match="full"), store.transaction():
            store.put_volume("within", b"")
            store.put_volume("large", bytes(1 << 20))
    store._db.execute(f"PRAGMA max_page_count={1 << 20}")
    assert [name for name, _ in store.volumes()] == ["before"]
    store.put_volume("large", bytes(1 << 20))
    store.delete_volume("before")
    assert [name for name, _ in store.volumes()] == ["large"]
    store.close()
