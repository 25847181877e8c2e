"""What the builder needs of others, as Protocols: who implements them is in ``docs/dev/build.md``.

Owns   Protocols and the plain data they speak in.
Runs   in the daemon, on the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pallet.build.entries import Entry
    from pallet.build.graph import LocalSource, Plan, Vertex
    from pallet.build.progress import Watch
    from pallet.build.request import BuildRequest, Export
    from pallet.spec.image import ImageConfigFile
    from pallet.spec.platform import Platform
    from pallet.types import Digest


# --- options: what a client may say about a build ------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendOptions:
    """What changes the meaning of a Dockerfile (BuildKit's FrontendAttrs, the classic query)."""

    filename: str = "Dockerfile"
    target: str = ""
    platforms: tuple[Platform, ...] = ()
    """Empty is the host's."""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    no_cache_stages: tuple[str, ...] = ()
    """``--no-cache-filter``."""
    pull: bool = False
    """Ask the registry for images that are here, too."""
    network: str = "default"
    """Of RUN instructions that do not say: ``default``, ``none``, ``host``, or ``container:ID``/a network's name."""
    hostname: str = ""
    contexts: Mapping[str, str] = field(default_factory=dict)
    """Named contexts: name to ``docker-image://``, ``local:NAME``, git or http URL, ``oci-layout://``, ``target:``."""
    context_subdirectory: str = ""
    remote_context: str = ""
    """URL (http, git) that is the context; "" for the local source ``context``."""
    multi_platform: bool = False
    """An index even for one platform."""
    entitlements: frozenset[str] = frozenset()
    """Of ``security.insecure``, ``network.host``, ``device``, ``device=NAME``, ``device=NAME,alias=OTHER``."""
    cgroup_parent: str = ""
    resources: Mapping[str, int] = field(default_factory=dict)
    """``memory``, ``memswap``, ``cpushares``, ``cpuperiod``, ``cpuquota``."""
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    shm_size_bytes: int = 0
    ulimits: tuple[tuple[str, int, int], ...] = ()
    """(name, soft, hard)."""
    extra_hosts: tuple[tuple[str, str], ...] = ()
    """(name, address or ``host-gateway``)."""
    git_auth: bool = True
    ignore_syntax: bool = False
    """``# syntax=`` is a comment, as for the classic builder."""
    cmdline: str = ""
    """The front end that the file was given to already: its ``# syntax=`` has been followed."""
    inputs: Mapping[str, Plan] = field(default_factory=dict)
    """What ``input:NAME`` among the contexts means: another build's plan (``build/inputs.py``)."""


# --- the client of one build ---------------------------------------------------------------------


class DirectoryDigests(Protocol):
    """Finds digests of a tree's directories without a look at them."""

    def __call__(self, path: str) -> bytes | None:
        """Digest of the directory ``path`` ("" is the root); None if that has to be read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextTree:
    """A client's tree, stored here as it was sent. Held until ``release``; read only."""

    root: str
    """Directory with the tree (absolute)."""
    digest_of: Mapping[str, str] = field(default_factory=dict)
    """Content digest by slash path without leading slash, for files whose digest is known already
    (unchanged since they were last hashed); others are hashed by who needs it."""
    linker: str = ""
    """File that names the one operation whose layers may hold links of the tree's files (``ops/linker.py``);
    "": none may."""
    listed: DirectoryDigests | None = None
    """Digests of directories by slash path (``ops/selection.py``); None where the files have to be looked at."""
    names: frozenset[str] | None = None
    """Paths that belong to this build; None is all that lies in ``root`` (a shared copy may hold more)."""


class BuildClient(Protocol):
    """The client's end of one build: files, credentials, secrets.

    One for a gRPC session, one for the classic endpoint's tar, one for ``pallet build``.
    """

    @property
    def shared_key(self) -> str:
        """Stable key of the client's context directory; "" for none."""
        ...

    async def tree(self, source: LocalSource, watch: Watch, vertex: Digest) -> ContextTree:
        """Bring (what changed of) a local tree here.

        Raises:
            NotFoundError: the client has no such source.
        """
        ...

    async def read_file(self, source: str, path: str, limit_bytes: int) -> bytes | None:
        """Read one small file of a local source (a Dockerfile, .dockerignore); None if it is absent."""
        ...

    async def release(self, tree: ContextTree) -> None:
        """Let go of a tree."""
        ...

    async def secret(self, secret_id: str) -> bytes | None:
        """Fetch a secret; None for an unknown one."""
        ...

    async def ssh_agent(self, agent_id: str) -> AgentDialer | None:
        """Say how to reach the agent ``agent_id`` (``default`` when empty); None if there is none."""
        ...

    async def credentials(self, host: str) -> tuple[str, str] | None:
        """User and secret for a registry (tokens have users of their own: ``buildwire``); None for anonymous."""
        ...

    async def upload(self, url: str) -> AsyncIterator[bytes]:
        """Read what the client pipes in as its context: ``http://buildkit-session/ID`` (``docker build -``).

        Raises:
            NotFoundError: the client offers no such thing.
        """
        ...

    async def blob(self, store: str, digest: str) -> AsyncIterator[bytes]:
        """Read a blob of an OCI layout on the client's side (``--build-context n=oci-layout://…``, local caches).

        Raises:
            NotFoundError: the client has no such blob or store.
        """
        ...

    async def put_blob(self, store: str, digest: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> None:
        """Write a blob into an OCI layout on the client's side (local caches, outputs with ``tar=false``)."""
        ...

    async def open_output(self, export: Export, metadata: Mapping[str, str]) -> OutputWriter:
        """Begin the one file that an output becomes there (``tar``, ``oci``, ``docker``).

        Args:
            metadata: the exporter's response as far as it is known.

        Raises:
            NotFoundError: the client takes no such output.
        """
        ...

    async def send_tree(self, export: Export, root: str, metadata: Mapping[str, str]) -> None:
        """Make the tree under ``root`` the output's directory there (``local``); returns when all has arrived."""
        ...


class OutputWriter(Protocol):
    """One file on its way to the client."""

    async def write(self, data: bytes) -> None:
        """Send a piece; waits while the client is slower."""
        ...

    async def close(self) -> None:
        """Say that it is whole; returns when the client has it all."""
        ...

    async def abort(self) -> None:
        """Give it up. Idempotent, and nothing after ``close``."""
        ...


class AgentDialer(Protocol):
    """Opens connections to a client's ssh agent."""

    async def __call__(self) -> tuple[AsyncIterator[bytes], AgentWriter]:
        """Open one connection: what comes from the agent, and the way to it."""
        ...


class AgentWriter(Protocol):
    """The way to an agent."""

    async def write(self, data: bytes) -> None:
        """Send; b"" closes."""
        ...


# --- images --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedImage:
    """An image that a FROM or ``--from`` names, before its layers are here."""

    reference: str
    """Familiar, with tag or digest: ``docker.io/library/busybox:latest`` as BuildKit's progress has it."""
    digest: Digest
    """Of the platform's manifest (image id where a local image has no manifest of its own)."""
    config: ImageConfigFile
    local: bool
    """Its layers are all here."""


class ImageResolver(Protocol):
    """Finds images by name, here or in registries, for the front end; brings their layers for the solver."""

    async def resolve(self, reference: str, platform: Platform, *, pull: bool,
                      client: BuildClient, watch: Watch) -> ResolvedImage:
        """Find an image's config without its layers.

        Raises:
            NotFoundError, …: in BuildKit's words: ``docker.io/library/x:latest: not found``.
        """
        ...


# --- plans that others make ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEndProcess:
    """A front end that is an image, as a process."""

    image: ResolvedImage
    platform: Platform
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str = "/"
    network: str = "default"
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What it finds by absolute paths."""


class Planning(Protocol):
    """One build while its plan is made by somebody who asks for things on the way: ``build/planning.py``."""

    @property
    def request(self) -> BuildRequest:
        """What is to be built."""
        ...

    @property
    def client(self) -> BuildClient:
        """For whom."""
        ...

    @property
    def watch(self) -> Watch:
        """Who is told."""
        ...

    async def image(self, reference: str, platform: Platform, *, pull: bool = False) -> ResolvedImage:
        """Find an image's config; by its digest also one that no registry has."""
        ...

    async def layout(self, store: str, digest: str, platform: Platform) -> ResolvedImage:
        """Find that of an image in a client's OCI layout."""
        ...

    async def inputs(self) -> Mapping[str, Plan]:
        """Plan the builds that this one builds on, by their names."""
        ...

    async def dockerfile(self, request: BuildRequest) -> Plan:
        """Plan what a request asks of the built-in language, whatever its ``# syntax=`` says.

        Raises:
            DockerfileError: it cannot be understood.
        """
        ...

    async def answers(self, subrequest: str, request: BuildRequest) -> Mapping[str, bytes]:
        """Answer what is asked of a Dockerfile."""
        ...

    async def solve(self, vertices: Sequence[Vertex], sources: Mapping[str, bytes]) -> None:
        """Solve vertices.

        Args:
            sources: texts that their spans are of.

        Raises:
            BuildError: one failed.
        """
        ...

    async def read(self, vertex: Vertex, path: str, limit_bytes: int) -> bytes | None:
        """Solve a vertex and read a file of what it came to; None if it is absent."""
        ...

    async def entries(self, vertex: Vertex, path: str) -> Sequence[Entry] | None:
        """Solve a vertex and look what is at a path: itself by the name "", and what is in it; None if absent."""
        ...

    async def run(self, process: FrontEndProcess, peer: socket.socket) -> None:
        """Run a front end to its end, ``peer`` its standard input and output, closed here. Cancelling kills it.

        Raises:
            PalletError: it could not be started, or failed.
        """
        ...


class Planner(Protocol):
    """Makes the plan of a build instead of the built-in front end."""

    async def __call__(self, planning: Planning, /) -> Plan:
        """Make it."""
        ...


class FrontEnds(Protocol):
    """Front ends that are images: ``api/buildkit/frontends.py``, which has their protocol."""

    def planner(self, cmdline: str) -> Planner:
        """What plans with an image; ``cmdline`` begins with its name."""
        ...


# --- running commands ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMount:
    """One mount of a step, source given as a thing on this host."""

    target: str
    kind: Literal["bind", "overlay", "tmpfs", "file", "socket"]
    """``file`` is ``data`` in memory (secrets, here-documents), ``socket`` one that leads to ``dial``."""
    source: str = ""
    """Absolute path for ``bind``."""
    layers: tuple[str, ...] = ()
    """DiffIDs for a read-only (or scratch-writable) ``overlay`` of another stage, base first."""
    subpath: str = "/"
    """In the overlay."""
    readonly: bool = True
    size_bytes: int = 0
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    data: bytes = b""
    dial: AgentDialer | None = None
    snapshot: str = ""
    """Of an ``overlay``: key of an active snapshot to write to, which stays the caller's; "" for one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command to run on an active snapshot."""

    id: str
    """64 hex digits, unique; also the snapshot's key and the cgroup's name."""
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    network: str
    insecure: bool
    hostname: str
    mounts: tuple[StepMount, ...]
    devices: tuple[str, ...] = ()
    """CDI devices by their whole names."""
    options: FrontendOptions
    """For limits, hosts, shm and cgroup parent."""
    readonly_root: bool = False


class StepEnd(Protocol):
    """How a command ended."""

    @property
    def exit_code(self) -> int:
        """128 + n for a death by signal n."""
        ...

    @property
    def oom_killed(self) -> bool:
        """The kernel killed something of it for want of memory."""
        ...


class StepRunner(Protocol):
    """Runs commands: ``engine/buildsteps.py`` in the native runtime."""

    async def run(self, step: Step, output: StepOutput) -> StepEnd:
        """Run to the end. Cancelling kills it.

        The snapshot ``step.id`` exists and stays the caller's. Nothing else is left afterwards.

        Raises:
            PalletError: it could not be started (working directory, user, no such program: in BuildKit's words).
        """
        ...

    async def converse(self, step: Step, peer: socket.socket, output: StepOutput) -> StepEnd:
        """Run a command whose standard input and output are ``peer``, closed here; ``output`` gets its errors.

        Raises:
            PalletError: as ``run``.
        """
        ...

    async def shell(self, step: Step, client: socket.socket, *, tty: bool,
                    size: tuple[int, int] = (0, 0)) -> int:
        """Run it with a client's connection as its streams (a debug shell); return the exit code.

        ``client`` is closed here. Raw bytes with ``tty``, stdcopy frames without.
        """
        ...


class StepOutput(Protocol):
    """Takes a command's output, on the loop."""

    def __call__(self, stream: int, data: bytes, /) -> None:
        """Take a piece; stream 1 or 2."""
        ...


# --- results -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SolvedTarget:
    """A solved ``graph.Target``: what exporters work from."""

    platform: Platform
    layers: tuple[str, ...]
    """DiffIDs, base first."""
    config: bytes
    """The image's config, encoded, with rootfs and history."""
    base_manifest: Digest | None
    """Whose layer descriptors cover the first layers; None for scratch."""
    created_by: Sequence[str] = ()
