"""The build graph: what a front end makes and the solver solves.

Owns   the operations and the vertices; nothing here does anything.
Runs   anywhere.

A ``Vertex`` is one operation on the outputs of others; its output is a file system: a chain of
layers. The graph is acyclic because a vertex is made after its inputs. Operations name inputs by
their index in ``Vertex.inputs``; the cache looks at operations and at the contents of inputs, never
at names, spans or stages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.spec.image import ImageConfigFile
    from pallet.spec.platform import Platform
    from pallet.types import Digest

# --- sources: no inputs --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """The layers of an image."""

    reference: str
    """Familiar name with tag, as progress shows it; ``""`` for an image known by its id alone."""
    digest: Digest
    """Of the platform's manifest, or the image id (config digest) for a local image without one."""
    platform: Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSource:
    """A tree that the client sends: the build context, or a named context."""

    name: str
    """``context``, or the name of ``--build-context NAME=PATH``."""
    include: tuple[str, ...] = ()
    """Only what matches one of these; empty is everything."""
    exclude: tuple[str, ...] = ()
    """Patterns of ``.dockerignore``, in order, with their ``!``."""
    follow: tuple[str, ...] = ()
    """Only these paths (wildcards) and what their symlinks lead to need travel; empty is everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSource:
    """One downloaded file."""

    url: str
    filename: str
    checksum: str = ""
    """``algorithm:hex``; "" unchecked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSource:
    """A checkout."""

    remote: str
    ref: str = ""
    subdirectory: str = ""
    checksum: str = ""
    """Commit, or the beginning of one, that ``ref`` has to be."""
    keep_git_dir: bool = False
    submodules: bool = True
    mtime: Literal["checkout", "commit"] = "checkout"
    fetch_by_commit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OciLayoutSource:
    """An image from an OCI layout that the client serves (``--build-context n=oci-layout://…``)."""

    store: str
    reference: str
    digest: Digest
    platform: Platform


# --- operations ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMount:
    """One ``RUN --mount``."""

    kind: Literal["bind", "cache", "tmpfs", "secret", "ssh"]
    target: str
    input: int | None = None
    """Where a bind comes from and what a cache starts with; None for nothing."""
    source: str = "/"
    """Path in the input."""
    readonly: bool = True
    id: str = ""
    """Of a cache (behind ``BUILDKIT_CACHE_MOUNT_NS`` and a slash, where that is given), secret or agent."""
    sharing: Literal["shared", "private", "locked"] = "shared"
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0
    """Of a tmpfs; 0 unlimited."""
    required: bool = False
    env: str = ""
    """Variable that gets a secret; with ``target`` "" there is no file."""
    kept: bool = False
    """Of a writable bind: what the command made of it is an output (``RunOp.output``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOp:
    """A command. Input 0 is its root file system and its output what the command made of that."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    """``NAME=value``: the image's environment and the ARGs in scope."""
    unkeyed_env: tuple[str, ...] = ()
    """Set for the command but no part of its cache key: proxies."""
    cwd: str = "/"
    user: str = ""
    network: Literal["default", "none", "host"] = "default"
    security: Literal["sandbox", "insecure"] = "sandbox"
    hostname: str = ""
    mounts: tuple[RunMount, ...] = ()
    devices: tuple[str, ...] = ()
    heredocs: tuple[tuple[str, str], ...] = ()
    """Files (name, text) that the command's here-documents become, under ``/dev/pipes/``."""
    surroundings: tuple[str, ...] = ()
    """What the request sets for all commands and any can see (hosts, limits): only for the cache key."""
    readonly_root: bool = False
    valid_exit_codes: tuple[int, ...] = ()
    """Empty is 0 alone."""
    extra_hosts: tuple[tuple[str, str], ...] = ()
    """(name, address) of this command, after the request's."""
    ulimits: tuple[tuple[str, int, int], ...] = ()
    """(name, soft, hard) of this command, after the request's."""
    cgroup_parent: str = ""
    output: int | None = None
    """Which file system the vertex is: None for the root, else the number of a mount that is ``kept``. The command
    is the same one, and runs once for all of them."""


OR_ROOT = "?"
"""Behind a name of an owner: root where nobody has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyAction:
    """Copy out of an input (``COPY``, ``ADD``)."""

    input: int
    paths: tuple[str, ...]
    """In the input; with wildcards where ``wildcards``."""
    dest: str
    """Absolute and clean; it ends in ``/`` where the sources go into it."""
    owner: str = ""
    """``user[:group]`` by name or number, looked up in input 0; "" is 0:0 (the source's own where ``keep_owner``).
    A name with ``OR_ROOT`` behind it is root where nobody has it."""
    keep_owner: bool = False
    mode: str = ""
    """Octal or symbolic; "" keeps the source's."""
    exclude: tuple[str, ...] = ()
    parents: bool = False
    unpack: bool = False
    """Archives are unpacked (``ADD``)."""
    wildcards: bool = True
    include: tuple[str, ...] = ()
    """Patterns of what is copied of a directory; empty is everything."""
    itself: bool = False
    """A directory is copied itself, not what is in it."""
    follow: bool = True
    """A link is what it leads to."""
    matches: bool = False
    """Wildcards have to match something."""
    lenient: bool = False
    """Wildcards may be looked for in a directory that is not there."""
    makes_parents: bool = True
    replaces: bool = False
    """Directories at the destination make room for files, and files for directories."""
    time_ns: int | None = None
    """Of everything that is copied; None keeps the source's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteAction:
    """Make a file of text (``COPY <<EOF``)."""

    path: str
    data: bytes
    mode: str = ""
    owner: str = ""
    makes_parents: bool = True
    """Without them the file may be there, and keeps its mode."""
    time_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDirectoryAction:
    """Make a directory with its parents (``WORKDIR``). An existing one stays as it is."""

    path: str
    owner: str = ""
    mode: int = 0o755
    makes_parents: bool = True
    time_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveAction:
    """Remove a file or a whole directory."""

    path: str
    may_be_absent: bool = False
    wildcards: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkAction:
    """Make a symbolic link."""

    path: str
    target: str
    """As the link has it."""
    owner: str = ""
    time_ns: int | None = None


Action = CopyAction | WriteAction | MakeDirectoryAction | RemoveAction | LinkAction


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOp:
    """Changes of files without running anything. Input 0 is the base where ``has_base``.

    Without a base the output is the new files alone (``--link``): a layer that any base can carry.
    """

    actions: tuple[Action, ...]
    has_base: bool = True


@dataclass(frozen=True, slots=True)
class MergeOp:
    """The layers of all inputs on top of one another, input 0 lowest: costs nothing."""


@dataclass(frozen=True, slots=True)
class DiffOp:
    """What input 1 has that input 0 has not, as layers that others can carry."""


@dataclass(frozen=True, slots=True)
class ScratchOp:
    """No files at all."""


Op = (ImageSource | LocalSource | HttpSource | GitSource | OciLayoutSource | RunOp | FileOp | MergeOp | DiffOp
      | ScratchOp)

# --- the graph -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where a thing stands in a Dockerfile: lines from 1, both ends included."""

    filename: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vertex:
    """One operation on the outputs of others. Compared by identity."""

    op: Op
    inputs: tuple[Vertex, ...] = ()
    name: str
    """As BuildKit's progress has it: ``[build 2/5] RUN make``, ``[internal] load build context``."""
    span: Span | None = None
    ignore_cache: bool = False
    platform: Platform | None = None
    """That commands run on; None where nothing runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryStep:
    """One instruction in the image's history, in order."""

    created_by: str
    """``RUN /bin/sh -c make # buildkit``; the classic endpoint drops the last word."""
    comment: str = ""
    vertex: Vertex | None = None
    """What made its layer; None for an empty layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A stage that is to become an output."""

    platform: Platform
    vertex: Vertex
    config: ImageConfigFile
    """Whole but for rootfs, history and created. The base's history is in ``base_config``."""
    steps: tuple[HistoryStep, ...]
    """After the base's history."""
    base_config: ImageConfigFile | None = None
    """The config of the image at the bottom; None for scratch."""
    made: tuple[HistoryStep, ...] = ()
    """Where others made the config (it is ``base_config``, ``steps`` is empty): what made the topmost layers."""
    scanned: tuple[tuple[str, Vertex], ...] = ()
    """Names and vertices that a scanner of packages is shown besides ``vertex``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LintWarning:
    """What a rule found."""

    rule: str
    message: str
    """The rule's text with the names in it."""
    description: str
    url: str
    span: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEnd:
    """Who made a plan instead of the built-in front end."""

    name: str = ""
    """``gateway.v0``; "" for a client's own graph."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """What it was told."""
    image: ImageSource | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a Dockerfile came to."""

    targets: tuple[Target, ...]
    warnings: tuple[LintWarning, ...] = ()
    sources: dict[str, bytes] = field(default_factory=dict)
    """Text of the files that spans name: for errors and warnings that show lines."""
    front_end: FrontEnd | None = None
    """None: the built-in one."""
    answers: dict[str, bytes] = field(default_factory=dict)
    """What a front end that is an image said of it: to subrequests, instead of targets."""
