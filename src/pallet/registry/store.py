"""The registry's store: content in a ``BlobDriver``, knowledge in the metadata.

Owns   what routes call: blobs, uploads, manifests, tags, referrers, and refusing writes while the
       disk is full.
Runs   in the server's threads, in any number of processes and hosts over one store.
Needs  a driver and a database, both from ``config``.
Spec   distribution-spec "Content Discovery", "Content Management".

Order, so that a kill at any moment leaves nothing unaccounted for: a session's record is written
before its first byte, the digest it is finished as before its object exists, and records of what is
deleted go after it. Every object is named by a blob, a session or the trash.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pallet.registry.blobs.filesystem import FileSystemDriver
from pallet.registry.capacity import Capacity
from pallet.registry.codes import RegistryHttpError
from pallet.registry.legacy import import_tree
from pallet.registry.metadata.content import MissingContentError
from pallet.registry.metadata.open import open_metadata
from pallet.registry.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.registry.blobs.driver import BlobDriver, Redirect
    from pallet.registry.config import RegistryConfig
    from pallet.registry.messages import FileRange, Stream
    from pallet.registry.metadata.open import MetadataStore
    from pallet.registry.metadata.records import BlobRecord, Delivery, ManifestRecord
    from pallet.types import Digest


logger = logging.getLogger(__name__)


class RegistryStore:
    """Blobs, manifests, tags and referrers of every repository."""

    def __init__(self, driver: BlobDriver, metadata: MetadataStore, config: RegistryConfig) -> None:
        self.driver = driver
        self.metadata = metadata
        self.config = config
        self.uploads = Uploads(driver, metadata)
        self.capacity = Capacity(driver, metadata.database, config.storage.min_free_bytes)
        self.on_delivery: Callable[[], None] = lambda: None
        """Called when a notification was queued."""
        self._content = metadata.content
        # A quarter of the grace together: notes of use are renewed, and answers that rely on one
        # are given again from memory, for at most an eighth each.
        self._fresh_s = self.keep_s = config.gc.grace_s / 8

    def close(self) -> None:
        """Close database and driver. Uploads stay, for whoever goes on with them."""
        self.metadata.close()
        self.driver.close()

    # Blobs

    def blob(self, name: str, digest: Digest, *, push: bool = False) -> BlobRecord:
        """The blob of repository ``name``.

        Args:
            push: a client that asks before it pushes (HEAD): what it sees stays for a while.

        Raises:
            RegistryHttpError: BLOB_UNKNOWN.
        """
        if push and self.capacity.writable():
            self._content.touch_blob(name, digest, self.metadata.database.now() - self._fresh_s)
        record = self._content.blob(name, digest)
        if record is None:
            raise RegistryHttpError("BLOB_UNKNOWN", digest)
        return record

    def body(self, record: BlobRecord, offset: int, length: int) -> FileRange | Stream | Redirect:
        """Part of a blob as a reply's body."""
        return self.driver.body(record.location, offset, length)

    def holders(self, digest: Digest) -> list[str]:
        """Repositories that have the blob."""
        return self._content.holders(digest)

    def mount(self, name: str, digest: Digest) -> bool:
        """Give ``name`` a blob that another repository has; False when none has it."""
        return self._content.mount_blob(name, digest)

    def delete_blob(self, name: str, digest: Digest) -> None:
        """Take the blob from ``name``; its content goes when nothing needs it.

        Raises:
            RegistryHttpError: BLOB_UNKNOWN.
        """
        if not self._content.unlink_blob(name, digest):
            raise RegistryHttpError("BLOB_UNKNOWN", digest)

    # Manifests and tags

    def put_manifest(self, name: str, record: ManifestRecord, tags: list[str],
                     deliveries: Sequence[Delivery] = ()) -> None:
        """Keep a manifest exactly as it came, point ``tags`` at it and queue ``deliveries``, all or nothing.

        Raises:
            RegistryHttpError: MANIFEST_BLOB_UNKNOWN.
        """
        try:
            self._content.put_manifest(name, record, tags, deliveries)
        except MissingContentError as error:
            raise RegistryHttpError("MANIFEST_BLOB_UNKNOWN", {"digest": error.digest}) from error
        if deliveries:
            self.on_delivery()

    def manifest(self, name: str, digest: Digest, *, push: bool = False) -> ManifestRecord:
        """A manifest; ``push`` as for ``blob``.

        Raises:
            RegistryHttpError: MANIFEST_UNKNOWN.
        """
        if push and self.capacity.writable():
            self._content.touch_manifest(name, digest, self.metadata.database.now() - self._fresh_s)
        record = self._content.manifest(name, digest)
        if record is None:
            raise RegistryHttpError("MANIFEST_UNKNOWN", {"digest": digest})
        return record

    def tagged(self, name: str, tag: str) -> ManifestRecord:
        """The manifest a tag points to.

        Raises:
            RegistryHttpError: MANIFEST_UNKNOWN.
        """
        record = self._content.tagged(name, tag)
        if record is None:
            raise RegistryHttpError("MANIFEST_UNKNOWN", {"name": name, "tag": tag})
        return record

    def resolve(self, name: str, tag: str) -> Digest:
        """Digest a tag points to.

        Raises:
            RegistryHttpError: MANIFEST_UNKNOWN.
        """
        digest = self._content.resolve(name, tag)
        if digest is None:
            raise RegistryHttpError("MANIFEST_UNKNOWN", {"name": name, "tag": tag})
        return digest

    def notify(self, deliveries: Sequence[Delivery]) -> None:
        """Queue notifications of something that changed nothing, and that goes on if they are lost."""
        if deliveries and self.capacity.writable():
            try:
                self.metadata.deliveries.add(deliveries)
            except Exception:
                logger.exception("a notification is lost")
            self.on_delivery()

    def untag(self, name: str, tag: str, deliveries: Sequence[Delivery] = ()) -> None:
        """Forget a tag.

        Raises:
            RegistryHttpError: MANIFEST_UNKNOWN.
        """
        if not self._content.untag(name, tag, deliveries):
            raise RegistryHttpError("MANIFEST_UNKNOWN", {"name": name, "tag": tag})
        if deliveries:
            self.on_delivery()

    def delete_manifest(self, name: str, digest: Digest, deliveries: Sequence[Delivery] = ()) -> None:
        """Forget a manifest, the tags that point to it and its entry as a referrer.

        Raises:
            RegistryHttpError: MANIFEST_UNKNOWN.
        """
        if not self._content.delete_manifest(name, digest, deliveries):
            raise RegistryHttpError("MANIFEST_UNKNOWN", {"digest": digest})
        if deliveries:
            self.on_delivery()

    def tags(self, name: str, last: str = "", limit: int | None = None) -> list[str]:
        """Tags after ``last`` in lexical order.

        Raises:
            RegistryHttpError: NAME_UNKNOWN.
        """
        found = [tag.name for tag in self._content.tags(name, last, limit)]
        if not found and not self._content.has_repository(name):
            raise RegistryHttpError("NAME_UNKNOWN", {"name": name})
        return found

    def referrers(self, name: str, subject: Digest, *, artifact_type: str = "", last: str = "",
                  limit: int | None = None) -> list[dict[str, Any]]:
        """Descriptors of the manifests that refer to ``subject``, in the order of their digests.

        Args:
            artifact_type: only those of this type; "" is all.
            last: only digests after this one.
        """
        return [json.loads(raw) for raw in self._content.referrers(name, subject, artifact_type, last, limit)]

    def repository_bytes(self, name: str) -> int:
        """Sum of the blobs that a repository holds."""
        return self.metadata.content.repository_bytes(name)

    def repositories(self, last: str = "", limit: int | None = None) -> list[str]:
        """Names after ``last`` in lexical order."""
        return self._content.repositories(last, limit)


def open_store(config: RegistryConfig) -> RegistryStore:
    """Open, and where there is none create, a store.

    Raises:
        PalletError: the database or the object store is not what the configuration says.
        OSError: the root cannot be made.
    """
    root = Path(config.storage.root)
    local = config.storage.s3 is None
    if local or not config.database:
        root.mkdir(parents=True, exist_ok=True)
    driver: BlobDriver
    if config.storage.s3 is not None:
        from pallet.registry.blobs.s3 import S3Driver
        driver = S3Driver(config.storage.s3)
    else:
        driver = FileSystemDriver(root)
    metadata = open_metadata(config.database_url, config.database_connections)
    if local:
        import_tree(root, metadata)
    return RegistryStore(driver, metadata, config)
