"""Collection of what nothing needs, while pushes go on.

Owns   the order of removals, and running them in the background.
Runs   in a thread of the server, or in ``pallet registry gc`` beside running servers; replicas take
       turns, and two at once would do no harm.
Needs  a ``RegistryStore``.

Why no push loses a blob:

1. A removal is a transaction on one row that locks it, asks again whether anything names it, and
   deletes it. Whoever names a row (a manifest its blobs, a repository its content, a tag its
   manifest) locks it as well, by the foreign key. So either the push comes first and the removal
   finds the name, or the removal comes first and the push is told that the blob is unknown, before
   it is told that anything worked; what was acknowledged is never taken.
2. That answer must not come to a client that was told before that the blob is there. Every such
   answer (upload finished, mounted, HEAD) is noted as use, and so is the end of a manifest that
   needed the blob. A link goes only when its last use is more than ``grace_s`` ago and its
   repository has seen no push since, so a push that takes hours keeps what it began with
   (for at most ``MAX_PUSH_S``, or a busy repository would never be swept). Notes are skipped while
   the last one is younger than an eighth of the grace, and answers are given again from memory for
   another, so three quarters of it are guaranteed.
3. Content goes after its last link, in two steps: the transaction moves its location to the trash,
   then the object is deleted, then the trash is forgotten. Locations hold the upload's id and are
   never used again, so a push of the same content in between has another object.
4. Sessions are dropped when nobody went on with them for ``upload_s``; claiming an epoch first
   keeps a late request from recording anything.

Nothing here relies on being alone or on a process staying alive between two steps.
"""

from __future__ import annotations

import logging
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pallet.registry import retention
from pallet.registry.mirror.eviction import evict
from pallet.registry.mirror.settings import DIRECTORY, MirroredNames
from pallet.registry.mirror.spool import sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from pallet.registry.store import RegistryStore

logger = logging.getLogger(__name__)

MAX_PUSH_S = 86400.0
_TURN_S = 3600.0
_PATIENCE_S = 5.0
_TASK = "gc"


@dataclass(slots=True, kw_only=True)
class Collected:
    """What a collection removed, or would remove."""

    tags: list[str] = field(default_factory=list)
    """``repository:tag``."""
    manifests: list[str] = field(default_factory=list)
    """``repository@digest``."""
    links: int = 0
    blobs: int = 0
    uploads: int = 0
    freed_bytes: int = 0


def collect(store: RegistryStore, *, dry_run: bool = False) -> Collected:
    """Apply retention, then sweep.

    Args:
        dry_run: only say which tags and manifests would go. Manifests that lose their tag in the
            same collection are not among them: their time without a tag begins then.
    """
    result = Collected()
    _retire(store, result, dry_run=dry_run)
    _evict(store, result, dry_run=dry_run)
    if dry_run:
        return result
    garbage, now = store.metadata.garbage, store.metadata.database.now()
    gc = store.config.gc
    before, at_last = now - gc.grace_s, now - max(gc.grace_s, MAX_PUSH_S)
    for record in store.metadata.uploads.all(now - gc.upload_s):
        store.uploads.drop(record)
        result.uploads += 1
    mirrored = _mirrored(store)
    for name, digest in garbage.unused_links(before, at_last):
        if name not in mirrored:  # what a mirror holds it holds without a manifest that needs it
            result.links += garbage.drop_unused_link(name, digest, before, at_last)
    garbage.drop_unlinked_blobs()
    for record_ in garbage.trash():
        store.driver.delete(record_.location)
        garbage.forget_trash(record_.location)
        result.blobs += 1
        result.freed_bytes += record_.size
    garbage.drop_empty_repositories(before)
    return result


def _retire(store: RegistryStore, result: Collected, *, dry_run: bool) -> None:
    rules, garbage = store.config.retention, store.metadata.garbage
    now = store.metadata.database.now()
    for name in store.repositories() if rules else ():
        for tag in retention.expired(name, store.metadata.content.tags(name), rules, now):
            if dry_run or garbage.drop_tag(name, tag):
                result.tags.append(f"{name}:{tag.name}")
        untagged = retention.untagged_before(name, rules, now)
        if untagged is None:
            continue
        before = min(untagged, now - store.config.gc.grace_s)
        # Removing a list or a subject sets free what hung on it, for the next collection.
        for digest in garbage.untagged(name, before):
            if dry_run or garbage.drop_untagged(name, digest, before):
                result.manifests.append(f"{name}@{digest}")


def _mirrored(store: RegistryStore) -> Container[str]:
    """The names of mirrored repositories."""
    if store.config.mirror is None:
        return ()
    return MirroredNames(store.config.mirror)


def _evict(store: RegistryStore, result: Collected, *, dry_run: bool) -> None:
    config = store.config.mirror
    if config is None:
        return
    links, manifests = evict(store.metadata, config, MirroredNames(config), grace_s=store.config.gc.grace_s,
                             dry_run=dry_run)
    result.links += links
    result.manifests += manifests
    if not dry_run:
        sweep(Path(store.config.storage.root) / DIRECTORY)


def take_turn(store: RegistryStore, holder: str) -> Collected | None:
    """Collect unless somebody else does."""
    garbage = store.metadata.garbage
    if not garbage.take_task(_TASK, holder, _TURN_S):
        return None
    try:
        done = collect(store)
    finally:
        garbage.release_task(_TASK, holder)
    logger.info("collected %d tags, %d manifests, %d blobs (%d bytes), %d uploads",
                len(done.tags), len(done.manifests), done.blobs, done.freed_bytes, done.uploads)
    return done


class Collector:
    """Collects in the background every ``interval_s``."""

    def __init__(self, store: RegistryStore,
                 watch: Callable[[Collected | None], None] = lambda _done: None) -> None:
        """Begin.

        Args:
            watch: told what each collection removed, None for one that failed.
        """
        self._store = store
        self._watch = watch
        self._stopped = threading.Event()
        self._holder = secrets.token_hex(8)
        self._thread: threading.Thread | None = None
        if store.config.gc.interval_s > 0:
            self._thread = threading.Thread(target=self._run, name="pallet-registry-gc",
                                            daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._store.config.gc.interval_s):
            try:
                self._turn()
            except Exception:
                logger.exception("collection failed")
                self._watch(None)

    def _turn(self) -> None:
        done = take_turn(self._store, self._holder)
        if done is not None:
            self._watch(done)

    def stop(self) -> None:
        """End after the running collection, or in the middle of a long one: it may end anywhere."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE_S)
