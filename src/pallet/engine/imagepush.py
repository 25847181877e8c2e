"""What a push sends: the stored manifests behind a repository's tags.

Owns   the choice of images, manifests and mount sources.
Runs   in a worker thread (it reads manifests from disk).
Needs  ``ImageStore``, ``ContentStore``.
Spec   Engine API ImagePush.

What came from a registry goes out byte for byte: an index whole, where all of it is here, else the
one image. What was made here with uncompressed layers gets them compressed on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.errors import DataLossError, NotFoundError, PalletError
from pallet.spec import digest as digests
from pallet.spec import image as documents
from pallet.spec import platform as platforms
from pallet.spec import reference as references
from pallet.spec.image import StoredManifest
from pallet.transfer.packing import PACKED_TYPES
from pallet.transfer.push import PushBlob, PushImage, PushManifest, PushRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.image import Descriptor
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.transfer.auth import LoginCredentials
    from pallet.types import DiffID, Digest


def push_request(
    images: ImageStore, content: ContentStore, reference: Reference,
    credentials: LoginCredentials, headers: Mapping[str, str], *, platform: Platform | None = None,
) -> PushRequest:
    """Gather what pushing ``reference`` (a tag, or every tag of the repository) means.

    Args:
        platform: push the image for this one alone, without its index.

    Raises:
        NotFoundError: no such tag, or not for that platform, in Docker's words.
        DataLossError: the image's manifest is not in the store.
    """
    everything = images.list()
    chosen = _tagged(everything, reference)
    layers = {layer for _, image in chosen for layer in image.diff_ids}
    gatherer = _Gatherer(content, _known_blobs(content, everything, layers, reference), reference)
    pictures = [gatherer.picture(tagged, image, images.target(tagged), platform)
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


def _stored(content: ContentStore, digest: Digest) -> StoredManifest | None:
    if not content.has(digest):
        return None
    try:
        raw = content.read(digest)
        return StoredManifest(raw=raw, media_type=documents.sniff_media_type(raw), digest=digest)
    except PalletError:
        return None


@dataclass(slots=True)
class _Known:
    """What registries are known to have of a layer: its blobs and the repositories they are in."""

    blobs: dict[Digest, Descriptor] = field(default_factory=dict)
    repositories: dict[str, None] = field(default_factory=dict)


def _known_blobs(content: ContentStore, everything: list[Image], layers: set[DiffID],
                 target: Reference) -> dict[DiffID, _Known]:
    """What the images here tell of the layers' whereabouts on the target's registry."""
    found: dict[DiffID, _Known] = {}
    for image in everything:
        if layers.isdisjoint(image.diff_ids):
            continue
        names = [references.parse_normalized(text) for text in image.repo_digests]
        paths = [name.path for name in names if name.domain == target.domain]
        if not paths:
            continue
        pushed = [name.digest for name in names if name.digest is not None]
        for digest in dict.fromkeys([*image.manifests, *pushed]):
            stored = _stored(content, digest)
            if stored is None or stored.is_index:
                continue
            manifest = stored.manifest()
            if str(manifest.config.digest) != str(image.id):
                continue
            for diff_id, layer in zip(image.diff_ids, manifest.layers, strict=False):
                known = found.setdefault(diff_id, _Known())
                known.blobs[layer.digest] = layer
                known.repositories.update(dict.fromkeys(paths))
    return found


class _Gatherer:
    """Turns images into what is pushed of them."""

    def __init__(self, content: ContentStore, known: Mapping[DiffID, _Known],
                 target: Reference) -> None:
        self._content = content
        self._known = known
        self._target = target

    def picture(self, tagged: Reference, image: Image, target: Digest | None,
                platform: Platform | None) -> PushImage:
        """What pushing ``image`` as ``tagged`` means.

        Raises:
            NotFoundError: it is not for ``platform``.
            DataLossError: no manifest of it is stored.
        """
        received = [reference.digest for reference in map(
            references.parse_normalized, image.repo_digests) if reference.digest is not None]
        candidates = [target] if target is not None else []
        indexes = [stored for digest in dict.fromkeys([*candidates, *received])
                   if (stored := _stored(self._content, digest)) is not None and stored.is_index]
        if platform is not None:
            return PushImage(reference=tagged, manifests=[
                self._for_platform(tagged, image, target, indexes, platform)])
        for index in indexes:
            tree = list(self._tree(index))
            if tree[-1].document is index and all(self._complete(item) for item in tree):
                return PushImage(reference=tagged, manifests=tree)
        document = self._own(image, target)
        listed = any(entry.digest == document.digest
                     for index in indexes for entry in index.index().manifests)
        made_here = not listed and document.digest not in received
        incomplete = next((index for index in indexes if index.digest == target), None)
        return PushImage(
            reference=tagged, manifests=[self._manifest(document, image.diff_ids, pack=made_here)],
            whole=incomplete)

    def _own(self, image: Image, target: Digest | None) -> StoredManifest:
        """The manifest that the name stands for, else the image's newest, exactly as stored."""
        for digest in sorted(image.manifests, key=lambda digest: digest != target):
            if (stored := _stored(self._content, digest)) is not None:
                return stored
        message = f"image {image.id} has no manifest in the store"
        raise DataLossError(message)

    def _for_platform(self, tagged: Reference, image: Image, target: Digest | None,
                      indexes: list[StoredManifest], platform: Platform) -> PushManifest:
        for index in indexes:
            entries = [entry for entry in index.index().manifests if not entry.is_for_nothing]
            for position in platforms.choose(platform, [entry.platform for entry in entries]):
                stored = _stored(self._content, entries[position].digest)
                if stored is not None and not stored.is_index:
                    return self._manifest(stored, self._diff_ids(stored))
        if not platforms.matches(platform, image.config.platform):
            message = (f"image with reference {tagged.familiar()} was found but does not provide "
                       f"the specified platform ({platform})")
            raise NotFoundError(message)
        return self._manifest(self._own(image, target), image.diff_ids)

    def _tree(self, index: StoredManifest) -> Iterator[PushManifest]:
        """What an index lists, depth first, and then itself; nothing behind a missing entry."""
        for entry in index.index().manifests:
            stored = _stored(self._content, entry.digest)
            if stored is None:
                yield PushManifest(document=StoredManifest(
                    raw=b"", media_type=entry.media_type, digest=entry.digest))
                return
            if stored.is_index:
                yield from self._tree(stored)
            else:
                yield self._manifest(stored, self._diff_ids(stored))
        yield PushManifest(document=index)

    def _complete(self, item: PushManifest) -> bool:
        return bool(item.document.raw) and all(
            self._content.has(blob.descriptor.digest) for blob in item.blobs)

    def _diff_ids(self, stored: StoredManifest) -> tuple[DiffID, ...]:
        """DiffIDs of an image that may have no record; empty for what is no image."""
        try:
            config = documents.decode_config(self._content.read(stored.manifest().config.digest))
        except PalletError:
            return ()
        return tuple(config.rootfs.diff_ids)

    def _manifest(self, stored: StoredManifest, diff_ids: tuple[DiffID, ...], *,
                  pack: bool = False) -> PushManifest:
        manifest = stored.manifest()
        if len(diff_ids) != len(manifest.layers):
            diff_ids = ()
        blobs: list[PushBlob] = []
        for position, layer in enumerate(manifest.layers):
            if documents.is_foreign(layer.media_type):
                continue
            if not diff_ids:
                blobs.append(PushBlob(descriptor=layer, shown=digests.short(layer.digest)))
                continue
            known = self._known.get(diff_ids[position], _Known())
            sources = self._nearest(known.repositories)
            packed = None
            if pack and layer.media_type in PACKED_TYPES:
                packed = [(blob, sources) for blob in known.blobs.values()
                          if blob.media_type not in PACKED_TYPES]
            blobs.append(PushBlob(descriptor=layer, shown=digests.short(diff_ids[position]),
                                  sources=sources, packed=packed))
        return PushManifest(document=stored, blobs=[*blobs, PushBlob(descriptor=manifest.config)])

    def _nearest(self, repositories: Mapping[str, None]) -> list[str]:
        """Other repositories, those that share most of their path with the target's first."""
        own = self._target.path.split("/")

        def shared(path: str) -> int:
            count = 0
            for ours, theirs in zip(own, path.split("/"), strict=False):
                if ours != theirs:
                    break
                count += 1
            return count

        others = [path for path in repositories if path != self._target.path]
        return sorted(others, key=shared, reverse=True)
