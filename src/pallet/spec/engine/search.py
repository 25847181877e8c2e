"""What a search of repositories answers. Spec: Engine API ImageSearch."""

from __future__ import annotations

from msgspec import Struct


class SearchResult(Struct, frozen=True, kw_only=True):
    """One repository. ``is_automated`` is kept for old clients."""

    star_count: int
    is_official: bool
    name: str
    is_automated: bool
    description: str
