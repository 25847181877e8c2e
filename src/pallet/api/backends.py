"""What the Engine API asks of the engine: one Protocol an object, wired in ``daemon/app.py``.

Owns   the Protocols and the ``Backends`` bundle; options: ``spec/engine/options.py``.
Runs   every method on the daemon's event loop; blocking work is the implementation's to move away.
Needs  implementations that raise the kinds of ``pallet.errors`` with Docker's words.

Rules for implementations:

* ``name_or_id`` is what the user typed: full id, name with or without "/", or a unique id prefix.
* Documents are shaped for the newest API version; the API makes the older shapes.
* When a client goes away its handler is cancelled. State transitions shield themselves
  (``aio.shielded``); iterators and handles are closed by the API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pallet.spec.engine.options import (
    AttachOptions,
    CommitOptions,
    CreateOptions,
    EventsOptions,
    ExecStartOptions,
    ImageListOptions,
    ListOptions,
    LogsOptions,
    LogStream,
    OpenStream,
    PullOptions,
    PushOptions,
    Stream,
    WaitCondition,
    WaitHandle,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from pallet.api.buildbackend import BuildBackend
    from pallet.api.buildkitbackend import BuildKitDoor
    from pallet.api.diskbackend import DiskBackend, PruneBackend
    from pallet.api.treebackend import ArchiveBackend, TreeBackend
    from pallet.spec.engine.auth import AuthConfig, AuthResponse
    from pallet.spec.engine.container import (
        ContainerCreateResponse,
        ContainerInspect,
        ContainerSummary,
    )
    from pallet.spec.engine.distribution import DistributionInspect
    from pallet.spec.engine.event import EventMessage
    from pallet.spec.engine.exec import ExecConfig, ExecInspect
    from pallet.spec.engine.filters import Filters
    from pallet.spec.engine.image import (
        ImageDeleteItem,
        ImageHistoryItem,
        ImageInspect,
        ImageSummary,
    )
    from pallet.spec.engine.network import (
        NetworkCreateRequest,
        NetworkCreateResponse,
        NetworkInspect,
        NetworkSummary,
    )
    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.engine.search import SearchResult
    from pallet.spec.engine.system import DiskUsage, SystemInfo, SystemVersion
    from pallet.spec.engine.volume import (
        Volume,
        VolumeCreateRequest,
        VolumeList,
        VolumePruneResponse,
    )

__all__ = [  # option types are re-exported for the routes
    "AttachOptions",
    "Backends",
    "CommitOptions",
    "ContainerBackend",
    "CreateOptions",
    "EventsOptions",
    "ExecBackend",
    "ExecStartOptions",
    "ImageArchiveBackend",
    "ImageBackend",
    "ImageImportBackend",
    "ImageListOptions",
    "ListOptions",
    "LogStream",
    "LogsOptions",
    "NetworkBackend",
    "OpenStream",
    "PullOptions",
    "PushOptions",
    "RegistryBackend",
    "Stream",
    "SystemBackend",
    "VolumeBackend",
    "WaitCondition",
    "WaitHandle",
]


class ContainerBackend(Protocol):
    """Containers (Engine API, tag Container)."""

    async def create(self, options: CreateOptions) -> ContainerCreateResponse:
        """Make a container.

        Raises:
            NotFoundError: "No such image: x:latest" (the CLI pulls then).
            ConflictError: the name is taken.
            InvalidParameterError: contradictory or impossible settings.
        """
        ...

    async def list(self, options: ListOptions) -> Sequence[ContainerSummary]:
        """List containers, newest first."""
        ...

    async def inspect(self, name_or_id: str, *, size: bool) -> ContainerInspect:
        """Describe one container; ``size`` also fills ``size_rw`` and ``size_root_fs``."""
        ...

    async def start(self, name_or_id: str) -> None:
        """Start it.

        Raises:
            NotModifiedError: it runs already.
            ConflictError: paused, dead or being removed.
            InvalidParameterError: its command cannot be run (exit codes 126, 127).
        """
        ...

    async def stop(self, name_or_id: str, *, signal: str | None, timeout_s: int | None) -> None:
        """Signal, wait ``timeout_s`` (None: the container's; -1: for ever), then SIGKILL.

        Raises:
            NotModifiedError: it does not run.
        """
        ...

    async def restart(self, name_or_id: str, *, signal: str | None, timeout_s: int | None) -> None:
        """Stop it if it runs, then start it."""
        ...

    async def kill(self, name_or_id: str, *, signal: str) -> None:
        """Send ``signal`` (name or number, "" is SIGKILL).

        Raises:
            ConflictError: it does not run.
            InvalidParameterError: no such signal.
        """
        ...

    async def rename(self, name_or_id: str, *, new_name: str) -> None:
        """Give it another name."""
        ...

    async def remove(self, name_or_id: str, *, force: bool, volumes: bool, link: bool) -> None:
        """Remove it; ``volumes`` also its anonymous volumes; ``link`` only the legacy link."""
        ...

    async def subscribe_wait(self, name_or_id: str, *, condition: WaitCondition) -> WaitHandle:
        """Register a wait; the API flushes the reply's head after this returns."""
        ...

    async def attach(
        self, name_or_id: str, options: AttachOptions, open_stream: OpenStream
    ) -> None:
        """Check that the container can be attached to, open the stream and hand it over.

        Returns once the stream is somebody else's (the shim's); not at its end.

        Raises:
            ConflictError: paused or restarting.
        """
        ...

    async def logs(self, name_or_id: str, options: LogsOptions) -> LogStream:
        """Open the container's log.

        Raises:
            NotImplementedApiError: its log driver cannot be read.
        """
        ...

    async def resize(self, name_or_id: str, *, height: int, width: int) -> None:
        """Set its terminal's size.

        Raises:
            ConflictError: it does not run.
        """
        ...


class ExecBackend(Protocol):
    """Exec instances (Engine API, tag Exec)."""

    async def create(self, name_or_id: str, config: ExecConfig) -> str:
        """Make an exec in a running container and return its id.

        Raises:
            ConflictError: the container does not run or is paused.
        """
        ...

    async def start(
        self, exec_id: str, options: ExecStartOptions, open_stream: OpenStream | None
    ) -> None:
        """Start it; ``open_stream`` None is detached (returns once the process runs).

        Attached: check, open the stream, start, hand the stream over. What fails after the
        stream is open is written into it as text.

        Raises:
            NotFoundError: "No such exec instance: x".
            ConflictError: it ran already, or its container does not run.
        """
        ...

    async def inspect(self, exec_id: str) -> ExecInspect:
        """Describe it."""
        ...

    async def resize(self, exec_id: str, *, height: int, width: int) -> None:
        """Set its terminal's size."""
        ...


class ImageBackend(Protocol):
    """Images (Engine API, tag Image). ``name`` is a reference or an id."""

    async def pull(
        self, options: PullOptions, progress: Callable[[ProgressMessage], None]
    ) -> None:
        """Pull; ``progress`` may be called from the event loop only, and never blocks.

        An error before the first message becomes an HTTP error, a later one travels in the
        stream. Cancelled when the client goes away.
        """
        ...

    async def push(
        self, options: PushOptions, progress: Callable[[ProgressMessage], None]
    ) -> None:
        """Push; ``progress`` as in ``pull``."""
        ...

    async def list(self, options: ImageListOptions) -> Sequence[ImageSummary]:
        """List images, newest first."""
        ...

    async def inspect(
        self, name: str, *, platform: str, manifests: bool = False
    ) -> ImageInspect:
        """Describe one image; ``manifests`` with those of its index.

        Raises:
            NotFoundError: "No such image: x:latest".
        """
        ...

    async def history(self, name: str, *, platform: str) -> Sequence[ImageHistoryItem]:
        """List the image's steps, newest first."""
        ...

    async def tag(self, name: str, *, repository: str, tag: str) -> None:
        """Give it a further reference; ``tag`` "" is latest."""
        ...

    async def remove(
        self, name: str, *, force: bool, prune_parents: bool, only: Sequence[str] = ()
    ) -> Sequence[ImageDeleteItem]:
        """Untag, and delete what nothing refers to any more; ``only`` these platforms of it."""
        ...


class ImageArchiveBackend(Protocol):
    """Images as archives: load and save."""

    async def load(
        self,
        source: AsyncIterator[bytes],
        *,
        quiet: bool,
        platforms: Sequence[str],
        progress: Callable[[ProgressMessage], None],
    ) -> None:
        """Load a ``docker save`` or OCI layout archive; ``platforms`` empty loads all.

        Raises:
            InvalidParameterError: no archive of images.
            DataLossError: it is damaged.
            NotFoundError: nothing for ``platforms``.
        """
        ...

    async def save(self, names: Sequence[str], *, platforms: Sequence[str]) -> Stream[bytes]:
        """Open an archive of the images; ``platforms`` empty saves all that are here.

        Raises:
            NotFoundError: no such image, or not for a platform; before the first byte.
        """
        ...


class ImageImportBackend(Protocol):
    """Images made of a root file system's tar."""

    async def import_tree(
        self,
        source: AsyncIterator[bytes],
        *,
        repository: str,
        tag: str,
        message: str,
        changes: Sequence[str],
        platform: str,
        progress: Callable[[ProgressMessage], None],
    ) -> None:
        """Make a one-layer image of a tar of a root file system."""
        ...


class RegistryBackend(Protocol):
    """Questions to registries that move no image."""

    async def login(self, auth: AuthConfig) -> AuthResponse:
        """Check credentials.

        Raises:
            UnauthorizedError: they are refused.
        """
        ...

    async def remote(
        self, name: str, auth: AuthConfig | None, headers: Mapping[str, str]
    ) -> DistributionInspect:
        """Say what the registry has under ``name``.

        Raises:
            NotFoundError: nothing.
            UnauthorizedError: or it does not tell.
        """
        ...

    async def search(
        self, term: str, *, limit: int, filters: Filters, auth: AuthConfig | None,
        headers: Mapping[str, str],
    ) -> Sequence[SearchResult]:
        """Ask an index for repositories; ``limit`` 0 is 25.

        Raises:
            InvalidParameterError: a filter or the limit.
            SystemFailureError: the index cannot be reached.
        """
        ...


class NetworkBackend(Protocol):
    """Networks (Engine API, tag Network)."""

    async def list(self, filters: Filters) -> Sequence[NetworkSummary]:
        """List networks. Filter keys: dangling, driver, id, label, name, scope, type."""
        ...

    async def inspect(self, name_or_id: str, *, verbose: bool, scope: str) -> NetworkInspect:
        """Describe one network with its containers.

        Raises:
            NotFoundError: "network x not found".
        """
        ...

    async def create(self, request: NetworkCreateRequest) -> NetworkCreateResponse:
        """Make a network.

        Raises:
            ForbiddenError: the name is a built-in network's.
            NotImplementedApiError: user-defined networks are not there yet.
        """
        ...

    async def remove(self, name_or_id: str) -> None:
        """Remove a network.

        Raises:
            NotFoundError: "network x not found".
            ForbiddenError: it is a built-in one.
        """
        ...

    async def prune(self, filters: Filters) -> Sequence[str]:
        """Remove unused networks but the built-in ones; return their names."""
        ...


class VolumeBackend(Protocol):
    """Volumes (Engine API, tag Volume)."""

    async def list(self, filters: Filters) -> VolumeList:
        """List volumes. Filter keys: dangling, driver, label, name."""
        ...

    async def create(self, request: VolumeCreateRequest) -> Volume:
        """Make a volume, or return the one of that name.

        Raises:
            ConflictError: it exists with another driver or other options.
            InvalidParameterError: bad name.
        """
        ...

    async def inspect(self, name: str) -> Volume:
        """Describe one volume; NotFoundError "get x: no such volume"."""
        ...

    async def remove(self, name: str, *, force: bool) -> None:
        """Remove it; with ``force`` a missing one is no error.

        Raises:
            ConflictError: a container uses it.
        """
        ...

    async def prune(self, filters: Filters, *, all_unused: bool) -> VolumePruneResponse:
        """Remove unused anonymous volumes, with ``all_unused`` the named ones too."""
        ...


class SystemBackend(Protocol):
    """The daemon itself (Engine API, tag System)."""

    async def info(self) -> SystemInfo:
        """Describe the daemon and its host."""
        ...

    async def version(self) -> SystemVersion:
        """Name the versions of the daemon and its parts."""
        ...

    async def events(self, options: EventsOptions) -> Stream[EventMessage]:
        """Subscribe; history from ``since_ns`` first. Registered when this returns."""
        ...

    async def disk_usage(self, kinds: frozenset[str]) -> DiskUsage:
        """Measure. ``kinds`` of container, image, volume, build-cache; empty is all."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """Everything the API can reach. None: those calls answer 501."""

    containers: ContainerBackend
    execs: ExecBackend
    images: ImageBackend
    networks: NetworkBackend
    system: SystemBackend
    volumes: VolumeBackend | None = None
    archives: ImageArchiveBackend | None = None
    imports: ImageImportBackend | None = None
    registries: RegistryBackend | None = None
    prunes: PruneBackend | None = None
    disk: DiskBackend | None = None
    trees: TreeBackend | None = None
    container_archives: ArchiveBackend | None = None
    build: BuildBackend | None = None
    buildkit: BuildKitDoor | None = None
