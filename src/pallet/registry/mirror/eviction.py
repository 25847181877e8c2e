"""What a mirror forgets: the least recently used beyond its budget, and what nobody asks for.

Owns   the choice; removal is that of every collection.
Runs   within a collection (``registry/gc.py``).
Needs  the metadata.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from pallet.registry.metadata.mirrored import MirrorTables
from pallet.registry.retention import DAY_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pallet.registry.metadata.mirrored import Entry
    from pallet.registry.metadata.open import MetadataStore
    from pallet.registry.mirror.settings import MirrorConfig, MirroredNames

logger = logging.getLogger(__name__)

LEAST_AGE_S = 600.0
"""What was used so recently stays, whatever the budget: a pull of it may be running."""


def evict(metadata: MetadataStore, config: MirrorConfig, names: MirroredNames, *, grace_s: float,
          dry_run: bool = False) -> tuple[int, list[str]]:
    """Remove what is over the budget or too old from mirrored repositories.

    Args:
        grace_s: of the collection; what was used since stays, at most ``LEAST_AGE_S``.

    Returns:
        The number of blobs that repositories lost, and ``repository@digest`` of manifests.
    """
    tables, now = MirrorTables(metadata.database), metadata.database.now()
    links = tables.links()
    young = now - min(grace_s, LEAST_AGE_S)
    too_old = now - config.keep_days * DAY_S if config.keep_days else 0.0
    chosen, horizon = choose(links, names, config.budget_bytes, young=young, too_old=too_old)
    manifests = [entry for entry in tables.manifests(min(max(horizon, too_old), young))
                 if entry.repository in names]
    if dry_run:
        return len(chosen), [f"{entry.repository}@{entry.digest}" for entry in manifests]
    dropped = sum(tables.drop_link(entry) for entry in chosen)
    gone = [f"{entry.repository}@{entry.digest}" for entry in manifests if tables.drop_manifest(entry)]
    if dropped or gone:
        logger.info("the mirror forgot %d blobs and %d manifests: %s", dropped, len(gone),
                    "over its budget" if horizon else "not asked for in a long time")
    return dropped, gone


def choose(links: Iterable[Entry], names: MirroredNames, budget_bytes: int, *, young: float,
           too_old: float) -> tuple[list[Entry], float]:
    """Entries to drop, and when the last one that goes for the budget was used (0.0: none).

    Args:
        links: of every repository, least recently used first. Blobs that a repository of the
            registry's own has as well cost nothing.
    """
    held = list(links)
    elsewhere = {entry.digest for entry in held if entry.repository not in names}
    mirrored = [entry for entry in held if entry.repository in names]
    holders = Counter(entry.digest for entry in mirrored)
    sizes = {entry.digest: entry.size for entry in mirrored if entry.digest not in elsewhere}
    total, horizon = sum(sizes.values()), 0.0
    chosen: list[Entry] = []
    for entry in mirrored:
        # What was used at the same moment is one image.
        over = bool(budget_bytes) and (total > budget_bytes or entry.used_at == horizon)
        if entry.used_at >= young or not (over or entry.used_at < too_old):
            break
        chosen.append(entry)
        holders[entry.digest] -= 1
        if not holders[entry.digest]:
            total -= sizes.get(entry.digest, 0)
        if over:
            horizon = entry.used_at
    return chosen, horizon
