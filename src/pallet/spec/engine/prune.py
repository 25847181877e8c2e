"""Replies of the prune calls for containers, images and the build cache.

Spec   Engine API ContainerPrune, ImagePrune, BuildPrune.
"""

from __future__ import annotations

from msgspec import Struct

from pallet.spec.engine.image import ImageDeleteItem


class ContainerPruneResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Ids of the containers that went; null when there were none. Bytes reclaimed."""

    containers_deleted: list[str] | None
    space_reclaimed: int


class ImagePruneResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What was untagged and deleted; null when there was nothing. Bytes reclaimed."""

    images_deleted: list[ImageDeleteItem] | None
    space_reclaimed: int


class BuildPruneResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Ids of the cache records that went; null when there were none. Bytes reclaimed."""

    caches_deleted: list[str] | None = None
    space_reclaimed: int = 0
