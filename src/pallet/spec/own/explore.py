"""What ``pallet image explore`` shows.

Spec   Pallet's own: ``GET /pallet/images/{name}/explore``; ``docs/disk.md``.
"""

from __future__ import annotations

from msgspec import Struct


class Change(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """What a layer (by its index, base 0) did to a path: ``added``, ``changed`` or ``deleted``."""

    layer: int
    kind: str
    size: int = 0


class Entry(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """One path; ``kind`` is file, directory, symlink, hardlink, device, fifo or deleted."""

    path: str
    kind: str
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    target: str = ""
    history: list[Change]


class LayerFacts(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One layer. Sizes in bytes; ``hidden_bytes`` are of files that layers above replace or delete."""

    diff_id: str
    blob: str
    created_by: str
    size: int
    blob_size: int
    hidden_bytes: int = 0
    added: int = 0
    changed: int = 0
    deleted: int = 0


class HiddenPath(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A path whose earlier contents still take space."""

    path: str
    bytes: int
    times: int
    """How often it was replaced or deleted."""


class LargePath(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A large file that a container sees, and the layer it comes from."""

    path: str
    size: int
    layer: int


class Exploration(Struct, frozen=True, kw_only=True, rename="pascal"):
    """An image's files by layer. ``efficiency`` is visible bytes over all bytes, 0 to 1."""

    id: str
    repo_tags: list[str]
    size: int
    layers: list[LayerFacts]
    visible_bytes: int = 0
    hidden_bytes: int = 0
    efficiency: float = 1.0
    largest: list[LargePath] = []
    hidden: list[HiddenPath] = []
    entries: list[Entry] = []
