"""``docker search``: filters and order of what an index answers.

Runs   on the event loop.
Spec   Engine API ImageSearch; words as dockerd's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pallet.errors import InvalidParameterError
from pallet.spec.engine.search import SearchResult
from pallet.transfer.auth import LoginCredentials

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.spec.engine.auth import AuthConfig
    from pallet.spec.engine.filters import Filters
    from pallet.transfer.search import Searcher

_KEYS: Final = frozenset({"is-automated", "is-official", "stars"})
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_DEFAULT_LIMIT: Final = 25
_MAX_LIMIT: Final = 100


async def search(searcher: Searcher, term: str, *, limit: int, filters: Filters,
                 auth: AuthConfig | None, headers: Mapping[str, str]) -> Sequence[SearchResult]:
    """Repositories for ``term`` that pass the filters, in the index's order.

    Raises:
        InvalidParameterError: a filter or the limit (0 is 25; 1 to 100).
        SystemFailureError: the index refused or cannot be reached.
    """
    limit = limit or _DEFAULT_LIMIT
    if not 1 <= limit <= _MAX_LIMIT:
        message = f"limit {limit} is outside the range of [1, {_MAX_LIMIT}]"
        raise InvalidParameterError(message)
    filters.validate(_KEYS)
    automated, official = _boolean(filters, "is-automated"), _boolean(filters, "is-official")
    stars = _stars(filters)
    found = await searcher.search(term, limit=limit, headers=headers,
                                  credentials=LoginCredentials.from_config(auth))
    return [
        SearchResult(star_count=one.star_count, is_official=one.is_official, name=one.name,
                     is_automated=one.is_automated, description=one.description or "")
        for one in found
        if (automated is None or one.is_automated == automated)
        and (official is None or one.is_official == official) and one.star_count >= stars]


def _boolean(filters: Filters, key: str) -> bool | None:
    values = filters.get(key)
    if not values:
        return None
    if len(values) != 1 or values[0].lower() not in _BOOLEANS:
        raise _invalid(key, values)
    return _BOOLEANS[values[0].lower()]


def _stars(filters: Filters) -> int:
    values = filters.get("stars")
    try:
        return max((int(value) for value in values), default=0)
    except ValueError as error:
        raise _invalid("stars", values) from error


def _invalid(key: str, values: Sequence[str]) -> InvalidParameterError:
    return InvalidParameterError(f"invalid filter '{key}=[{' '.join(values)}]'")
