"""``docker save``: images into one archive that Docker and OCI tools read.

Owns   what is in the archive, in which order, and the stream of its bytes.
Runs   ``Selection`` in a worker thread; ``stream`` on the event loop, reading in worker threads.
Needs  the image store.
Spec   Engine API ImageGet; as ``layout``. Documents come first, so that who reads the archive as a
       stream knows what follows.

Every blob is the one in the content store, so digests stay what they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import DataLossError, InvalidParameterError
from pallet.image import variants
from pallet.image.archive import layout, members
from pallet.spec import digest as digests
from pallet.spec import image as spec
from pallet.spec.reference import parse_normalized
from pallet.storage.content import BlobNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.image import Descriptor, StoredManifest
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.storage.leases import Lease
    from pallet.types import Digest


@dataclass(slots=True)
class _Entry:
    """What one name or id of the request brings."""

    images: list[Image]
    target: StoredManifest
    names: list[Reference] = field(default_factory=list)


class Selection:
    """The images of one archive. ``lease`` protects their blobs until ``close``."""

    def __init__(self, images: ImageStore, names: Sequence[str],
                 platforms: Sequence[Platform]) -> None:
        """Find everything.

        Args:
            platforms: save the images for these alone, without their index; empty saves all.

        Raises:
            NotFoundError: no such image, or not for a platform.
            DataLossError: a blob is not in the store.
        """
        self._images = images
        self._platforms = platforms
        self._entries: dict[Digest, _Entry] = {}
        self.lease: Lease = images.lease()
        try:
            for name in names:
                self._choose(name)
            self._blobs = self._gather()
        except BaseException:
            self.lease.end()
            raise

    @property
    def chosen(self) -> list[Image]:
        """The images, for the events."""
        return [entry.images[0] for entry in self._entries.values()]

    def close(self) -> None:
        """Give the blobs up. Idempotent."""
        self.lease.end()

    def _choose(self, name: str) -> None:
        tags = self._tags_of(name)
        if tags:
            for tag in tags:
                self._add(name, self._images.resolve(str(tag)), tag)
            return
        image = self._images.resolve(name)
        if image.id.startswith(name) or digests.encoded(image.id).startswith(name):
            self._add(name, image, None)
            return
        reference = parse_normalized(name)
        self._add(name, image, reference, named=reference.digest is None)

    def _tags_of(self, name: str) -> list[Reference]:
        """Every tag of a repository, for a bare name."""
        try:
            reference = parse_normalized(name)
        except InvalidParameterError:
            return []  # an id
        if not reference.is_name_only:
            return []
        return sorted((tag for image in self._images.list()
                       for tag in self._images.references(image.id)
                       if tag.name == reference.name and tag.digest is None), key=str)

    def _add(self, name: str, image: Image, reference: Reference | None, *,
             named: bool = True) -> None:
        content = self._images.content
        target = self._images.target(reference) if reference is not None else None
        found = variants.once(
            [image, *variants.members(content, target, self._images.list())])
        if self._platforms:
            found = [self._suited(found, wanted, name) for wanted in self._platforms]
        if self._platforms or target is None or not content.has(target):
            groups = [([one], self._images.manifest(one.id)[0]) for one in variants.once(found)]
        else:
            groups = [(found, target)]
        for group, digest in groups:
            raw = content.read(digest)
            stored = spec.StoredManifest(
                raw=raw, media_type=spec.sniff_media_type(raw), digest=digest)
            entry = self._entries.setdefault(digest, _Entry(group, stored))
            if reference is not None and named and reference not in entry.names:
                entry.names.append(reference)

    @staticmethod
    def _suited(images: Sequence[Image], wanted: Platform, name: str) -> Image:
        found = variants.choose(wanted, images)
        if found is None:
            raise variants.not_provided(name, wanted)
        return found

    # What goes in

    def _gather(self) -> dict[Digest, int]:
        """Every blob once with its size, documents before layers."""
        small: dict[Digest, int] = {}
        large: dict[Digest, int] = {}
        for entry in self._entries.values():
            self._reach(entry.target.digest, small, large, depth=0)
            for image in entry.images:
                digest, manifest = self._manifest_of(entry, image)
                self._want(digest, small)
                self._want(manifest.config.digest, small)
                for layer in manifest.layers:
                    if not spec.is_foreign(layer.media_type) or self._images.content.has(
                            layer.digest):
                        self._want(layer.digest, large)
        return {**small, **large}

    def _manifest_of(self, entry: _Entry, image: Image) -> tuple[Digest, spec.Manifest]:
        """The manifest of an image that belongs to the entry: it may be here in several packings."""
        content, target = self._images.content, entry.target
        meant = variants.manifests_of(content, target.digest) if target.is_index else (target.digest,)
        for digest in meant:
            if digest in image.manifests and content.has(digest):
                return digest, spec.decode_manifest(content.read(digest))
        return self._images.manifest(image.id)

    def _reach(self, digest: Digest, small: dict[Digest, int], large: dict[Digest, int], *,
               depth: int) -> None:
        """Take an index with its further indexes and attestations, as far as they are here."""
        content = self._images.content
        self._want(digest, small)
        raw = content.read(digest)
        if depth > 3 or spec.sniff_media_type(raw) not in spec.INDEX_TYPES:
            return
        for entry in spec.decode_index(raw).manifests:
            if not content.has(entry.digest):
                continue
            if entry.media_type in spec.INDEX_TYPES:
                self._reach(entry.digest, small, large, depth=depth + 1)
            elif entry.is_for_nothing:
                manifest = spec.decode_manifest(content.read(entry.digest))
                parts = [manifest.config.digest, *(layer.digest for layer in manifest.layers)]
                if all(content.has(part) for part in parts):
                    for part in (entry.digest, *parts):
                        self._want(part, small)

    def _want(self, digest: Digest, into: dict[Digest, int]) -> None:
        if digest in into:
            return
        self.lease.add_blob(digest)
        try:
            into[digest] = self._images.content.size(digest)
        except BlobNotFoundError as error:
            message = f"content of {digest} is not in the store: pull the image again"
            raise DataLossError(message) from error

    def _index(self) -> bytes:
        entries: list[Descriptor] = []
        for entry in self._entries.values():
            plain = entry.target.descriptor()
            for name in entry.names or (None,):
                notes = None if name is None else {
                    layout.NAME_ANNOTATION: str(name), layout.REF_ANNOTATION: name.tag or ""}
                entries.append(msgspec.structs.replace(plain, annotations=notes))
        return spec.encode(spec.Index(media_type=spec.OCI_INDEX, manifests=entries))

    def _manifest(self) -> bytes:
        """``manifest.json`` has one image an entry: of an index the one that its names run."""
        found: list[layout.ArchivedImage] = []
        for entry in self._entries.values():
            _, manifest = self._manifest_of(entry, entry.images[0])
            found.append(layout.ArchivedImage(
                config=layout.blob_path(manifest.config.digest),
                repo_tags=[name.familiar() for name in entry.names] or None,
                layers=[layout.blob_path(layer.digest) for layer in manifest.layers]))
        return msgspec.json.encode(found)

    def _repositories(self) -> bytes:
        found: dict[str, dict[str, str]] = {}
        for entry in self._entries.values():
            _, manifest = self._manifest_of(entry, entry.images[0])
            if manifest.layers:
                for name in entry.names:
                    found.setdefault(name.familiar_name, {})[name.tag or ""] = digests.encoded(
                        manifest.layers[-1].digest)
        return msgspec.json.encode(found)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the archive. What it protects is given up at the end."""
        try:
            repositories = self._repositories()
            head = [members.file(layout.LAYOUT, layout.LAYOUT_DOCUMENT),
                    members.file(layout.INDEX, self._index()),
                    members.file(layout.MANIFEST, self._manifest())]
            if repositories != b"{}":
                head.append(members.file(layout.REPOSITORIES, repositories))
            head.append(members.directory(layout.BLOBS))
            head += [members.directory(f"{layout.BLOBS}/{name}") for name in sorted(
                {digests.algorithm(digest) for digest in self._blobs})]
            yield b"".join(head)
            for digest, size in self._blobs.items():
                async for piece in members.blob(self._images.content, digest, size):
                    yield piece
            yield members.END
        finally:
            self.close()
