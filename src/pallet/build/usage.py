"""What the builder keeps, as it is shown, and what is to be removed of it.

Owns   plain data, for every door: ``buildx du`` and ``prune``, ``builder prune``, ``system df``.
Runs   anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from pallet.config import CachePrune

__all__ = ["CachePrune", "CacheUsage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUsage:
    """One thing the builder keeps, for ``buildx du`` and ``system df``."""

    id: str
    kind: str
    """``regular``, ``source.local``, ``exec.cachemount``, ``source.git.checkout``, ``internal``, ``frontend``."""
    description: str
    size_bytes: int
    created_ns: int
    last_used_ns: int = 0
    """0 for never."""
    usage_count: int = 0
    in_use: bool = False
    shared: bool = False
    mutable: bool = False
    parents: tuple[str, ...] = ()
