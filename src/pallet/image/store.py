"""Signatures of the image store (bodies follow)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pallet.image.model import Image, ImageUser, Removal
    from pallet.spec.image import Descriptor
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.storage.leases import Lease
    from pallet.storage.metadata import Metadata
    from pallet.storage.snapshot import Snapshotter
    from pallet.types import DiffID, Digest, ImageId


class ImageStore:
    """Every image of this daemon, indexed in memory; a lock inside, so any thread may call.

    Look-ups cost microseconds and may be made on the loop thread; ``put``, ``delete`` and ``prune``
    touch the disk and belong on a worker.
    """

    def __init__(self, content: ContentStore, snapshotter: Snapshotter, metadata: Metadata, *,
                 users: Callable[[ImageId], Iterable[ImageUser]]) -> None:
        raise NotImplementedError

    def resolve(self, ref_or_id: str) -> Image:
        """Find by tag, digest, id or unique id prefix, in Docker's order (semantics "ids images").

        Raises:
            ImageNotFoundError: "No such image: x:latest".
            InvalidParameterError: "invalid reference format".
        """
        raise NotImplementedError

    def get(self, image_id: ImageId) -> Image:
        """Image of a full id. Raises ImageNotFoundError."""
        raise NotImplementedError

    def find(self, reference: Reference) -> Image | None:
        """Image that a tag or digest reference (default tag added) points to."""
        raise NotImplementedError

    def target(self, reference: Reference) -> Digest | None:
        """Manifest or index digest a reference was pulled as: tells "up to date" from "newer"."""
        raise NotImplementedError

    def list(self) -> list[Image]:
        """Every image, newest first."""
        raise NotImplementedError

    def put(self, config_digest: Digest, *, manifest_digest: Digest,
            reference: Reference | None = None, target_digest: Digest | None = None,
            parent: ImageId | None = None) -> Image:
        """Record an image whose blobs are in the content store and whose layers are committed.

        Settles the layers (``Snapshotter.settle``), then writes the record, the tag if
        ``reference`` has one (moving it from another image, which may become dangling), and the
        repo digest ``name@target_digest`` if ``reference`` is given.

        Args:
            manifest_digest: the image manifest.
            target_digest: what the reference resolved to at the registry: the index's digest for
                multi-platform images; None means ``manifest_digest``. None for local images: use
                ``reference`` None and then ``tag``.

        Raises:
            DataLossError: a blob or layer is missing, or manifest and config disagree.
        """
        raise NotImplementedError

    def tag(self, image_id: ImageId, reference: Reference) -> None:
        """Point ``reference`` (default tag added; a digest is refused) at an image."""
        raise NotImplementedError

    def add_digest(self, image_id: ImageId, reference: Reference) -> None:
        """Record ``name@digest`` for an image, as a push does."""
        raise NotImplementedError

    def delete(self, ref_or_id: str, *, force: bool = False, prune: bool = True) -> list[Removal]:
        """Docker's ``rmi``: untag or delete (semantics "image delete").

        Raises:
            ImageNotFoundError, InvalidParameterError: as ``resolve``.
            ImageConflictError: in Docker's words.
        """
        raise NotImplementedError

    def missing_layers(self, image_id: ImageId) -> list[tuple[DiffID, Descriptor]]:
        """Layers of an image that are not unpacked (after a power cut), with their blobs."""
        raise NotImplementedError

    def layer_sharing(self) -> dict[DiffID, int]:
        """Number of images that have each layer, for ``SharedSize``."""
        raise NotImplementedError

    def children(self, image_id: ImageId) -> list[ImageId]:
        """Images built here on this one."""
        raise NotImplementedError

    def collect(self) -> int:
        """Free blobs and layers that no image, container or lease needs; return the bytes."""
        raise NotImplementedError

    def lease(self, resources: Sequence[tuple[str, str]] = ()) -> Lease:
        """Protect blobs and layers of a pull in progress (see ``storage/leases.py``)."""
        raise NotImplementedError
