"""``.dockerignore`` for the walk; loaded where there are patterns (it compiles regular expressions)."""

from __future__ import annotations

from pallet.spec.ignore import PathMatcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def excluder(patterns: Sequence[str]) -> Callable[[str, bool], bool | None]:
    """What ``walk.listings`` asks of each path."""
    matcher = PathMatcher(patterns)
    excludes, enter = matcher.excludes, matcher.may_hold_exceptions

    def excluded(path: str, is_directory: bool) -> bool | None:
        if not excludes(path):
            return False
        return None if is_directory and enter(path) else True

    return excluded
