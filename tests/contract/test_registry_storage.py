"""The registry's storage drivers and databases: one suite on all of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
from typing import TYPE_CHECKING

import pytest

from pallet.registry.blobs.driver import BlobDriver, UploadBrokenError, UploadState
from pallet.registry.blobs.filesystem import FileSystemDriver
from pallet.registry.check import check
from pallet.registry.codes import RegistryHttpError
from pallet.registry.config import RetentionRule
from pallet.registry.gc import collect
from pallet.registry.manifests import record_of
from pallet.registry.messages import FileRange, Stream
from pallet.registry.metadata.content import MissingContentError
from pallet.registry.store import RegistryStore, open_store
from pallet.spec import digest as digests
from pallet.types import Digest
from tests.support import registrystore as stores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pallet.registry.config import RegistryConfig, S3Config

FILES = pytest.param("filesystem", id="filesystem")
S3 = pytest.param("s3", id="s3", marks=pytest.mark.needs("object_store"))
SQLITE = pytest.param("sqlite", id="sqlite")
POSTGRES = pytest.param("postgresql", id="postgresql", marks=pytest.mark.needs("postgresql"))
MIB = 1 << 20


@pytest.fixture(params=[FILES, S3])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobDriver]:
    made: BlobDriver
    if request.param == "s3":
        import msgspec

        from pallet.registry.blobs.s3 import S3Driver
        config = request.getfixturevalue("s3_server")
        made = S3Driver(msgspec.structs.replace(config, prefix=f"{os.urandom(4).hex()}/"))
    else:
        made = FileSystemDriver(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=[SQLITE, POSTGRES])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> RegistryConfig:
    url = ""
    if request.param == "postgresql":
        url = stores.new_database(request.getfixturevalue("postgres_server"))
    return stores.settings(tmp_path, database=url)


@pytest.fixture
def store(config: RegistryConfig) -> Iterator[RegistryStore]:
    with contextlib.closing(open_store(config)) as made:
        yield made


# Drivers

ID = "ab" * 16


def pattern(size: int) -> bytes:
    return bytes(os.urandom(1024)) * (size // 1024) + b"e" * (size % 1024)


def chunks(data: bytes) -> Iterator[bytes]:
    yield from (data[at:at + 300_000] for at in range(0, len(data), 300_000))


@pytest.mark.parametrize("sizes", [(0,), (10,), (3, 4), (6 * MIB, 10), (10, 11 * MIB), (5 * MIB, 5 * MIB)])
def test_chunks_make_one_object(driver: BlobDriver, sizes: tuple[int, ...]) -> None:
    """Whatever the sizes of the chunks, also when another process stores each of them."""
    state, whole = UploadState(upload_id=ID), b""
    for number, size in enumerate(sizes):
        data = pattern(size)
        state = driver.append(state, chunks(data), writer=f"{number:08x}")
        whole += data
        assert state.size == len(whole)
    digest = digests.of_bytes(whole)
    location = driver.finish(state, digest)
    assert location == driver.location_of(ID, digest)
    assert driver.size(location) == len(whole)
    assert b"".join(driver.read(location)) == whole
    assert driver.finish(state, digest) == location
    assert [(found.location, found.size, found.upload_id) for found in driver.objects()] == [
        (location, len(whole), ID)]
    assert list(driver.uploads()) == []
    driver.delete(location)
    driver.delete(location)
    assert driver.size(location) is None
    with pytest.raises(FileNotFoundError):
        list(driver.read(location))


def test_ranges(driver: BlobDriver) -> None:
    state = driver.append(UploadState(upload_id=ID), [b"0123456789"], writer="a")
    location = driver.finish(state, digests.of_bytes(b"0123456789"))
    assert b"".join(driver.read(location, 2, 3)) == b"234"
    assert b"".join(driver.read(location, 8)) == b"89"
    body = driver.body(location, 2, 3)
    assert isinstance(body, FileRange | Stream)
    if isinstance(body, Stream):
        assert b"".join(body.chunks) == b"234"
    else:
        assert body.path.read_bytes()[body.offset:body.offset + body.length] == b"234"


def test_what_broke_off_is_no_part_of_the_upload(driver: BlobDriver) -> None:
    """A request that dies in the middle leaves the session as it was; the next one is whole."""
    state = driver.append(UploadState(upload_id=ID), [b"x" * 10], writer="a")

    def broken() -> Iterator[bytes]:
        yield b"y" * (7 * MIB)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        driver.append(state, broken(), writer="a")
    state = driver.append(state, [b"z" * 5], writer="a")
    location = driver.finish(state, digests.of_bytes(b"x" * 10 + b"z" * 5))
    assert b"".join(driver.read(location)) == b"x" * 10 + b"z" * 5


def test_a_late_writer_cannot_change_another_ones_upload(driver: BlobDriver) -> None:
    """A request that hangs on one replica and its retry on another store to the same session."""
    start = driver.append(UploadState(upload_id=ID), [b"a" * (5 * MIB)], writer="aaaa")
    retried = driver.append(start, [b"b" * (6 * MIB)], writer="bbbb")
    driver.append(start, [b"c" * (6 * MIB)], writer="aaaa")
    whole = b"a" * (5 * MIB) + b"b" * (6 * MIB)
    try:
        location = driver.finish(retried, digests.of_bytes(whole))
    except UploadBrokenError:
        return  # the object store noticed; the client begins anew
    assert b"".join(driver.read(location)) == whole


def test_discard(driver: BlobDriver) -> None:
    driver.append(UploadState(upload_id=ID), [b"x" * (6 * MIB)], writer="a")
    assert {upload_id for upload_id, _ in driver.uploads()} == {ID}
    driver.discard(ID)
    driver.discard(ID)
    assert list(driver.uploads()) == []


def test_chunks_after_a_discard_are_refused(driver: BlobDriver) -> None:
    """The session was dropped under a request: it is told, and leaves nothing that counts."""
    state = driver.append(UploadState(upload_id=ID), [b"x" * (6 * MIB)], writer="aaaa")
    driver.discard(ID)
    with pytest.raises(UploadBrokenError):
        driver.finish(driver.append(state, [b"y" * (6 * MIB)], writer="bbbb"), digests.of_bytes(b"z"))


@pytest.mark.needs("object_store")
def test_redirect(s3_server: S3Config) -> None:
    """The presigned URL gives the content, and the range, without credentials."""
    import msgspec
    import urllib3

    from pallet.registry.blobs.driver import Redirect
    from pallet.registry.blobs.s3 import S3Driver
    with contextlib.closing(S3Driver(msgspec.structs.replace(s3_server, prefix="r/", redirect=True))) as driver:
        state = driver.append(UploadState(upload_id=ID), [b"0123456789"], writer="a")
        body = driver.body(driver.finish(state, digests.of_bytes(b"0123456789")), 0, 10)
        assert isinstance(body, Redirect)
        with urllib3.PoolManager() as http:
            assert http.request("GET", body.url).data == b"0123456789"
            assert http.request("GET", body.url, headers={"Range": "bytes=3-4"}).data == b"34"


def test_whole_file_becomes_an_object(driver: BlobDriver, tmp_path: Path) -> None:
    data = pattern(7 * MIB + 3)
    file = tmp_path / "file"
    file.write_bytes(data)
    digest = digests.of_bytes(data)
    location = driver.adopt(file, ID, digest)
    assert location == driver.location_of(ID, digest)
    assert b"".join(driver.read(location)) == data
    assert list(driver.uploads()) == []


# Metadata, through the store


def test_blobs_belong_to_repositories(store: RegistryStore) -> None:
    digest = stores.push_blob(store, "a", b"data")
    assert store.blob("a", digest).size == 4
    with pytest.raises(RegistryHttpError, match="blob unknown"):
        store.blob("b", digest)
    assert not store.mount("b", Digest("sha256:" + "0" * 64))
    assert store.mount("b", digest)
    assert store.holders(digest) == ["a", "b"]
    store.delete_blob("a", digest)
    assert store.holders(digest) == ["b"]
    with pytest.raises(RegistryHttpError, match="blob unknown"):
        store.delete_blob("a", digest)


def test_manifests_tags_and_lists(store: RegistryStore) -> None:
    blob = stores.push_blob(store, "z/a", b"config")
    record = stores.image([blob])
    store.put_manifest("z/a", record, ["b", "B", "a-1", "a.1"])
    assert store.manifest("z/a", record.digest).raw == record.raw
    assert store.tags("z/a") == ["B", "a-1", "a.1", "b"], "by bytes, in every locale"
    assert store.tags("z/a", "a-1", 1) == ["a.1"]
    assert store.resolve("z/a", "b") == record.digest
    store.untag("z/a", "b")
    with pytest.raises(RegistryHttpError, match="manifest unknown"):
        store.resolve("z/a", "b")
    stores.push_blob(store, "A-upper".lower(), b"x")
    assert store.repositories() == ["a-upper", "z/a"]
    assert store.repositories("a-upper", 5) == ["z/a"]
    with pytest.raises(RegistryHttpError, match="not known"):
        store.tags("none")
    store.delete_manifest("z/a", record.digest)
    assert store.tags("z/a") == []
    with pytest.raises(RegistryHttpError, match="manifest unknown"):
        store.delete_manifest("z/a", record.digest)


def test_a_manifest_is_all_or_nothing(store: RegistryStore) -> None:
    missing = digests.of_bytes(b"never pushed")
    blob = stores.push_blob(store, "a", b"config")
    with pytest.raises(RegistryHttpError) as error:
        store.put_manifest("a", stores.image([blob, missing]), ["v1"])
    assert (error.value.code, error.value.detail) == ("MANIFEST_BLOB_UNKNOWN", {"digest": missing})
    assert store.tags("a") == []
    assert store.metadata.garbage.manifests("a") == []


def test_referrers(store: RegistryStore) -> None:
    blob = stores.push_blob(store, "a", b"config")
    subject = digests.of_bytes(b"absent yet")
    first = stores.image([blob], subject={"mediaType": "x/y", "digest": subject, "size": 1},
                         artifactType="t/one", annotations={"k": "v"})
    store.put_manifest("a", first, [])
    (found,) = store.referrers("a", subject)
    assert (found["digest"], found["artifactType"], found["annotations"]) == (first.digest, "t/one", {"k": "v"})
    store.delete_manifest("a", first.digest)
    assert store.referrers("a", subject) == []


def test_sessions_are_shared_and_fenced(config: RegistryConfig) -> None:
    """Two replicas: the second goes on; what the first still sends is refused and changes nothing."""
    with contextlib.closing(open_store(config)) as one, contextlib.closing(open_store(config)) as two:
        upload = one.uploads.begin("a")
        upload.append(io.BytesIO(b"one"))
        late = one.uploads.get("a", upload.record.id)
        other = two.uploads.get("a", upload.record.id)
        assert other.size == 3
        other.append(io.BytesIO(b"two"))
        with pytest.raises(RegistryHttpError) as error:
            late.append(io.BytesIO(b"late"))
        assert error.value.code == "BLOB_UPLOAD_INVALID"
        again = one.uploads.get("a", upload.record.id)
        again.append(io.BytesIO(b"three"))
        digest = digests.of_bytes(b"onetwothree")
        two.uploads.get("a", upload.record.id).finish(digest)
        assert stores.content(one, "a", digest) == b"onetwothree"
        with pytest.raises(RegistryHttpError) as error:
            one.uploads.get("a", upload.record.id)
        assert error.value.code == "BLOB_UPLOAD_UNKNOWN"
        assert list(check(one)) == []


def test_wrong_digest_ends_the_session(store: RegistryStore) -> None:
    upload = store.uploads.begin("a")
    upload.append(io.BytesIO(b"data"))
    with pytest.raises(RegistryHttpError) as error:
        upload.finish(digests.of_bytes(b"other"))
    assert error.value.code == "DIGEST_INVALID"
    assert store.metadata.uploads.all() == []
    assert list(store.driver.objects()) == list(store.driver.uploads()) == []


def test_same_content_twice_is_kept_once(store: RegistryStore) -> None:
    first = stores.push_blob(store, "a", b"same")
    stores.push_blob(store, "b", b"same")
    assert len(list(store.driver.objects())) == 1
    assert store.holders(first) == ["a", "b"]
    assert store.metadata.uploads.all() == []


def test_the_end_of_an_upload_is_decided_once(store: RegistryStore) -> None:
    """A session dropped (or ended by a retry) while its content is being stored is not published."""
    upload = store.uploads.begin("a")
    upload.append(io.BytesIO(b"data"))
    finish = store.driver.finish

    def finish_late(state: UploadState, digest: Digest) -> str:
        location = finish(state, digest)
        store.uploads.drop(upload.record)  # the collector, on another replica
        return location

    store.driver.finish = finish_late  # type: ignore[method-assign]
    with pytest.raises(RegistryHttpError) as error:
        upload.finish(digests.of_bytes(b"data"))
    assert error.value.code == "BLOB_UPLOAD_INVALID"
    assert store.holders(digests.of_bytes(b"data")) == []
    assert list(store.driver.objects()) == list(check(store)) == []


# Collection


def test_collection_removes_what_nothing_needs(store: RegistryStore) -> None:
    kept, lost = stores.push_blob(store, "a", b"kept"), stores.push_blob(store, "a", b"lost")
    record = stores.image([kept])
    store.put_manifest("a", record, ["v1"])
    done = collect(store)
    assert (done.links, done.blobs, done.freed_bytes) == (1, 1, 4)
    assert store.blob("a", kept)
    with pytest.raises(RegistryHttpError):
        store.blob("a", lost)
    store.delete_manifest("a", record.digest)
    assert collect(store).blobs == 1
    assert list(store.driver.objects()) == []
    assert store.repositories() == []
    assert list(check(store)) == []


def test_deleted_blob_of_a_living_manifest_comes_back_with_a_push(store: RegistryStore) -> None:
    blob = stores.push_blob(store, "a", b"layer")
    store.put_manifest("a", stores.image([blob]), ["v1"])
    store.delete_blob("a", blob)
    collect(store)
    with pytest.raises(RegistryHttpError):
        store.blob("a", blob)
    stores.push_blob(store, "a", b"layer")
    assert stores.content(store, "a", blob) == b"layer"


def test_retention(config: RegistryConfig) -> None:
    """Old tags go, then manifests that nothing holds; lists and subjects hold what is theirs."""
    import msgspec
    rules = (RetentionRule(tags=("v*",), keep_last=1, untagged_days=0.0),)
    with contextlib.closing(open_store(msgspec.structs.replace(config, retention=rules))) as store:
        blob = stores.push_blob(store, "a", b"config")
        images = [stores.image([blob], annotations={"n": str(number)}) for number in range(4)]
        for number, record in enumerate(images[:2]):
            store.put_manifest("a", record, [f"v{number}"])
        child, signature = images[2], stores.image(
            [blob], subject={"mediaType": "x", "digest": images[1].digest, "size": 1})
        store.put_manifest("a", child, [])
        raw = json.dumps({"schemaVersion": 2, "manifests": [
            {"mediaType": child.media_type, "digest": child.digest, "size": 1}]}).encode()
        index = record_of(digests.of_bytes(raw), "application/vnd.oci.image.index.v1+json", raw, json.loads(raw))
        store.put_manifest("a", index, ["list"])
        store.put_manifest("a", signature, [])
        before = {found.digest for found in store.metadata.garbage.manifests("a")}
        would = collect(store, dry_run=True)
        assert (would.tags, would.manifests) == (["a:v0"], [])
        assert {found.digest for found in store.metadata.garbage.manifests("a")} == before
        assert collect(store).tags == ["a:v0"]
        collect(store)
        left = {found.digest for found in store.metadata.garbage.manifests("a")}
        assert left == {images[1].digest, child.digest, index.digest, signature.digest}
        store.delete_manifest("a", index.digest)
        store.delete_manifest("a", images[1].digest)
        collect(store)
        assert store.metadata.garbage.manifests("a") == []
        collect(store)
        assert store.repositories() == []


def test_a_list_needs_its_children(store: RegistryStore) -> None:
    missing = digests.of_bytes(b"never pushed")
    raw = json.dumps({"schemaVersion": 2, "manifests": [{"mediaType": "x", "digest": missing, "size": 1}]}).encode()
    index = record_of(digests.of_bytes(raw), "application/vnd.oci.image.index.v1+json", raw, json.loads(raw))
    with pytest.raises(RegistryHttpError) as error:
        store.put_manifest("a", index, ["v1"])
    assert (error.value.code, error.value.detail) == ("MANIFEST_BLOB_UNKNOWN", {"digest": missing})


def test_a_tag_set_again_is_not_removed(store: RegistryStore) -> None:
    """Retention looked at it before the push; what it removes is what it looked at."""
    record = stores.image([stores.push_blob(store, "a", b"config")])
    store.put_manifest("a", record, ["v1"])
    (seen,) = store.metadata.content.tags("a")
    store.put_manifest("a", record, ["v1"])
    assert not store.metadata.garbage.drop_tag("a", seen)
    assert store.resolve("a", "v1") == record.digest


def test_removal_and_reference_meet_at_every_order(store: RegistryStore) -> None:
    """The collector's plan is stale by the time it acts: what was named in between stays."""
    garbage, content = store.metadata.garbage, store.metadata.content
    blob = stores.push_blob(store, "a", b"layer")
    record = stores.image([blob])
    future = store.metadata.database.now() + 10
    plan = garbage.unused_links(future, future)
    assert plan == [("a", blob)]
    # 1. The manifest comes between plan and removal.
    store.put_manifest("a", record, ["v1"])
    assert not garbage.drop_unused_link("a", blob, future, future)
    # 2. The removal comes first: the push is refused as a whole.
    store.delete_manifest("a", record.digest)
    assert garbage.drop_unused_link("a", blob, future, future)
    with pytest.raises(MissingContentError):
        content.put_manifest("a", record, ["v1"])
    # 3. Content without a link is pushed again between plan and removal.
    stores.push_blob(store, "b", b"layer")
    assert garbage.drop_unlinked_blobs() == 0
    # 4. It went to the trash, and is pushed again before its object is deleted.
    assert garbage.drop_unused_link("b", blob, future, future)
    assert garbage.drop_unlinked_blobs() == 1
    (trash,) = garbage.trash()
    stores.push_blob(store, "a", b"layer")
    assert store.blob("a", blob).location != trash.location
    collect_only_trash = store.driver.delete
    collect_only_trash(trash.location)
    assert stores.content(store, "a", blob) == b"layer"


@pytest.mark.needs("postgresql")
def test_a_removal_waits_for_a_push_that_names_the_row(tmp_path: Path, postgres_server: str) -> None:
    """In PostgreSQL both transactions run at once: the row's lock decides, not the clock."""
    made = open_store(stores.settings(tmp_path, database=stores.new_database(postgres_server)))
    with contextlib.closing(made) as store:
        blob = stores.push_blob(store, "a", b"layer")
        store.put_manifest("a", stores.image([stores.push_blob(store, "a", b"c")]), ["v1"])
        future = store.metadata.database.now() + 10
        with store.metadata.database.write() as push:
            push.execute("INSERT INTO needs (repository, manifest, digest) SELECT 'a', digest, ? "
                         "FROM manifests", (blob,))
            # Uncommitted, so the collector cannot see it; it is locked, so it is left alone.
            assert not store.metadata.garbage.drop_unused_link("a", blob, future, future)
        assert not store.metadata.garbage.drop_unused_link("a", blob, future, future)


def test_pushes_while_collecting(config: RegistryConfig) -> None:
    """Pushers that share content, on two replicas, and a collector without grace between blob and
    manifest: a push may be told that a blob is unknown, but what was accepted is whole."""
    accepted: list[tuple[str, Digest, list[Digest]]] = []
    done, failures = threading.Event(), []

    def push(store: RegistryStore, worker: int) -> None:
        try:
            for turn in range(6):
                blobs = [stores.push_blob(store, f"r{worker}", f"shared {turn}".encode()),
                         stores.push_blob(store, f"r{worker}", f"own {worker} {turn}".encode())]
                record = stores.image(blobs)
                try:
                    store.put_manifest(f"r{worker}", record, [f"t{turn}"])
                except RegistryHttpError as error:
                    assert error.code == "MANIFEST_BLOB_UNKNOWN"  # noqa: PT017
                    continue
                accepted.append((f"r{worker}", record.digest, blobs))
        except Exception as error:  # noqa: BLE001 - for the assertion at the end
            failures.append(error)

    def sweep(store: RegistryStore) -> None:
        try:
            while not done.is_set():
                collect(store)
        except Exception as error:  # noqa: BLE001 - for the assertion at the end
            failures.append(error)

    with contextlib.closing(open_store(config)) as one, contextlib.closing(open_store(config)) as two:
        pushers = [threading.Thread(target=push, args=(store, worker))
                   for worker, store in enumerate([one, two, one, two])]
        sweepers = [threading.Thread(target=sweep, args=(store,)) for store in (one, two)]
        for thread in [*sweepers, *pushers]:
            thread.start()
        for thread in pushers:
            thread.join()
        done.set()
        for thread in sweepers:
            thread.join()
        assert failures == []
        for name, digest, blobs in accepted:
            assert one.manifest(name, digest)
            for blob in blobs:
                assert digests.of_bytes(stores.content(two, name, blob)) == blob
        collect(one)
        assert list(check(one)) == []


def test_grace_protects_what_a_push_was_told(tmp_path: Path) -> None:
    """HEAD, mount and upload count as use; so does the end of the manifest that needed it."""
    with contextlib.closing(open_store(stores.settings(tmp_path, grace_s=100.0))) as store:
        clock = [1000.0]
        store.metadata.database.now = lambda: clock[0]  # type: ignore[method-assign]
        blob = stores.push_blob(store, "a", b"layer")
        clock[0] += 90
        assert store.blob("a", blob, push=True)
        clock[0] += 90
        assert collect(store).links == 0
        clock[0] += 20
        assert collect(store).links == 1


def test_only_one_collects(config: RegistryConfig) -> None:
    with contextlib.closing(open_store(config)) as store:
        garbage = store.metadata.garbage
        assert garbage.take_task("gc", "one", 60)
        assert garbage.take_task("gc", "one", 60)
        assert not garbage.take_task("gc", "two", 60)
        garbage.release_task("gc", "one")
        assert garbage.take_task("gc", "two", -1)
        assert garbage.take_task("gc", "one", 60), "the holder died: its time is over"


def test_stale_sessions_go(config: RegistryConfig) -> None:
    with contextlib.closing(open_store(config)) as store:
        store.uploads.begin("a").append(io.BytesIO(b"half"))
        assert collect(store).uploads == 0
        now = store.metadata.database.now()
        store.metadata.database.now = lambda: now + 4000  # type: ignore[method-assign]
        assert collect(store).uploads == 1
        assert list(store.driver.uploads()) == []
