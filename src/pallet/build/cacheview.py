"""The build cache in the Engine API's words.

Owns   the rows of ``docker system df -v`` and what ``POST /build/prune`` means.
Runs   on the loop.
Spec   Engine API SystemDataUsage, BuildPrune.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import UNSET

from pallet.build.usage import CachePrune
from pallet.errors import InvalidParameterError
from pallet.spec.engine.build import BuildCacheRecord
from pallet.spec.engine.prune import BuildPruneResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.build.cachegc import CacheKeeper
    from pallet.build.usage import CacheUsage
    from pallet.spec.engine.build import BuildPruneOptions
    from pallet.spec.engine.filters import Filters

_NANO = 1_000_000_000
_FLAGS = frozenset({"inuse", "shared", "private"})
_FILTERS = _FLAGS | {"until", "unused-for", "id", "parent", "type", "description"}


def records(keeper: CacheKeeper) -> list[BuildCacheRecord]:
    """Every record, as ``docker system df -v`` lists it."""
    return [_record(usage) for usage in keeper.usage()]


async def prune(keeper: CacheKeeper, options: BuildPruneOptions, age_of: Callable[[str], float]) -> BuildPruneResponse:
    """Remove what ``POST /build/prune`` asks for.

    Args:
        age_of: seconds that an ``until`` or ``unused-for`` value means, back from now.

    Raises:
        InvalidParameterError: filters that cannot be.
    """
    filters = options.filters
    ages = [*filters.get("until"), *filters.get("unused-for")]
    if len(ages) > 1:
        message = f"filters expect only one value for until: [{' '.join(ages)}]"
        raise InvalidParameterError(message)
    gone = await keeper.prune(CachePrune(
        all=options.all, filters=_expressions(filters),
        keep_duration_ns=int(age_of(ages[0]) * _NANO) if ages else 0, reserved_bytes=options.reserved_bytes,
        max_used_bytes=options.max_used_bytes, min_free_bytes=options.min_free_bytes))
    return BuildPruneResponse(caches_deleted=[usage.id for usage in gone] or None, space_reclaimed=reclaimed(gone))


def _expressions(filters: Filters) -> tuple[str, ...]:
    """The Engine API's filters (but those of age) as one of containerd's expressions.

    Raises:
        InvalidParameterError: an unknown filter, or several values of one.
    """
    filters.validate(_FILTERS)
    terms: list[str] = []
    for key in sorted(_FILTERS - {"until", "unused-for"}):
        values = filters.get(key)
        if len(values) > 1:
            message = f"filters expect only one value for {key}: [{' '.join(values)}]"
            raise InvalidParameterError(message)
        for value in values:
            if key in _FLAGS:
                terms.append(f"{key}{'==' if filters.boolean(key, default=True) else '!='}true")
            else:
                terms.append(f"{'parents' if key == 'parent' else key}=={json.dumps(value)}")
    return (",".join(terms),) if terms else ()


def reclaimed(gone: Sequence[CacheUsage]) -> int:
    """Bytes that went with records: what an image has, too, stays."""
    return sum(usage.size_bytes for usage in gone if not usage.shared)


def _record(usage: CacheUsage) -> BuildCacheRecord:
    return BuildCacheRecord(
        id=usage.id, parents=list(usage.parents) or UNSET, type=usage.kind, description=usage.description,
        in_use=usage.in_use, shared=usage.shared, size=usage.size_bytes, created_at=_moment(usage.created_ns),
        last_used_at=_moment(usage.last_used_ns) if usage.last_used_ns else None, usage_count=usage.usage_count)


def _moment(time_ns: int) -> str:
    seconds, nanos = divmod(time_ns, _NANO)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{nanos:09d}".rstrip("0").rstrip(".") + "Z"
