"""Every image of this daemon: an index in memory over the records, the content and the layers.

Owns   image records, names, and what is freed when an image goes.
Runs   on any thread of the daemon; one lock. Look-ups cost microseconds and may be made on the loop
       thread; ``put``, ``delete`` and ``collect`` touch the disk and belong on a worker.
Spec   Engine API tag Image; image-spec config.md#layer-chainid. Rules and words are those of
       dockerd's classic store: an image's id is the digest of its config.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import threading
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import DataLossError, InvalidParameterError, NotFoundError
from pallet.image import deletion, variants
from pallet.image.model import Image, ImageConflictError, ImageNotFoundError, ImageRecord
from pallet.image.moments import now, unix_seconds
from pallet.image.names import NameTable
from pallet.spec import digest as digests
from pallet.spec import image as images
from pallet.spec import platform as platforms
from pallet.spec.reference import parse_normalized
from pallet.storage import gc
from pallet.storage.leases import Lease
from pallet.types import Digest, ImageId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pallet.image.model import ImageUser, Removal
    from pallet.spec.image import Descriptor, ImageConfigFile, Manifest
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.storage.metadata import Metadata
    from pallet.storage.snapshot import Snapshotter
    from pallet.types import DiffID

logger = logging.getLogger(__name__)

_NEVER = "0001-01-01T00:00:00Z"
_MIN_PREFIX = 1
_HEX_ID = 64

_record_decoder = msgspec.json.Decoder(ImageRecord)
_encoder = msgspec.json.Encoder()


class ImageStore:
    """Images by id and by name."""

    def __init__(self, content: ContentStore, snapshotter: Snapshotter, metadata: Metadata, *,
                 users: Callable[[ImageId], Iterable[ImageUser]]) -> None:
        """Load the records.

        Args:
            users: containers made from an image, whatever their state.
        """
        self.content = content
        self.snapshotter = snapshotter
        self._metadata = metadata
        self._users = users
        self._lock = threading.RLock()
        self._images: dict[ImageId, Image] = {}
        self._damaged: dict[ImageId, ImageRecord] = {}
        self.keep: Callable[[], Iterable[DiffID]] = tuple
        """Further layers that collections leave alone: those of the build cache."""
        self._names = NameTable(metadata)
        for image_id, raw in metadata.images():
            self._load(image_id, _record_decoder.decode(raw))
        self._cover()

    def _load(self, image_id: ImageId, record: ImageRecord) -> None:
        try:
            self._images[image_id] = self._build(image_id, record)
        except (NotFoundError, DataLossError) as error:
            logger.warning("image %s is damaged and left out: %s", image_id, error)
            self._damaged[image_id] = record

    def damaged(self) -> dict[ImageId, ImageRecord]:
        """Records of images whose config cannot be read; what they need is kept."""
        with self._lock:
            return dict(self._damaged)

    def reload(self, image_id: ImageId) -> bool:
        """Try a damaged image again; whether it is whole now."""
        with self._lock:
            record = self._damaged.pop(image_id, None)
            if record is not None:
                self._load(image_id, record)
            return image_id in self._images

    def _build(self, image_id: ImageId, record: ImageRecord, before: Image | None = None) -> Image:
        """Make the image of a record; ``before`` spares reading its config."""
        raw = before.raw_config if before is not None else self.content.read(Digest(image_id))
        config = before.config if before is not None else images.decode_config(raw)
        created = config.created or _NEVER
        found = self._names.of(image_id)
        return Image(
            id=image_id, config=config, raw_config=raw, diff_ids=tuple(config.rootfs.diff_ids),
            size_bytes=self._size(config), created=created, created_at=unix_seconds(created),
            repo_tags=tuple(item.familiar() for item in found if item.digest is None),
            repo_digests=tuple(item.familiar() for item in found if item.digest is not None),
            manifests=tuple(record.manifests), parent=record.parent,
            last_tagged_at=record.last_tagged_at, last_used_at=record.last_used_at,
            pinned=record.pinned)

    def _size(self, config: ImageConfigFile) -> int:
        layers = config.rootfs.diff_ids
        return sum(self.snapshotter.layer_size(layer) for layer in layers
                   if self.snapshotter.has_layer(layer))

    # Look-ups

    def get(self, image_id: ImageId) -> Image:
        """Return the image of a full id.

        Raises:
            ImageNotFoundError: there is none.
        """
        found = self._images.get(image_id)
        if found is None:
            raise _missing(image_id)
        return found

    def find(self, reference: Reference) -> Image | None:
        """Image that a reference points to; ``latest`` is added where it has neither."""
        with self._lock:
            image_id = self._names.image(reference)
            return self._images.get(image_id) if image_id is not None else None

    def target(self, reference: Reference) -> Digest | None:
        """Manifest or index digest a reference was brought in as: tells "up to date"."""
        with self._lock:
            return self._names.target(reference)

    def resolve(self, ref_or_id: str) -> Image:
        """Find by full id, name, or unique id prefix, in Docker's order.

        Raises:
            ImageNotFoundError: "No such image: x:latest".
            InvalidParameterError: "invalid reference format".
        """
        with self._lock:
            bare = ref_or_id.removeprefix("sha256:")
            if len(bare) == _HEX_ID and digests.is_digest(f"sha256:{bare}"):
                return self.get(ImageId(f"sha256:{bare}"))
            reference = parse_normalized(ref_or_id)
            found = self.find(reference) or self._by_prefix(bare)
            if found is None:
                raise _missing(reference.with_default_tag().familiar())
            return found

    def _by_prefix(self, prefix: str) -> Image | None:
        if len(prefix) < _MIN_PREFIX or prefix.strip("0123456789abcdef"):
            return None
        found = [image for image_id, image in self._images.items()
                 if image_id.startswith(f"sha256:{prefix}")]
        return found[0] if len(found) == 1 else None

    def list(self) -> list[Image]:
        """Every image, newest first."""
        with self._lock:
            everything = list(self._images.values())
        return sorted(everything, key=lambda image: image.created_at, reverse=True)

    def references(self, image_id: ImageId) -> Sequence[Reference]:
        """Every tag and digest reference to an image, sorted."""
        with self._lock:
            return self._names.of(image_id)

    def children(self, image_id: ImageId) -> Sequence[ImageId]:
        """Images built here on this one."""
        with self._lock:
            return [image.id for image in self._images.values() if image.parent == image_id]

    def users(self, image_id: ImageId) -> Sequence[ImageUser]:
        """Containers made from an image."""
        return list(self._users(image_id))

    def layer_sharing(self) -> dict[DiffID, int]:
        """Number of images that have each layer, for ``SharedSize``."""
        shared: dict[DiffID, int] = {}
        with self._lock:
            for image in self._images.values():
                for diff_id in set(image.diff_ids):
                    shared[diff_id] = shared.get(diff_id, 0) + 1
        return shared

    def manifest(self, image_id: ImageId) -> tuple[Digest, Manifest]:
        """Return the newest manifest of an image and its digest.

        Raises:
            ImageNotFoundError: no such image.
            DataLossError: no manifest of it is in the content store.
        """
        for digest in self.get(image_id).manifests:
            if self.content.has(digest):
                return digest, images.decode_manifest(self.content.read(digest))
        message = f"no manifest of image {image_id} is stored"
        raise DataLossError(message)

    def missing_layers(self, image_id: ImageId) -> Sequence[tuple[DiffID, Descriptor]]:
        """Layers of an image that are not unpacked (after a power cut), with their blobs."""
        image = self.get(image_id)
        lacking = [index for index, diff_id in enumerate(image.diff_ids)
                   if not self.snapshotter.has_layer(diff_id)]
        if not lacking:
            return []
        _, manifest = self.manifest(image_id)
        return [(image.diff_ids[index], manifest.layers[index]) for index in lacking]

    # Changes

    def put(self, config_digest: Digest, *, manifest_digest: Digest,
            reference: Reference | None = None, target_digest: Digest | None = None,
            parent: ImageId | None = None) -> Image:
        """Record an image whose blobs are stored and whose layers are committed.

        Args:
            manifest_digest: the image manifest.
            reference: what was pulled. Its tag, if any, is moved here from whatever had it (which
                may be left dangling), and ``name@target_digest`` is recorded.
            target_digest: what ``reference`` was at the registry: the index of a multi-platform
                image; None means ``manifest_digest``.
            parent: the image this one was built on here.

        Raises:
            DataLossError: a blob or layer is missing, or config and manifest disagree.
        """
        image_id = ImageId(config_digest)
        if reference is None and parent is None and (same := self._recorded(image_id, manifest_digest)) is not None:
            return same
        try:
            manifest = images.decode_manifest(self.content.read(manifest_digest))
            config = images.decode_config(self.content.read(config_digest))
        except NotFoundError as error:
            raise DataLossError(str(error)) from error
        layers = config.rootfs.diff_ids
        if manifest.config.digest != config_digest or len(layers) != len(manifest.layers):
            message = "layers from manifest don't match image configuration"
            raise DataLossError(message)
        try:
            self.snapshotter.settle(layers)
        except NotFoundError as error:
            raise DataLossError(str(error)) from error
        target = target_digest or manifest_digest
        with self._lock, self._metadata.transaction():
            before = self._images.get(image_id)
            known = [digest for digest in (before.manifests if before else ())
                     if digest != manifest_digest]
            record = ImageRecord(
                manifests=[manifest_digest, *known],
                parent=parent or (before.parent if before else None),
                last_tagged_at=now() if reference else (before.last_tagged_at if before else ""),
                last_used_at=before.last_used_at if before else 0.0,
                pinned=before.pinned if before else False)
            self._metadata.put_image(image_id, _encoder.encode(record))
            self._images[image_id] = self._build(image_id, record)
            changed = {image_id}
            if reference is not None:
                changed |= self._add(reference.with_digest(target), image_id, target)
                if reference.tag is not None:
                    changed |= self._add(reference.without_digest(), image_id, target)
            self._refresh(changed)
            return self._images[image_id]

    def _recorded(self, image_id: ImageId, manifest_digest: Digest) -> Image | None:
        """The image if a record would say what there is already."""
        image = self._images.get(image_id)
        if image is None or image.manifests[:1] != (manifest_digest,):
            return None
        return image if all(self.snapshotter.has_layer(layer) for layer in image.diff_ids) else None

    def _add(self, reference: Reference, image_id: ImageId, target: Digest) -> set[ImageId]:
        """Point a name at an image, or add a platform to the index that it stands for.

        Of several platforms it then runs the one that this host prefers.
        """
        before = self._images.get(self._names.image(reference) or image_id)
        if before is not None and self._names.target(reference) == target:
            suited = variants.choose(platforms.host(), [before, self._images[image_id]])
            image_id = suited.id if suited is not None else image_id
        return self._point(reference, image_id, target)

    def _point(self, reference: Reference, image_id: ImageId, target: Digest | None) -> set[ImageId]:
        before = self._names.image(reference)
        self._names.put(reference, image_id, target)
        return {image_id} if before is None else {image_id, before}

    def _refresh(self, changed: Iterable[ImageId]) -> None:
        """Make the names of changed images right again."""
        for image_id in changed:
            image = self._images.get(image_id)
            if image is not None:
                self._images[image_id] = self._build(image_id, _record_of(image), image)
        self._cover()

    def _cover(self) -> None:
        """Tell the nameless images that belong to an index with a name from those that do not."""
        named = {digest for target in self._names.digests()
                 for digest in variants.manifests_of(self.content, target)}
        for image in list(self._images.values()):
            covered = not image.repo_tags and not image.repo_digests and any(
                digest in named for digest in image.manifests)
            if covered != image.covered:
                self._images[image.id] = dataclasses.replace(image, covered=covered)

    def repoint(self, before: ImageId, after: ImageId, target: Digest) -> None:
        """Let the names of an index run another of its platforms."""
        with self._lock, self._metadata.transaction():
            for reference in self._names.of(before):
                if self._names.target(reference) == target:
                    self._point(reference, after, target)
            self._refresh({before, after})

    def tag(self, image_id: ImageId, reference: Reference, *, target: Digest | None = None) -> None:
        """Point a tag (``latest`` when none is given) at an image.

        Args:
            target: the index whose other platforms the tag stands for as well, or the manifest that
                is meant where the image has several.

        Raises:
            ImageNotFoundError: no such image.
            InvalidParameterError: ``reference`` has a digest.
        """
        if reference.digest is not None:
            message = "refusing to create a tag with a digest reference"
            raise InvalidParameterError(message)
        with self._lock, self._metadata.transaction():
            image = self.get(image_id)
            record = msgspec.structs.replace(_record_of(image), last_tagged_at=now())
            self._metadata.put_image(image_id, _encoder.encode(record))
            changed = self._point(reference.with_default_tag(), image_id, target)
            self._images[image_id] = self._build(image_id, record, image)
            self._refresh(changed - {image_id})

    def add_digest(self, image_id: ImageId, reference: Reference) -> None:
        """Record ``name@digest`` for an image, as a push does.

        Raises:
            ImageNotFoundError: no such image.
            InvalidParameterError: ``reference`` has no digest.
        """
        if reference.digest is None:
            message = "a digest reference is needed"
            raise InvalidParameterError(message)
        with self._lock, self._metadata.transaction():
            self.get(image_id)
            self._refresh(self._point(reference, image_id, reference.digest))

    def untag(self, reference: Reference) -> ImageId | None:
        """Forget one reference; return the image it pointed to. The image stays, even nameless."""
        with self._lock:
            image_id = self._names.image(reference)
            self._names.remove(reference)
            if image_id is not None:
                self._refresh([image_id])
            return image_id

    def delete(self, ref_or_id: str, *, force: bool = False, prune: bool = True) -> Sequence[Removal]:
        """Untag or delete as ``docker rmi`` does, and free what nothing needs any more.

        Args:
            prune: also delete parents that are left nameless and childless.

        Raises:
            ImageNotFoundError, InvalidParameterError: as ``resolve``.
            ImageConflictError: in Docker's words.
        """
        with self._lock:
            removals, freed = deletion.delete(self, ref_or_id, force=force, prune=prune)
            return [*removals, *self.free(freed)] if freed else removals

    def delete_platforms(self, name: str, wanted: Sequence[Platform], *,
                         force: bool = False) -> Sequence[Removal]:
        """Delete platforms of a name; with the last one the name goes too.

        Raises:
            ImageNotFoundError, InvalidParameterError: as ``resolve``.
            NotFoundError: a platform is not here.
            ImageConflictError: in Docker's words.
        """
        with self._lock:
            removals, freed = deletion.delete_platforms(self, name, wanted, force=force)
            return [*removals, *self.free(freed)] if freed else removals

    def pin(self, image_id: ImageId, *, pinned: bool) -> None:
        """Protect an image from ``evict``, or stop that.

        Raises:
            ImageNotFoundError: no such image.
        """
        with self._lock:
            self._rewrite(image_id, pinned=pinned)

    def note_uses(self, uses: Mapping[ImageId, float]) -> None:
        """Keep when images were last used (Unix seconds); images that are gone are left out."""
        with self._lock, self._metadata.transaction():
            for image_id, moment in uses.items():
                if image_id in self._images:
                    self._rewrite(image_id, last_used_at=moment)

    def _rewrite(self, image_id: ImageId, **facts: float | bool) -> None:
        record = msgspec.structs.replace(_record_of(self.get(image_id)), **facts)
        self._metadata.put_image(image_id, _encoder.encode(record))
        self._images[image_id] = self._build(image_id, record, self._images[image_id])

    def evict(self, image_id: ImageId) -> Sequence[Removal]:
        """Delete an image with all its names for the disk budget, unless it is needed by now.

        Raises:
            ImageNotFoundError: it is gone.
            ImageConflictError: it is pinned, has children, or containers use it.
        """
        with self._lock:
            image = self.get(image_id)
            if image.pinned or self.users(image_id) or self.children(image_id):
                message = f"image {image_id} is in use or pinned"
                raise ImageConflictError(message)
            return self.delete(image_id, force=True, prune=False)

    def drop(self, image_id: ImageId) -> None:
        """Remove the record of a nameless image. Only ``deletion`` calls it, under the lock."""
        self._metadata.delete_image(image_id)
        image = self._images.pop(image_id, None)
        if image is not None and image.covered:
            # Its index stays and would keep it.
            kept = {digest for other in self._images.values() for digest in other.manifests}
            for digest in set(image.manifests) - kept:
                gc.release(self.content, self._metadata, digest)

    def free(self, gone: Iterable[Image]) -> Sequence[Removal]:
        """Collect, and name the layers (by ChainID, base last) that went with ``gone``."""
        before = set(self.snapshotter.layers())
        self.collect()
        removed = before - set(self.snapshotter.layers())
        return deletion.layer_removals(gone, removed)

    def collect(self) -> int:
        """Free blobs and layers that no image, container or lease needs; return the blobs' bytes."""
        with self._lock:
            return gc.collect(self.content, self.snapshotter, self._metadata, *self._roots())

    def unreachable(self) -> tuple[dict[Digest, int], Sequence[DiffID]]:
        """What ``collect`` would free: blobs with their sizes, and layers (also containers' ones)."""
        with self._lock:
            return gc.unreachable(self.content, self.snapshotter, self._metadata, *self._roots())

    def _roots(self) -> tuple[set[Digest], set[DiffID]]:
        blobs: set[Digest] = set(self._names.digests())
        layers: set[DiffID] = set(self.keep())
        if self.snapshotter.copies:
            # A layer that was made here has its tar beside it, under its own DiffID.
            blobs.update(Digest(layer) for layer in layers)
        for image in self._images.values():
            blobs.add(Digest(image.id))
            blobs.update(image.manifests)
            layers.update(image.diff_ids)
        for image_id, record in self._damaged.items():
            blobs.add(Digest(image_id))
            blobs.update(record.manifests)
        return blobs, layers

    def lease(self) -> Lease:
        """Open a lease for content that is on its way in."""
        return Lease(self._metadata)


def chain_ids(diff_ids: Sequence[DiffID]) -> list[Digest]:
    """ChainID of each stack of layers, base first (image-spec config.md#layer-chainid)."""
    found: list[Digest] = []
    for diff_id in diff_ids:
        if not found:
            found.append(Digest(diff_id))
        else:
            text = f"{found[-1]} {diff_id}".encode()
            found.append(Digest(f"sha256:{hashlib.sha256(text).hexdigest()}"))
    return found


def _record_of(image: Image) -> ImageRecord:
    return ImageRecord(manifests=list(image.manifests), parent=image.parent,
                       last_tagged_at=image.last_tagged_at, last_used_at=image.last_used_at,
                       pinned=image.pinned)


def _missing(name: str) -> ImageNotFoundError:
    return ImageNotFoundError(f"No such image: {name}")
