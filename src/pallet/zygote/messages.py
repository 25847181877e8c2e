"""What palletd, the zygote and the shims say to one another.

Owns   the documents and their encoders; ``zygote/channel.py`` frames them on SOCK_SEQPACKET.
Runs   in the daemon, the zygote and its children.

| from | to | message | file descriptors |
|---|---|---|---|
| daemon | zygote | one ``Request`` | ``reply``, then those the request lists |
| daemon | zygote | ``Cancel`` | none |
| daemon | spare shim | ``StartContainer`` or ``StartExec`` | those the request lists |
| shim | daemon | ``Started`` or ``Failure`` | pidfd of the init process |
| daemon | shim | one ``Control`` | the client's socket, for ``Attach`` |
| shim | daemon | ``Attached``, ``AttachEnded``, ``Exited``, ``TornDown``, ``Idle`` | none |
| worker | daemon | ``WorkerDone`` (fds as the worker says) or ``Failure`` | |

A request's first descriptor is one end of a fresh SOCK_SEQPACKET pair: the child answers there, and
for a shim that pair stays the daemon's control connection. A later daemon connects to ``sock`` in
the shim's directory and hears ``Hello`` first.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pallet.spec.mounts import RootMount
from pallet.spec.runtime import Process, Spec


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True):
    """Base of all messages: tagged with the class's name."""


# --- parts of requests ---------------------------------------------------------------------------


class LogSink(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where and how a container's output is kept (Docker's ``json-file``)."""

    path: str
    """Absolute path of ``<id>-json.log``; rotated files lie beside it as ``.1``, ``.2`` …"""
    max_size_bytes: int = -1
    """Rotate once the file has reached this size; -1 never."""
    max_files: int = 1
    compress: bool = False
    attrs: str = ""
    """JSON object text of labels and environment put into each line; empty means none."""


class Attach(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A client's socket joins a container's streams. Its descriptor travels with the message."""

    stream_id: int
    """Chosen by the daemon, unique within one shim; ``AttachEnded`` names it."""
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    mux: bool = True
    """8-byte frame headers; False sends raw bytes (a terminal, or ``websocket`` relays)."""
    detach_keys: str = ""
    """Latin-1 text of the key bytes that end the stream; empty disables. Terminals only."""


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """A reserved published port; its bound socket travels with the start request."""

    proto: Literal["tcp", "udp", "sctp"]
    target_ip: str
    target_port: int


class ForeignRuntime(msgspec.Struct, frozen=True, kw_only=True):
    """An OCI runtime program to use instead of the native one."""

    path: str
    args: list[str] = []


class Stdio(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the main process of a shim reads and writes."""

    open_stdin: bool = False
    """Stdin is a pipe; otherwise /dev/null. A terminal always has one."""
    stdin_once: bool = False
    """The end of an attached client's stdin closes the process's."""
    log: LogSink | None = None
    attach: list[Attach] = []
    """Clients that are there from the first byte on, in the order of their descriptors."""


ALL_NAMESPACES = ("user", "mount", "pid", "network", "ipc", "uts", "cgroup")

# --- requests to the zygote ----------------------------------------------------------------------


class StartContainer(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Make a container's shim and run its process.

    Descriptors after ``reply``: the netns if ``has_netns``, one a listener, one an attach.
    """

    id: str
    spec: Spec
    root: RootMount | None = None
    """None: ``spec.root.path`` is a ready directory that is bind-mounted."""
    user: str = ""
    """``name|uid[:group|gid]``, looked up in the container's own files."""
    group_add: list[str] = []
    stdio: Stdio = Stdio()
    shim_dir: str
    """Existing directory on tmpfs for the shim's ``sock``, ``state.json``, ``exit``."""
    init: str | None = None
    """Run a tiny init as process 1: the path of a tini-like program, or "" for Pallet's own."""
    runtime: ForeignRuntime | None = None
    seccomp_path: str | None = None
    """Compiled filter (array of struct sock_filter); None leaves the process unconfined."""
    seccomp_flags: int = 0
    """Flags of seccomp(2) for the filter."""
    has_netns: bool = False
    """Join the netns whose descriptor is passed; the spec has a network entry without path."""
    listeners: list[Listener] = []
    cgroup_driver: str = "cgroupfs"
    cgroup_ahead: bool = False
    """The cgroup's parent is the daemon's: one may be made there for the container after this one."""
    start_timeout_s: float = 30.0


class StartExec(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Run one more process in a running container. Descriptors: one an attach."""

    id: str
    container_id: str
    container_pid: int
    container_dir: str
    """The container's own ``shim_dir``: proves that ``container_pid`` is still that container."""
    namespaces: list[str] = msgspec.field(default_factory=lambda: list(ALL_NAMESPACES))
    """Namespace types to enter; those the container shares with the host may be left out."""
    cgroups_path: str = ""
    cgroup_driver: str = "cgroupfs"
    process: Process
    user: str = ""
    group_add: list[str] = []
    stdio: Stdio = Stdio()
    shim_dir: str
    runtime: ForeignRuntime | None = None
    seccomp_path: str | None = None
    seccomp_flags: int = 0
    start_timeout_s: float = 30.0


class NewNetns(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Make a network namespace; ``WorkerDone`` brings its descriptor and a netlink socket."""


class MakeSpare(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Fork a shim ahead. The one descriptor is its connection, on which its request will come."""


class RunWorker(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Run one function of ``zygote/workers.py`` in a child; ``request`` follows the JSON."""

    kind: str
    token: int
    """Names the child in ``Cancel``."""


class Cancel(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """SIGKILL the worker ``token`` and its process group."""

    token: int


Request = StartContainer | StartExec | MakeSpare | NewNetns | RunWorker | Cancel

# --- control of a shim ---------------------------------------------------------------------------


class AttachClient(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Give a client's socket to the shim, which owns it from here on."""

    attach: Attach


class Resize(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Set the terminal's size in characters."""

    height: int
    width: int


class SignalAll(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Signal every process of the container's cgroup."""

    signal: int


class CloseStdin(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """Close the process's stdin once what clients sent before has been written."""


Control = AttachClient | Resize | SignalAll | CloseStdin

# --- answers and events --------------------------------------------------------------------------


class Started(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """The process has been executed. Comes with its pidfd."""

    pid: int
    """In the daemon's pid namespace."""
    shim_pid: int
    started_at_ns: int
    """Unix time."""


class Failure(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """A start or a worker failed; nothing of it is left."""

    kind: str
    """Class name of the error kind in ``pallet.errors``."""
    message: str
    """Docker's words, ready for the client."""
    call: str = ""
    errno: int = 0
    path: str = ""
    exit_code: int = 0
    """What Docker stores as the container's exit code: 126, 127 or 128; 0 outside of starts."""
    detail: str = ""
    """Further data of a worker's error, as its module documents it."""


class Hello(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """First message to a daemon that connects to ``sock``. Comes with the process's pidfd."""

    id: str
    pid: int
    shim_pid: int
    started_at_ns: int


class Attached(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """The shim serves stream ``stream_id`` now: later output reaches that client."""

    stream_id: int


class AttachEnded(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """A client's stream is over and its socket closed."""

    stream_id: int
    how: Literal["eof", "detached"]


class Exited(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """The process has ended and its output is in the log. Also the document in ``exit``."""

    exit_code: int
    """128 plus the signal's number for a death by signal."""
    oom_killed: bool = False
    finished_at_ns: int
    error: str = ""


class TornDown(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """After ``Exited``: cgroup and mounts are gone, too. The shim may still owe clients output."""


class Idle(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """After ``TornDown``: the shim is as good as new and waits for another start on this connection."""


class WorkerDone(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """A worker's function returned; its reply follows the JSON."""


Event = (Started | Failure | Hello | Attached | AttachEnded | Exited | TornDown | Idle
         | WorkerDone)


class ShimState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``state.json``: enough to find, judge and kill what a lost shim left running."""

    version: int = 1
    id: str
    shim_pid: int
    shim_start_time: int
    """Clock ticks since boot, field 22 of /proc/pid/stat: tells a reused pid."""
    pid: int
    pid_start_time: int
    started_at_ns: int
    cgroups_path: str = ""
    cgroup_driver: str = "cgroupfs"
    kill_cgroup: bool = False
    """The cgroup is the container's own (not an exec's): everything in it dies with the shim."""


encoder = msgspec.json.Encoder()
request_decoder = msgspec.json.Decoder(Request)
control_decoder = msgspec.json.Decoder(Control)
event_decoder = msgspec.json.Decoder(Event)
state_decoder = msgspec.json.Decoder(ShimState)
exit_decoder = msgspec.json.Decoder(Exited)
