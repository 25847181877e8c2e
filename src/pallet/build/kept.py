"""Layers that the build cache keeps, read without the builder: for collections before the first build.

Runs   in worker threads.
Spec   ``cachestore.CacheRecord``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pallet.storage.metadata import Metadata
    from pallet.types import DiffID


class _Layers(msgspec.Struct):
    layers: tuple[str, ...] = ()


_decode = msgspec.json.Decoder(_Layers).decode


def kept_layers(metadata: Metadata) -> set[DiffID]:
    """Layers of every record."""
    return {layer for _, raw in metadata.build_records() for layer in _decode(raw).layers}  # type: ignore[misc]
