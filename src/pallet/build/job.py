"""One build while it is solved: whom it is for, what it has found, what is told of it.

Owns   ``Job``, ``Solved`` and the building of vertex events.
Runs   on the loop.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pallet.build.cachekey import Names
from pallet.build.graph import RunOp
from pallet.build.progress import LogEvent, StatusEvent, VertexEvent

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from pallet.build.cachestore import Records
    from pallet.build.graph import LocalSource, Vertex
    from pallet.build.ports import BuildClient, ContextTree, FrontendOptions
    from pallet.build.progress import Watch
    from pallet.build.remotecache.importer import RemoteCache
    from pallet.build.sharing import Execution
    from pallet.storage.leases import Lease
    from pallet.types import DiffID, Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """What a vertex came to: a file system."""

    layers: tuple[DiffID, ...] = ()
    """Base first."""
    tree: ContextTree | None = None
    """Of a client's tree, which is no layer; held until the job ends."""
    created_ns: int = 0
    """When the topmost layer was made."""
    cached: bool = False
    record: str = ""
    """Id of the cache record; "" for sources."""


@dataclass(slots=True, kw_only=True)
class Job:
    """One build. Made by who asks for it, closed by it with ``Solver.end``."""

    client: BuildClient
    watch: Watch
    options: FrontendOptions
    lease: Lease
    debug: bool = False
    """Keep the state of a step that fails."""
    names: Names = field(default_factory=Names)
    results: dict[Vertex, Solved] = field(default_factory=dict)
    """Every vertex that is known, also those that a cached one made needless."""
    caches: list[RemoteCache] = field(default_factory=list)
    """Caches elsewhere that are asked for what is not here."""
    log_limit_bytes: int = 2 << 20
    """Of one step's output."""
    logged: dict[Vertex, int] = field(default_factory=dict)
    begun: list[Execution[Records]] = field(default_factory=list)
    """Work that this build has begun: others may have joined it and need it longer."""
    ran: dict[str, Records] = field(default_factory=dict)
    """What it has carried out for itself alone: once, whatever the cache is."""
    told: set[Digest] = field(default_factory=set)
    """Vertices of which nothing more is to be told."""
    commands: dict[Vertex, Digest] = field(default_factory=dict)
    """Names of the commands that vertices are outputs of."""
    held: list[str] = field(default_factory=list)
    """Cache records held."""
    trees: dict[LocalSource, asyncio.Task[ContextTree]] = field(default_factory=dict)
    uploads: dict[str, Solved] = field(default_factory=dict)
    """What the client piped in, by URL: it can be had once."""

    def digest(self, vertex: Vertex) -> Digest:
        """What a vertex is known by: equal ones are one."""
        return self.names.digest(vertex)

    def shown(self, vertex: Vertex) -> Digest:
        """The vertex's name in the progress: one for all outputs of a command."""
        operation = vertex.op
        if not isinstance(operation, RunOp) or operation.output is None:
            return self.digest(vertex)
        if vertex not in self.commands:
            self.commands[vertex] = self.digest(replace(vertex, op=replace(operation, output=None)))
        return self.commands[vertex]

    def tell(self, vertex: Vertex, *, started_ns: int = 0, completed_ns: int = 0, cached: bool = False,
             error: str = "") -> None:
        """Tell where a vertex is; one without a name is nobody's to see."""
        if not vertex.name:
            return
        self.watch(VertexEvent(
            digest=self.shown(vertex), name=vertex.name, inputs=tuple(self.shown(below) for below in vertex.inputs),
            started_ns=started_ns, completed_ns=completed_ns, cached=cached, error=error, span=vertex.span))

    def log(self, vertex: Vertex, stream: int, data: bytes) -> None:
        """Tell what a command wrote, up to the limit of a step: nobody waits for a client that reads slowly."""
        before = self.logged.get(vertex, 0)
        if before >= self.log_limit_bytes:
            return
        self.logged[vertex] = before + len(data)
        if self.logged[vertex] >= self.log_limit_bytes:
            limit = f"{self.log_limit_bytes >> 20}MiB"
            data = data[:self.log_limit_bytes - before] + f"\n[output clipped, log limit {limit} reached]\n".encode()
        self.watch(LogEvent(vertex=self.shown(vertex), stream=stream, data=data, timestamp_ns=time.time_ns()))

    def status(self, vertex: Vertex, name: str) -> Callable[[int, int], None]:
        """Begin to tell of a part of a vertex; call the result with what is done and the total (equal: ended)."""
        started = time.time_ns()
        digest = self.digest(vertex)

        def tell(current: int, total: int) -> None:
            now = time.time_ns()
            self.watch(StatusEvent(id=name, vertex=digest, name=name, current=current, total=total,
                                   timestamp_ns=now, started_ns=started,
                                   completed_ns=now if current == total else 0))

        return tell
