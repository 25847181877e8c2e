"""The caches that a build names: opened before it is solved, written after its outputs.

Runs   on the loop.
Spec   BuildKit's ``importing cache manifest from …`` and ``exporting cache to …``; ``ignore-error``.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from pallet.build.export.values import flag
from pallet.errors import InvalidParameterError, PalletError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.build.export.model import Progress
    from pallet.build.graph import Vertex
    from pallet.build.job import Job
    from pallet.build.ports import SolvedTarget
    from pallet.build.remotecache.exporter import CacheExporter
    from pallet.build.remotecache.importer import CacheImporter
    from pallet.build.request import BuildRequest, CacheLink

logger = logging.getLogger(__name__)

_INLINE_ARGUMENT = "BUILDKIT_INLINE_CACHE"
MOUNTS = "cache-mounts"
"""Attribute: what cache mounts hold goes with a cache (to), or is taken from it (from; the default). Pallet's own."""


def check_caches(request: BuildRequest) -> None:
    """See that links can be had as they ask.

    Raises:
        InvalidParameterError: no boolean, or a config that is to hold directories.
    """
    for link in (*request.cache_imports, *request.cache_exports):
        if flag(link.attributes, MOUNTS) and link.kind == "inline":
            message = f"{MOUNTS} needs a cache of type registry or local"
            raise InvalidParameterError(message)


async def open_caches(importer: CacheImporter, request: BuildRequest, job: Job, progress: Progress) -> None:
    """Open every cache that the build may use; one that cannot be had is told of and left out."""
    for link in request.cache_imports:
        try:
            with progress.vertex(f"importing cache manifest from {_where(link)}"):
                cache = await importer.open(link, job)
        except PalletError as error:  # of a kind that is not known here, too: nothing but time is lost
            logger.info("cache %s is not used: %s", _where(link), error)
            continue
        if cache is not None:
            job.caches.append(cache if flag(link.attributes, MOUNTS, default=True) else cache.without_mounts())


def with_inline_cache(exporter: CacheExporter, request: BuildRequest, job: Job,
                      targets: Sequence[SolvedTarget]) -> list[SolvedTarget]:
    """The targets with their caches in their configs, where the build asks for that."""
    wanted = any(link.kind == "inline" for link in request.cache_exports) or (
        request.options.build_args.get(_INLINE_ARGUMENT, "").lower() in {"1", "t", "true"})
    if not wanted:
        return list(targets)
    return [dataclasses.replace(target, config=exporter.inline(target.config, job, target.layers))
            for target in targets]


async def write_caches(exporter: CacheExporter, request: BuildRequest, job: Job, progress: Progress,
                       targets: Sequence[SolvedTarget], vertices: Sequence[Vertex]) -> dict[str, str]:
    """Write every cache that the build is to leave elsewhere; the exporter's response has the last one.

    Args:
        vertices: of the targets.
    """
    response: dict[str, str] = {}
    for link in request.cache_exports:
        if link.kind == "inline":
            continue
        name = "registry" if link.kind == "registry" else "client directory"
        try:
            with progress.vertex(f"exporting cache to {name}"):
                response |= await exporter.export(link, job, [target.layers for target in targets], vertices)
        except PalletError as error:
            if not flag(link.attributes, "ignore-error"):
                raise
            logger.warning("cache %s was not written: %s", _where(link), error)
    return response


def _where(link: CacheLink) -> str:
    return link.attributes.get("ref") or link.attributes.get("src") or link.attributes.get("dest") or link.kind
