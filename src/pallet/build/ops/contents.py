"""What an input holds where an operation looks, as a digest: for cache keys.

Owns   the ways there: a thread for clients' trees, whose files are mostly hashed already, and a zygote
       child for layers, whose answer never changes and is remembered.
Runs   on the loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.build.cachekey import selection_key
from pallet.build.ops import selection
from pallet.build.ops.fileworker import DigestRequest, FilesReply, excluder_of
from pallet.build.ops.selection import Selection
from pallet.errors import CancelledRequestError, InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.build.cachekey import Use
    from pallet.build.cachestore import CacheStore
    from pallet.build.job import Job, Solved
    from pallet.build.ops.layers import Layers
    from pallet.build.ports import ContextTree
    from pallet.image.importer import WorkerRunner

_EVERYTHING = Selection(paths=("/",), wildcards=False)
_REMEMBERED = 512


class Contents:
    """Digests of parts of trees."""

    def __init__(self, *, cache: CacheStore, layers: Layers, workers: WorkerRunner) -> None:
        self._cache = cache
        self._layers = layers
        self._workers = workers
        self._trees: dict[tuple[str, str], tuple[Mapping[str, str], str]] = {}

    async def digest(self, solved: Solved, use: Use, job: Job) -> str:
        """Digest of what ``use`` looks at.

        Raises:
            SourceMissingError: a path is not there.
        """
        del job
        wanted = use.selection or _EVERYTHING
        if solved.tree is not None:
            return await self._of_tree(solved.tree, wanted)
        known = self._cache.content(solved.layers, wanted)
        if known is None:
            known = await self._of_layers(solved, wanted)
            self._cache.put_content(solved.layers, wanted, known)
        return known

    async def _of_layers(self, solved: Solved, wanted: Selection) -> str:
        reply = await self._workers.run_worker("build.digest", DigestRequest(
            input=await self._layers.input(solved.layers), paths=list(wanted.paths),
            exclude=list(wanted.exclude), wildcards=wanted.wildcards, parents=wanted.parents,
            follow=wanted.follow, lenient=wanted.lenient),
            reply_type=FilesReply)
        return reply.check().digest

    async def _of_tree(self, tree: ContextTree, wanted: Selection) -> str:
        key = (tree.root, selection_key(wanted))
        known = self._trees.get(key)
        # The same object: the tree is what it was, as its store makes a new table with each change.
        if known is not None and known[0] is tree.digest_of:
            return known[1]
        found = await self._in_thread(tree, wanted)
        if len(self._trees) >= _REMEMBERED:
            self._trees.pop(next(iter(self._trees)))
        self._trees[key] = (tree.digest_of, found)
        return found


    async def _in_thread(self, tree: ContextTree, wanted: Selection) -> str:
        """A build that ends meanwhile gives the thread back: a file may seem to have terabytes."""
        stop = threading.Event()
        work = asyncio.ensure_future(run_blocking(_digest_tree, tree, wanted, stop))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({work})
            if not work.cancelled():
                work.exception()
            raise


def _digest_tree(tree: ContextTree, wanted: Selection, stop: threading.Event) -> str:
    def check() -> None:
        if stop.is_set():
            message = "context canceled"
            raise CancelledRequestError(message)

    fd = os.open(tree.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return selection.digest(fd, wanted, known=tree.digest_of, listed=tree.listed,
                                excluder=excluder_of(wanted.exclude), xattrs=False, check=check)
    except RecursionError as error:
        message = "directories of the context are nested too deeply"
        raise InvalidParameterError(message) from error
    finally:
        os.close(fd)
