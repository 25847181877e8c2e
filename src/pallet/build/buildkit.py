"""``api.buildkitbackend.BuildKitBackend``: the builder as BuildKit's clients see it.

Runs   on the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.build.cachegc import CacheKeeper
    from pallet.build.context import ContextStore
    from pallet.build.entries import Entry
    from pallet.build.ports import BuildClient, ResolvedImage
    from pallet.build.progress import Watch
    from pallet.build.request import BuildRequest, BuildResult
    from pallet.build.service import Builder
    from pallet.build.usage import CachePrune, CacheUsage
    from pallet.image.store import ImageStore
    from pallet.spec.platform import Platform
    from pallet.types import ImageId


class BuildKitBuilder:
    """One daemon's builder behind ``/grpc``."""

    def __init__(self, builder: Builder, keeper: CacheKeeper, images: ImageStore) -> None:
        self._images = images
        self._builder = builder
        self._keeper = keeper

    @property
    def contexts(self) -> ContextStore:
        """Where trees go that a session brings."""
        return self._builder.contexts

    async def build(self, request: BuildRequest, client: BuildClient, watch: Watch) -> BuildResult:
        """Do one build."""
        return await self._builder.build(request, client, watch)

    async def describe(self, subrequest: str, request: BuildRequest, client: BuildClient, watch: Watch
                       ) -> Mapping[str, bytes]:
        """Answer a front end's subrequest."""
        return await self._builder.describe(subrequest, request, client, watch)

    async def resolve_image(self, reference: str, platform: Platform, *, pull: bool, client: BuildClient,
                            watch: Watch) -> ResolvedImage:
        """Find an image's config."""
        return await self._builder.resolve_image(reference, platform, pull=pull, client=client, watch=watch)

    async def read_file(self, request: BuildRequest, path: str, limit_bytes: int, client: BuildClient, watch: Watch, *,
                        source: bool) -> bytes | None:
        """Read a file of a result, or of a remote source."""
        return await self._builder.files(request, client, watch, lambda tree: tree.read(path, limit_bytes),
                                         source=source)

    async def entries(self, request: BuildRequest, path: str, client: BuildClient, watch: Watch, *,
                      source: bool) -> Sequence[Entry] | None:
        """List what is at a path of one."""
        return await self._builder.files(request, client, watch, lambda tree: tree.entries(path), source=source)

    def image_config(self, image_id: ImageId) -> bytes | None:
        """The config of an image that is here."""
        try:
            return self._images.get(image_id).raw_config
        except NotFoundError:
            return None

    async def usage(self, filters: Sequence[str] = ()) -> Sequence[CacheUsage]:
        """What the cache keeps."""
        return self._keeper.usage(filters)

    async def prune_cache(self, prune: CachePrune) -> Sequence[CacheUsage]:
        """Remove from the cache."""
        return await self._keeper.prune(prune)
