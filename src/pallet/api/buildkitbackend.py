"""What BuildKit's gRPC needs of the builder.

Owns   the ``BuildKitBackend`` Protocol. The plain data that it speaks in is the builder's own
       (``build/request.py``, ``ports.py``, ``progress.py``): modules without behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from pallet.build.context import Transfer
    from pallet.build.entries import Entry
    from pallet.build.ports import BuildClient, ContextTree, ResolvedImage
    from pallet.build.progress import Watch
    from pallet.build.request import BuildRequest, BuildResult
    from pallet.build.usage import CachePrune, CacheUsage
    from pallet.spec.platform import Platform
    from pallet.types import ImageId


class ContextTrees(Protocol):
    """Where clients' trees are kept: ``build/context.py``."""

    def transfer(self, key: str) -> AbstractAsyncContextManager[Transfer]:
        """Begin to bring a tree up to date."""
        ...

    async def release(self, held: ContextTree) -> None:
        """Let go of a tree."""
        ...


class BuildKitBackend(Protocol):
    """The builder as BuildKit's clients see it: ``build/service.py``."""

    @property
    def contexts(self) -> ContextTrees:
        """Where trees go that a session brings."""
        ...

    async def build(self, request: BuildRequest, client: BuildClient, watch: Watch) -> BuildResult:
        """Plan, solve and export one build. Cancelling stops it and what runs for it.

        Raises:
            BuildError: a step or the Dockerfile failed; with the source's lines.
            PalletError: anything else.
        """
        ...

    async def describe(self, subrequest: str, request: BuildRequest, client: BuildClient, watch: Watch
                       ) -> Mapping[str, bytes]:
        """Answer a front end's subrequest with its ``result.json``, ``result.txt``, ``version`` ….

        Args:
            subrequest: ``frontend.lint``, ``.outline``, ``.targets`` or ``.subrequests.describe``.

        Raises:
            NotImplementedApiError: an unknown one.
        """
        ...

    async def resolve_image(self, reference: str, platform: Platform, *, pull: bool, client: BuildClient,
                            watch: Watch) -> ResolvedImage:
        """Find an image's config."""
        ...

    async def read_file(self, request: BuildRequest, path: str, limit_bytes: int, client: BuildClient, watch: Watch, *,
                        source: bool) -> bytes | None:
        """Read a file of a build's result, or (``source``) of its remote context alone; None if it is absent."""
        ...

    async def entries(self, request: BuildRequest, path: str, client: BuildClient, watch: Watch, *,
                      source: bool) -> Sequence[Entry] | None:
        """What is at a path there: itself by the name "", and what is in it; None if it is absent."""
        ...

    def image_config(self, image_id: ImageId) -> bytes | None:
        """The config of an image that is here, as it is stored."""
        ...

    async def usage(self, filters: Sequence[str] = ()) -> Sequence[CacheUsage]:
        """What is kept now, of what matches one of ``filters`` (as in ``CachePrune``), the largest first."""
        ...

    async def prune_cache(self, prune: CachePrune) -> Sequence[CacheUsage]:
        """Remove what the request means; return it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """A device that steps can ask for."""

    name: str
    """``vendor.com/class=name``."""
    allowed: bool
    """Without the entitlement."""
    annotations: Mapping[str, str]


async def no_devices() -> Sequence[DeviceFacts]:
    """Where there are none."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildKitDoor:
    """The builder and what its clients hear of the worker."""

    backend: BuildKitBackend
    worker_id: str
    host_gateway: Callable[[], str]
    """Address that ``host-gateway`` stands for; "" for none."""
    native: Callable[[], Sequence[Platform]]
    """What the host's processor is."""
    platforms: Callable[[], Awaitable[Sequence[Platform]]]
    """All that steps can run on now, by emulators as well; the host's first."""
    version: str
    """The engine's."""
    gc_rules: Callable[[], Sequence[CachePrune]]
    """How the cache is collected."""
    devices: Callable[[], Awaitable[Sequence[DeviceFacts]]] = no_devices
    """What there is now."""
