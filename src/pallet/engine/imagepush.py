"""What a push sends: the stored manifests behind a repository's tags.

Owns   the choice of images, manifests and mount sources.
Runs   in a worker thread (it reads manifests from disk).
Needs  ``ImageStore``, ``ContentStore``.
Spec   Engine API ImagePush.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.errors import DataLossError, NotFoundError
from pallet.spec import image as documents
from pallet.spec import reference as references
from pallet.transfer.push import PushImage, PushRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.transfer.auth import LoginCredentials


def push_request(
    images: ImageStore, content: ContentStore, reference: Reference,
    credentials: LoginCredentials, headers: Mapping[str, str],
) -> PushRequest:
    """Gather what pushing ``reference`` (a tag, or every tag of the repository) means.

    Raises:
        NotFoundError: no such tag, in Docker's words.
        DataLossError: the image's manifest is not in the store.
    """
    everything = images.list()
    chosen = _tagged(everything, reference)
    pictures = [
        PushImage(reference=tagged, manifest=_manifest(image, content), diff_ids=image.diff_ids,
                  sources=_sources(image, everything, reference))
        for tagged, image in chosen]
    return PushRequest(reference=reference.repository(), images=pictures, credentials=credentials,
                       headers=headers)


def _tagged(everything: list[Image], reference: Reference) -> list[tuple[Reference, Image]]:
    """``(reference, image)`` of each tag to push, sorted by tag."""
    found: list[tuple[Reference, Image]] = []
    for image in everything:
        for text in image.repo_tags:
            tagged = references.parse_normalized(text)
            if tagged.name == reference.name:
                found.append((tagged, image))
    if not found:
        message = f"An image does not exist locally with the tag: {reference.familiar_name}"
        raise NotFoundError(message)
    if reference.tag is None:
        return sorted(found, key=lambda pair: pair[0].tag or "")
    wanted = [pair for pair in found if pair[0].tag == reference.tag]
    if not wanted:
        message = f"tag does not exist: {reference.familiar()}"
        raise NotFoundError(message)
    return wanted


def _manifest(image: Image, content: ContentStore) -> documents.StoredManifest:
    """The image's newest manifest exactly as stored.

    Raises:
        DataLossError: there is none.
    """
    for digest in image.manifests:
        if content.has(digest):
            raw = content.read(digest)
            return documents.StoredManifest(
                raw=raw, media_type=documents.sniff_media_type(raw), digest=digest)
    message = f"image {image.id} has no manifest in the store"
    raise DataLossError(message)


def _sources(image: Image, everything: list[Image], target: Reference) -> list[str]:
    """Repositories on the same registry that may have this image's layers."""
    layers = set(image.diff_ids)
    found: dict[str, None] = {}
    for other in everything:
        if layers.isdisjoint(other.diff_ids):
            continue
        for text in other.repo_digests:
            known = references.parse_normalized(text)
            if known.domain == target.domain and known.path != target.path:
                found[known.path] = None
    return list(found)
