"""What every prune has in common: its filters, and that one of a kind runs at a time.

Runs   on the event loop.
Spec   Engine API ContainerPrune, ImagePrune, NetworkPrune, VolumePrune.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pallet.engine.imagefilter import parse_until
from pallet.errors import ConflictError, InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pallet.spec.engine.filters import Filters


class PruneGate:
    """Lets one prune in and refuses the next until it is done."""

    def __init__(self) -> None:
        self._busy = False

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold the gate.

        Raises:
            ConflictError: "a prune operation is already running".
        """
        if self._busy:
            message = "a prune operation is already running"
            raise ConflictError(message)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


def until_of(filters: Filters) -> float | None:
    """Unix seconds of the ``until`` filter; None when there is none.

    Raises:
        InvalidParameterError: several of them, or one that cannot be read.
    """
    values = filters.get("until")
    if not values:
        return None
    if len(values) > 1:
        message = "more than one until filter specified"
        raise InvalidParameterError(message)
    return parse_until(values[0])


def labels_match(filters: Filters, labels: Mapping[str, str] | None) -> bool:
    """Whether something with ``labels`` may go: all of ``label``, and not all of ``label!``."""
    if not filters.labels(labels):
        return False
    return "label!" not in filters or not filters.labels(labels, "label!")
