"""``pallet registry check``: does the store hold what its records say, and nothing else?

Owns   the list of problems and their repair.
Runs   in the command, beside running servers: what is younger than the grace is left to them.
Needs  a ``RegistryStore``.

Clean is a store in which every blob's object is there with the right content, every manifest hashes
to its digest and has its blobs, every session's pieces are there, and every object belongs to a
blob, a session or the trash. Open sessions are no problem: clients go on with them, or the
collection drops them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pallet.registry.blobs.driver import UploadBrokenError, UploadState
from pallet.spec import digest as digests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pallet.registry.metadata.records import BlobRecord
    from pallet.registry.store import RegistryStore
    from pallet.types import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is not as it should be."""

    subject: str
    message: str
    repaired: str = ""
    """What was done about it; "" for nothing."""


def check(store: RegistryStore, *, repair: bool = False, quick: bool = False) -> Iterator[Problem]:
    """Find, and with ``repair`` mend, what is wrong.

    A damaged or missing blob is forgotten, so that the next push brings it again; nothing that is
    whole is removed but objects that nothing names.

    Args:
        quick: sizes only, content is not read.
    """
    # Objects first: what a push adds while this runs is then on record before it is looked for.
    before = store.metadata.database.now() - store.config.gc.grace_s
    objects = [found for found in store.driver.objects() if found.modified_at < before]
    parts = [found for found in store.driver.uploads() if found[1] < before]
    for blob in store.metadata.garbage.blobs():
        yield from _check_blob(store, blob, repair=repair, quick=quick)
    for name in store.repositories():
        for summary in store.metadata.garbage.manifests(name):
            yield from _check_manifest(store, name, summary.digest, repair=repair)
    yield from _check_uploads(store, repair=repair)
    known = {blob.location for blob in store.metadata.garbage.blobs()}
    known |= {blob.location for blob in store.metadata.garbage.trash()}
    sessions = {record.id for record in store.metadata.uploads.all()}
    for found in objects:
        if found.location not in known and found.upload_id not in sessions:
            if repair:
                store.driver.delete(found.location)
            yield Problem(subject=found.location, message="nothing names this object",
                          repaired="deleted" if repair else "")
    for upload_id, _ in parts:
        if upload_id not in sessions:
            if repair:
                store.driver.discard(upload_id)
            yield Problem(subject=f"upload {upload_id}", message="parts of no session",
                          repaired="deleted" if repair else "")


def _check_blob(
    store: RegistryStore, blob: BlobRecord, *, repair: bool, quick: bool
) -> Iterator[Problem]:
    size = store.driver.size(blob.location)
    if size is None:
        message = "its object is gone"
    elif size != blob.size:
        message = f"its object has {size} bytes, not {blob.size}"
    elif not quick and _digest(store, blob) != blob.digest:
        message = "its content is damaged"
    else:
        return
    for name, manifest in store.metadata.garbage.needed_by(blob.digest):
        yield Problem(subject=f"{name}@{manifest}", message=f"needs the damaged blob {blob.digest}")
    if repair:
        store.metadata.garbage.forget_blob(blob)
        store.driver.delete(blob.location)
    yield Problem(subject=f"blob {blob.digest}", message=message,
                  repaired="forgotten: push it again" if repair else "")


def _digest(store: RegistryStore, blob: BlobRecord) -> Digest | None:
    state = digests.hasher(digests.algorithm(blob.digest))
    try:
        for chunk in store.driver.read(blob.location):
            state.update(chunk)
    except OSError:
        return None
    return digests.from_hasher(state)


def _check_manifest(
    store: RegistryStore, name: str, digest: Digest, *, repair: bool
) -> Iterator[Problem]:
    record = store.metadata.content.manifest(name, digest)
    if record is None or digests.of_bytes(record.raw, digests.algorithm(digest)) == digest:
        return
    if repair:
        store.metadata.content.delete_manifest(name, digest)
    yield Problem(subject=f"{name}@{digest}", message="the manifest is damaged",
                  repaired="forgotten: push it again" if repair else "")


def _check_uploads(store: RegistryStore, *, repair: bool) -> Iterator[Problem]:
    if store.config.storage.s3 is not None:
        return  # the object store itself checks parts when the upload is completed
    for record in store.metadata.uploads.all():
        if record.digest or not record.state:
            continue  # being finished: its pieces may be an object by now
        try:
            for _ in store.driver.read_upload(msgspec.json.decode(record.state, type=UploadState)):
                pass
        except UploadBrokenError as error:
            if store.metadata.uploads.get(record.id) != record:
                continue  # somebody went on with it meanwhile
            if repair:
                store.uploads.drop(record)
            yield Problem(subject=f"upload {record.id}", message=str(error),
                          repaired="dropped" if repair else "")
