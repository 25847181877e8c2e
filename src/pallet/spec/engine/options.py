"""Options, streams and handles that the API and the engine exchange.

Owns   the option dataclasses of every call and the Protocols of what a call gives back. They stand
       below both sides, so that the engine need not import the API.
Runs   anywhere.
Spec   Engine API: one dataclass a call, one field a query parameter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from pallet.spec.engine.filters import NO_FILTERS, Filters

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Mapping

    from pallet.spec.engine.auth import AuthConfig
    from pallet.spec.engine.config import ContainerConfig
    from pallet.spec.engine.container import ContainerWaitResponse
    from pallet.spec.engine.host_config import HostConfig
    from pallet.spec.engine.network import NetworkingConfig

T_co = TypeVar("T_co", covariant=True)

WaitCondition = Literal["not-running", "next-exit", "removed"]


class Stream(Protocol[T_co]):
    """An asynchronous iterator that the API closes, started or not, when the client is done."""

    def __aiter__(self) -> AsyncIterator[T_co]:
        """Return itself."""
        ...

    async def __anext__(self) -> T_co:
        """Return the next item; raise StopAsyncIteration at the end."""
        ...

    async def aclose(self) -> None:
        """End the subscription; idempotent."""
        ...


class OpenStream(Protocol):
    """Answers 101 (or 200 to clients that did not ask for an upgrade) and gives up the connection.

    Call it once, after every check that may answer with an HTTP error. The socket is non-blocking,
    belongs to the caller from then on, may be sent to another process, and carries what the
    client sent and sends: end of file is the client's half-close (end of stdin). Shut down the
    write side when output ends, then close.
    """

    async def __call__(self, *, multiplexed: bool) -> socket.socket:
        """Open the stream.

        Args:
            multiplexed: True when output goes out in 8-byte-header frames (no tty), False for raw.

        Raises:
            CancelledRequestError: the client went away first.
        """
        ...


class WaitHandle(Protocol):
    """A wait that is already registered: an exit from now on is not missed."""

    async def result(self) -> ContainerWaitResponse:
        """Wait for the condition and return the exit code."""
        ...

    def close(self) -> None:
        """Forget the wait; idempotent, also after ``result``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """Container list: without ``all`` only running ones; ``limit`` > 0 gives the latest n of all.

    Filter keys were checked by the API: ancestor, before, exited, expose, health, id, is-task,
    isolation, label, name, network, publish, since, status, volume.
    """

    all: bool = False
    limit: int = 0
    size: bool = False
    filters: Filters = NO_FILTERS


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachOptions:
    """Which streams to attach. ``logs`` replays the history first; ``stream`` goes on live.

    ``detach_keys`` "" is the default ctrl-p,ctrl-q.
    """

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    stream: bool = False
    logs: bool = False
    detach_keys: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsOptions:
    """What to read of a container's log.

    ``since_ns`` and ``until_ns`` are nanoseconds since 1970, 0 is open. ``tail`` None is all.
    ``details`` puts the log's extra attributes before each line.
    """

    stdout: bool
    stderr: bool
    follow: bool = False
    since_ns: int = 0
    until_ns: int = 0
    timestamps: bool = False
    tail: int | None = None
    details: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStream:
    """A log being read: stdcopy frames, or raw bytes when the container has a tty."""

    tty: bool
    chunks: Stream[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOptions:
    """Everything of a container create. ``platform`` "" is the host's, else ``os/arch[/variant]``.

    ``name`` "" asks for a generated one.
    """

    name: str
    config: ContainerConfig
    host_config: HostConfig
    networking: NetworkingConfig
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecStartOptions:
    """How to start an exec. ``console_size`` is height, width or None."""

    tty: bool
    console_size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PullOptions:
    """``reference`` as typed; ``tag`` "" with a reference without tag or digest pulls every tag.

    ``tag`` may be a digest. ``meta_headers`` (``X-Meta-*``) go to the registry as they are.
    """

    reference: str
    tag: str = ""
    platform: str = ""
    auth: AuthConfig | None = None
    meta_headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """``tag`` "" pushes every tag of the repository."""

    reference: str
    tag: str = ""
    platform: str = ""
    auth: AuthConfig | None = None
    meta_headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitOptions:
    """``config`` None is the container's; ``repository`` "" leaves the image without a name.

    ``epoch_s`` is SOURCE_DATE_EPOCH: the image then depends on the container's content alone.
    """

    container: str
    repository: str = ""
    tag: str = ""
    author: str = ""
    comment: str = ""
    pause: bool = True
    changes: tuple[str, ...] = ()
    config: ContainerConfig | None = None
    epoch_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageListOptions:
    """``all`` includes intermediate images.

    Filter keys: before, dangling, label, reference, since, until.
    """

    all: bool = False
    shared_size: bool = False
    manifests: bool = False
    filters: Filters = NO_FILTERS


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsOptions:
    """``since_ns`` and ``until_ns``: nanoseconds since 1970; None is "from now" and "for ever".

    Filter keys: config, container, daemon, event, image, label, network, node, plugin, scope,
    secret, service, type, volume.
    """

    since_ns: int | None = None
    until_ns: int | None = None
    filters: Filters = NO_FILTERS
