"""Documents about disk space and its integrity.

Spec   Pallet's own: ``GET /pallet/disk``, ``POST /pallet/check``; ``docs/disk.md``.
"""

from __future__ import annotations

from msgspec import UNSET, Struct

from pallet.spec.engine.wire import Maybe


class ImageFacts(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One image's place on the disk, under ``Pallet`` in an inspect. Sizes in bytes."""

    unique_size: int
    """Of layers that no other image has: what removing it gives back, without its blobs."""
    shared_size: int
    hidden_size: Maybe[int] = UNSET
    """Of files that later layers replace or delete; absent until the image was explored."""
    pinned: bool


class ImageUse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One image in the eyes of the budget. Sizes in bytes."""

    id: str
    repo_tags: list[str]
    size: int
    unique_size: int
    """Of layers that no other image has: what removing it gives back, without its blobs."""
    hidden_size: Maybe[int] = UNSET
    """Of files that later layers replace or delete; absent until its layers were indexed."""
    last_used: str
    """RFC 3339, UTC: the last create, start, pull or tag."""
    pinned: bool
    in_use: bool


class StoreUsage(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What the store takes on disk. Sizes in bytes."""

    layers_size: int
    """Unpacked, each layer once."""
    blobs_size: int
    """As their registry sent them."""
    budget: int
    """0 is none."""
    images: list[ImageUse]


class CheckMessage(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """One line of a check's stream: progress, a finding, or the sums at the end."""

    stage: str
    """``blobs``, ``layers``, ``records`` or ``done``."""
    subject: str = ""
    """Digest, DiffID, image or path that it is about."""
    done: int = 0
    total: int = 0
    """Bytes or things of the stage; with a ``problem`` both are 0."""
    problem: str = ""
    repaired: bool = False
    containers: list[str] = []
    """Ids of the containers that stand on the damaged layer."""
    checked: int = 0
    damaged: int = 0
    """In the last message: things looked at, and damage that remains."""
