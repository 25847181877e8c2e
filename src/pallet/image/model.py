"""What an image is to the rest of the daemon, and its record on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import ConflictError, NotFoundError
from pallet.types import Digest, ImageId

if TYPE_CHECKING:
    from pallet.spec.image import ImageConfigFile
    from pallet.types import DiffID


class ImageNotFoundError(NotFoundError):
    """No image of this name or id. Text: ``No such image: x:latest``."""


class ImageConflictError(ConflictError):
    """Something still needs the image."""


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image's record in ``meta.db``; its id is the digest of its config blob."""

    manifests: list[Digest] = []
    """Manifests with this config in the content store, newest first: what pushes and saves send."""
    parent: ImageId | None = None
    """Image this one was built on here; None for pulled and imported ones."""
    last_tagged_at: str = ""
    """RFC 3339, UTC; empty when never tagged here."""
    last_used_at: float = 0.0
    """Unix seconds of the last create or start from it; 0 is never."""
    pinned: bool = False
    """Safe from the disk budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image as it is now. A snapshot: it does not change when the store does."""

    id: ImageId
    config: ImageConfigFile
    raw_config: bytes
    diff_ids: tuple[DiffID, ...]
    """Base first; ready for ``Snapshotter.prepare``."""
    size_bytes: int
    """Sum of its layers' sizes."""
    created: str
    """RFC 3339 as the config has it; ``0001-01-01T00:00:00Z`` when it has none."""
    created_at: float
    """The same as Unix seconds; 0.0 for none or one before 1970."""
    repo_tags: tuple[str, ...]
    """Familiar names with tags, sorted: ``debian:12``."""
    repo_digests: tuple[str, ...]
    """Familiar names with digests, sorted: ``debian@sha256:…``."""
    manifests: tuple[Digest, ...]
    parent: ImageId | None
    last_tagged_at: str
    last_used_at: float = 0.0
    pinned: bool = False

    covered: bool = False
    """It has no name of its own, but is one platform of an index that has (``image.variants``)."""

    @property
    def is_dangling(self) -> bool:
        """True when no tag names it, nor an index it belongs to."""
        return not self.repo_tags and not self.covered


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUser:
    """A container made from an image."""

    container_id: str
    running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One line of a delete's answer: exactly one of the two is set.

    ``image_id`` is always set, for the event (``untag`` or ``delete``); None for a layer.
    """

    untagged: str | None = None
    deleted: str | None = None
    image_id: ImageId | None = None
