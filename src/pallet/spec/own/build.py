"""What ``pallet build`` asks for and what it is told.

Spec   Pallet's own: ``POST /pallet/build``; frames: ``buildwire.py``.
"""

from __future__ import annotations

from msgspec import Struct


class ExportCall(Struct, frozen=True, kw_only=True):
    """One ``--output``; attributes are BuildKit's."""

    kind: str
    attributes: dict[str, str] = {}


class CacheCall(Struct, frozen=True, kw_only=True):
    """One ``--cache-from`` or ``--cache-to``."""

    kind: str
    attributes: dict[str, str] = {}


class BuildCall(Struct, frozen=True, kw_only=True):
    """The body of ``POST /pallet/build``."""

    ref: str = ""
    filename: str = "Dockerfile"
    """Relative to the source ``dockerfile``."""
    dockerfile: str | None = None
    """Base64 of the Dockerfile, where the client read it."""
    ignore: str | None = None
    """Base64 of the ignore file that counts."""
    sources: dict[str, str] = {}
    """Names of local sources to their shared keys."""
    remote: str = ""
    """URL that is the context, or ``-`` for what the client pipes in."""
    target: str = ""
    platforms: list[str] = []
    build_args: dict[str, str] = {}
    labels: dict[str, str] = {}
    no_cache: bool = False
    no_cache_stages: list[str] = []
    pull: bool = False
    network: str = "default"
    contexts: dict[str, str] = {}
    """Values are BuildKit's; ``input:NAME`` is the result of one of ``inputs``."""
    inputs: dict[str, BuildCall] = {}
    """Other builds whose results are contexts of this one. Their local sources are asked for as ``input:NAME/…``."""
    entitlements: list[str] = []
    cgroup_parent: str = ""
    resources: dict[str, int] = {}
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    shm_size: int = 0
    ulimits: list[tuple[str, int, int]] = []
    extra_hosts: list[tuple[str, str]] = []
    exports: list[ExportCall] = []
    cache_from: list[CacheCall] = []
    cache_to: list[CacheCall] = []
    attestations: dict[str, str] = {}
    squash: bool = False
    files: list[str] = []
    """Read these of ``remote`` instead of building it; ``CallResult.texts`` has those that are there."""
    call: str = ""
    """``check``, ``outline``, ``targets``: say, do not build."""
    debug: bool = False
    quiet: bool = False
    """Nobody looks at events: none are sent."""


class Question(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the daemon wants to know of the client."""

    id: int
    ask: str
    """``tree``, ``file``, ``secret``, ``credentials``, ``agent``, ``upload``, ``output``."""
    name: str = ""
    path: str = ""
    include: list[str] = []
    exclude: list[str] = []
    follow: list[str] = []
    attributes: dict[str, str] = {}


class Answer(Struct, frozen=True, kw_only=True):
    """What the client says."""

    id: int
    data: str | None = None
    """Base64; None where there is nothing."""
    user: str | None = None
    secret: str = ""
    stream: int = 0
    error: str = ""


class CallResult(Struct, frozen=True, kw_only=True):
    """How a build ended well."""

    image_id: str = ""
    digest: str = ""
    response: dict[str, str] = {}
    texts: dict[str, str] = {}
    """Of a ``call``: ``result.json``, ``result.txt``. Of ``files``: by their names, or what the URL itself is by ""."""


class CallError(Struct, frozen=True, kw_only=True):
    """How a build failed."""

    message: str
    snippet: str = ""
    vertex: str = ""
    name: str = ""
    state: str = ""
    """Names what is kept for a debug shell."""
