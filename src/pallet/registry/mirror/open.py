"""Make a registry's mirror.

Owns   the import of what only a mirror needs.
Runs   once, when a server starts.
Needs  nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.registry.mirror.service import Mirror
    from pallet.registry.store import RegistryStore


def open_mirror(store: RegistryStore,
                count: Callable[[str, float], None] = lambda _name, _value: None) -> Mirror | None:
    """The mirror that the store's configuration asks for, if it does.

    Args:
        count: adds to a counter of ``serving/metrics.py``.

    Raises:
        InvalidParameterError: the configuration contradicts itself.
    """
    config = store.config.mirror
    if config is None or not config.upstream:
        return None
    from pallet.registry.mirror.service import Mirror

    return Mirror(store, config, count)
