"""storage/content: blobs in, out, and what is refused."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from pallet.paths import DataPaths
from pallet.spec import digest as digests
from pallet.storage.content import BlobNotFoundError, ContentStore, DigestMismatchError
from pallet.types import Digest

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"some bytes of a layer" * 1000
SHA256 = digests.of_bytes(DATA)
SHA512 = digests.of_bytes(DATA, "sha512")


@pytest.fixture
def paths(tmp_path: Path) -> DataPaths:
    return DataPaths(tmp_path)


@pytest.fixture
def content(paths: DataPaths) -> ContentStore:
    return ContentStore(paths)


def left(paths: DataPaths) -> list[str]:
    return os.listdir(paths.ingest)


@pytest.mark.parametrize("digest", [SHA256, SHA512, None])
def test_a_blob_goes_in_and_out(
    content: ContentStore, paths: DataPaths, digest: Digest | None
) -> None:
    with content.ingest(digest) as ingest:
        assert ingest.write(DATA[:100]) == 100
        assert ingest.write(memoryview(DATA)[100:]) == len(DATA)
        assert ingest.commit() == (digest or SHA256)
    stored = digest or SHA256
    assert content.has(stored)
    assert content.read(stored, verify=True) == DATA
    assert content.size(stored) == len(DATA)
    assert content.path(stored).read_bytes() == DATA
    assert list(content.walk()) == [(stored, len(DATA))]
    assert left(paths) == []


def test_the_file_can_be_read_while_it_grows(content: ContentStore) -> None:
    with content.ingest(SHA256) as ingest:
        ingest.write(DATA[:500])
        assert os.pread(ingest.fileno(), 1000, 0) == DATA[:500]
        ingest.write(DATA[500:])
        ingest.commit()
    assert content.read(SHA256) == DATA


def test_a_wrong_digest_leaves_nothing(content: ContentStore, paths: DataPaths) -> None:
    with content.ingest(SHA256) as ingest:
        ingest.write(b"other")
        with pytest.raises(DigestMismatchError, match=f"verification failed for digest {SHA256}"):
            ingest.commit()
    assert not content.has(SHA256)
    assert list(content.walk()) == []
    assert left(paths) == []


def test_an_abandoned_ingest_leaves_nothing(content: ContentStore, paths: DataPaths) -> None:
    with content.ingest(SHA256) as ingest:
        ingest.write(DATA)
    ingest.abort()
    assert not content.has(SHA256)
    assert left(paths) == []


def test_restart_forgets_what_was_written(content: ContentStore) -> None:
    with content.ingest(SHA256) as ingest:
        ingest.write(b"broken transfer" * 10_000)
        ingest.restart()
        assert ingest.size == 0
        ingest.write(DATA)
        assert ingest.commit() == SHA256
    assert content.read(SHA256) == DATA


def test_a_disk_that_refuses_leaves_nothing(
    content: ContentStore, paths: DataPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with content.ingest(SHA256) as ingest:
        ingest.write(DATA)
        with pytest.raises(OSError, match="No space"):
            ingest.commit()
    assert not content.has(SHA256)
    assert left(paths) == []


def test_it_is_on_disk_before_it_has_its_name(
    content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real = os.rename

    def rename(source: str, target: str) -> None:
        steps.append("rename")
        real(source, target)

    monkeypatch.setattr(os, "fdatasync", lambda _fd: steps.append("data"))
    monkeypatch.setattr(os, "fsync", lambda _fd: steps.append("directory"))
    monkeypatch.setattr(os, "rename", rename)
    content.put(DATA)
    assert steps[-3:] == ["data", "rename", "directory"]


def test_the_same_blob_from_several_threads(content: ContentStore, paths: DataPaths) -> None:
    problems: list[BaseException] = []

    def bring() -> None:
        try:
            with content.ingest(SHA256) as ingest:
                ingest.write(DATA)
                ingest.commit()
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            problems.append(error)

    threads = [threading.Thread(target=bring) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert content.read(SHA256) == DATA
    assert left(paths) == []


def test_put_checks_and_is_cheap_the_second_time(
    content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DigestMismatchError):
        content.put(b"other", SHA256)
    assert content.put(DATA, SHA512) == SHA512
    monkeypatch.setattr(content, "ingest", None)
    assert content.put(DATA, SHA512) == SHA512


def test_missing_blobs(content: ContentStore) -> None:
    for ask in (content.read, content.size, content.open):
        with pytest.raises(BlobNotFoundError, match=SHA256):
            ask(SHA256)
    assert content.delete(SHA256) == 0
    assert content.detach(SHA256) is None


def test_delete(content: ContentStore, paths: DataPaths) -> None:
    content.put(DATA)
    assert content.delete(SHA256) == len(DATA)
    assert not content.has(SHA256)
    assert left(paths) == []


def test_damage_on_disk_is_noticed_when_asked(content: ContentStore) -> None:
    content.put(DATA)
    content.path(SHA256).write_bytes(b"rot")
    assert content.read(SHA256) == b"rot"
    with pytest.raises(DigestMismatchError, match="damaged"):
        content.read(SHA256, verify=True)


def test_a_layer_in_the_making_is_synced_with_its_blob(
    content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``durable=False`` leaves the disk alone; the bytes are checked all the same."""
    def refuse(_fd: int) -> None:
        raise AssertionError

    monkeypatch.setattr(os, "fdatasync", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    content.path(SHA256).parent.mkdir()
    content._known_dirs.add(str(content.path(SHA256).parent))
    with content.ingest(SHA256) as ingest:
        ingest.write(DATA)
        ingest.commit(durable=False)
    assert content.read(SHA256) == DATA
    with content.ingest(SHA512) as ingest, pytest.raises(DigestMismatchError):
        ingest.write(DATA + b"x")
        ingest.commit(durable=False)


@pytest.mark.parametrize("damage", [b"", DATA[:-1], DATA + b"x", b"other"])
def test_heal_removes_what_is_damaged(content: ContentStore, damage: bytes) -> None:
    """A sound blob stays, a damaged one goes, so that it can be fetched again."""
    content.put(DATA)
    assert content.heal(SHA256)
    content.path(SHA256).write_bytes(damage)
    assert not content.heal(SHA256)
    assert not content.has(SHA256)
    with pytest.raises(BlobNotFoundError):
        content.heal(SHA256)


def test_sweep_takes_what_a_killed_daemon_left(paths: DataPaths) -> None:
    child = os.fork()
    if child == 0:
        ingest = ContentStore(paths).ingest(SHA256)
        ingest.write(DATA)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    content = ContentStore(paths)
    assert len(left(paths)) == 1
    assert content.sweep() == 1
    assert left(paths) == []
    assert not content.has(SHA256)


def test_sha512_is_not_taken_for_sha256(content: ContentStore) -> None:
    assert hashlib.sha512(DATA).hexdigest() == digests.encoded(content.put(DATA, SHA512))
    assert not content.has(SHA256)
