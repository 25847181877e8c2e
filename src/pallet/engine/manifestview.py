"""The manifests of an image as list and inspect show them.

Owns   the shape of ``Manifests``: what an index holds and which of it is here.
Runs   in a worker thread (it reads manifests).
Needs  ``ImageStore``.
Spec   Engine API ImageManifestSummary; image-spec image-index.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pallet.errors import PalletError
from pallet.spec import image as spec
from pallet.spec.engine.image import (
    AttestationData,
    ImageManifestData,
    ImageManifestSummary,
    ManifestSize,
    UnpackedSize,
)
from pallet.spec.engine.oci import Descriptor, DescriptorPlatform
from pallet.spec.platform import Platform, normalize

if TYPE_CHECKING:
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.types import Digest


def summaries(store: ImageStore, image: Image) -> list[ImageManifestSummary]:
    """Every manifest of the indexes that an image's names stand for; else its own."""
    by_manifest = {digest: one for one in store.list() for digest in one.manifests}
    targets = dict.fromkeys(store.target(reference) for reference in store.references(image.id))
    found: dict[Digest, ImageManifestSummary] = {}
    for target in targets:
        stored = _stored(store, target) if target is not None else None
        if stored is not None and stored.is_index:
            for entry in stored.index().manifests:
                found[entry.digest] = _summary(store, entry, by_manifest.get(entry.digest))
    if not found:
        for digest in image.manifests[:1]:
            stored = _stored(store, digest)
            if stored is not None:
                entry = msgspec.structs.replace(
                    stored.descriptor(), platform=normalize(image.config.platform))
                found[digest] = _summary(store, entry, image)
    return list(found.values())


def _stored(store: ImageStore, digest: Digest) -> spec.StoredManifest | None:
    try:
        raw = store.content.read(digest)
        return spec.StoredManifest(raw=raw, media_type=spec.sniff_media_type(raw), digest=digest)
    except PalletError:
        return None


def _summary(store: ImageStore, entry: spec.Descriptor, image: Image | None) -> ImageManifestSummary:
    stored = _stored(store, entry.digest)
    content = _content_bytes(store, stored) if stored is not None else 0
    unpacked = image.size_bytes if image is not None else 0
    kind = "attestation" if entry.is_attestation else "unknown" if entry.is_for_nothing else "image"
    return ImageManifestSummary(
        id=entry.digest, descriptor=msgspec.convert(msgspec.to_builtins(entry), Descriptor),
        available=stored is not None and (
            image is not None or (entry.is_attestation and _is_whole(store, stored))),
        size=ManifestSize(content=content, total=content + unpacked), kind=kind,
        image_data=None if entry.is_for_nothing else ImageManifestData(
            platform=_platform(entry.platform or Platform()),
            containers=[user.container_id for user in store.users(image.id)] if image else [],
            size=UnpackedSize(unpacked=unpacked)),
        attestation_data=AttestationData(for_=entry.attests) if entry.is_attestation else None)


def _platform(platform: Platform) -> DescriptorPlatform:
    return msgspec.convert({"os": "", "architecture": "", **msgspec.to_builtins(platform)},
                           DescriptorPlatform)


def _is_whole(store: ImageStore, stored: spec.StoredManifest) -> bool:
    manifest = stored.manifest()
    return all(store.content.has(part.digest) for part in (manifest.config, *manifest.layers))


def _content_bytes(store: ImageStore, stored: spec.StoredManifest) -> int:
    """Bytes of the blobs of one manifest that are here."""
    if stored.is_index:
        return len(stored.raw)
    manifest = stored.manifest()
    parts = {part.digest: part.size for part in (manifest.config, *manifest.layers)}
    return len(stored.raw) + sum(size for digest, size in parts.items() if store.content.has(digest))
