"""Plans of Dockerfiles that were read before: reading one again costs nothing.

Owns   which plans are kept, and what has to be as it was for one to be used again.
Runs   on the loop.

A plan follows from the Dockerfile, the options and what its images are. Images are asked for each time; where
their answers are the same, so is the plan. One that came from anything else (a registry, a client's layout or
ignore file, another build) is made anew each time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import msgspec

from pallet.build.cachekey import Names
from pallet.build.dockerfile.plan import plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.build.graph import Plan
    from pallet.build.ports import BuildClient, FrontendOptions, ImageResolver, ResolvedImage
    from pallet.build.progress import Watch
    from pallet.spec.platform import Platform

_KEPT = 64
_MAX_SOURCE_BYTES = 64 << 10
"""Of a Dockerfile whose plan is kept."""
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class _Kept:
    plan: Plan
    names: Names
    images: dict[tuple[str, Platform], ResolvedImage]


class Plans:
    """See the module."""

    def __init__(self, resolver: ImageResolver) -> None:
        self._resolver = resolver
        self._kept: OrderedDict[tuple[bytes, bytes], _Kept] = OrderedDict()

    async def plan(self, source: bytes, options: FrontendOptions, *, client: BuildClient, watch: Watch,
                   exclude: Sequence[str] = ()) -> tuple[Plan, Names]:
        """Do what ``dockerfile.plan.plan`` does; also return the names of its vertices as far as they are known."""
        if options.pull or options.inputs or len(source) > _MAX_SOURCE_BYTES:
            return await plan(source, options, resolver=self._resolver, client=client, watch=watch,
                              exclude=exclude), Names()
        key = source, _encode([options, exclude])
        asked = _Asked(self._resolver, client)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            await asyncio.gather(*(
                asked.resolve(*image, pull=False, client=client, watch=watch) for image in kept.images),
                return_exceptions=True)  # what has gone is told below, with the line that names it
            if asked.images == kept.images:
                return kept.plan, kept.names
        noticing = _Noticing(client)
        made = await plan(source, options, resolver=asked, client=cast("BuildClient", noticing), watch=watch,
                          exclude=exclude)
        names = Names()
        if not noticing.asked and all(image.local for image in asked.images.values()):
            self._kept[key] = _Kept(made, names, asked.images)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made, names


class _Asked:
    """The resolver of one build: asks for an image once, and knows what it was told."""

    def __init__(self, resolver: ImageResolver, client: BuildClient) -> None:
        self._resolver = resolver
        self._client = client
        self.images: dict[tuple[str, Platform], ResolvedImage] = {}

    async def resolve(self, reference: str, platform: Platform, *, pull: bool, client: BuildClient,
                      watch: Watch) -> ResolvedImage:
        """See ``ports.ImageResolver``."""
        del client
        found = self.images.get((reference, platform))
        if found is None:
            found = self.images[reference, platform] = await self._resolver.resolve(
                reference, platform, pull=pull, client=self._client, watch=watch)
        return found


class _Noticing:
    """A client that notices whether it is asked anything."""

    def __init__(self, client: BuildClient) -> None:
        self._client = client
        self.asked = False

    def __getattr__(self, name: str) -> object:
        self.asked = True
        return getattr(self._client, name)
