"""Which tags go: the rules of ``[[retention]]``.

Owns   the decision; pure.
Runs   anywhere.
Needs  nothing.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.registry.config import RetentionRule
    from pallet.registry.metadata.records import TagRecord

DAY_S = 86400.0


def expired(
    repository: str, tags: Sequence[TagRecord], rules: Sequence[RetentionRule], now: float
) -> list[TagRecord]:
    """Tags of a repository that no rule keeps, oldest first."""
    governed: dict[int, list[TagRecord]] = {}
    for tag in tags:
        for index, rule in enumerate(rules):
            if _fits(repository, rule.repositories) and _fits(tag.name, rule.tags):
                governed.setdefault(index, []).append(tag)
                break
    gone: list[TagRecord] = []
    for index, found in governed.items():
        rule = rules[index]
        if rule.keep or (rule.keep_last is None and rule.keep_days is None):
            continue
        newest = sorted(found, key=lambda tag: (tag.updated_at, tag.name), reverse=True)
        for place, tag in enumerate(newest):
            kept = rule.keep_last is not None and place < rule.keep_last
            if rule.keep_days is not None and tag.updated_at >= now - rule.keep_days * DAY_S:
                kept = True
            if not kept:
                gone.append(tag)
    return sorted(gone, key=lambda tag: (tag.updated_at, tag.name))


def untagged_before(repository: str, rules: Sequence[RetentionRule], now: float) -> float | None:
    """Manifests that have had no tag since then go; None keeps them all."""
    for rule in rules:
        if rule.untagged_days is not None and _fits(repository, rule.repositories):
            return now - rule.untagged_days * DAY_S
    return None


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
