"""Attestations of an image: provenance and bills of materials that stand beside it in its index.

Owns   which entries of an index are about an image, and their way into the content store.
Runs   in a transfer thread.
Needs  a lease for what comes; the index that lists them is stored by the pull.
Spec   BuildKit "Image attestation storage": an index entry for unknown/unknown with the annotations
       ``vnd.docker.reference.type`` and ``vnd.docker.reference.digest``.

An image runs without them: what cannot be had is said in the log and left out.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from pallet.errors import PalletError
from pallet.spec import digest as digests
from pallet.spec.image import StoredManifest
from pallet.transfer.fetch import fetch
from pallet.transfer.retry import Retries, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from urllib3.response import HTTPResponse

    from pallet.spec.image import Descriptor
    from pallet.storage.content import ContentStore
    from pallet.transfer.cancellation import Cancellation
    from pallet.transfer.client import RepositoryClient
    from pallet.transfer.image_pull import Protection
    from pallet.types import Digest

logger = logging.getLogger(__name__)

_MAX_BLOB_BYTES = 256 << 20
_ONE_ATTEMPT = RetryPolicy(attempts=1)


def about(digest: Digest, indexes: Iterable[StoredManifest]) -> list[Descriptor]:
    """Entries of ``indexes`` that attest the image manifest ``digest``."""
    return [entry for index in indexes for entry in index.index().manifests
            if entry.is_attestation and entry.attests == digest]


def bring_in(client: RepositoryClient, content: ContentStore, lease: Protection,
             entries: Sequence[Descriptor], cancel: Cancellation) -> None:
    """Fetch what is not here yet of each attestation: blobs first, then its manifest.

    Raises:
        CancelledRequestError: cancelled.
        OSError: the disk refused.
    """
    for entry in entries:
        try:
            _bring_in(client, content, lease, entry, cancel)
        except PalletError as error:
            cancel.check()
            logger.warning("attestation %s of %s is left out: %s", entry.digest, entry.attests, error)


def _bring_in(client: RepositoryClient, content: ContentStore, lease: Protection, entry: Descriptor,
              cancel: Cancellation) -> None:
    digests.parse(entry.digest)
    lease.add_blob(entry.digest)
    if content.has(entry.digest):
        stored = StoredManifest(raw=content.read(entry.digest), media_type=entry.media_type, digest=entry.digest)
    else:
        stored = client.manifest(entry.digest)
    manifest = stored.manifest()
    for part in (manifest.config, *manifest.layers):
        digests.parse(part.digest)
        lease.add_blob(part.digest)
        if not content.has(part.digest) and part.size <= _MAX_BLOB_BYTES:
            with content.ingest(part.digest) as ingest:
                fetch(partial(_open, client, part.digest), part.size, ingest, cancel=cancel,
                      retries=Retries(_ONE_ATTEMPT, cancel), on_bytes=_ignore)
                ingest.commit()
    content.put(stored.raw, stored.digest)


def _open(client: RepositoryClient, digest: Digest, offset_bytes: int) -> HTTPResponse:
    return client.blob(digest, offset_bytes=offset_bytes)


def _ignore(_bytes: int) -> None:
    return None
