"""What a build tells while it runs: one stream of events that every client's view is made of.

Owns   the events and the ``Watch`` Protocol. BuildKit's status stream, the classic JSON lines and
       ``pallet build``'s own view are each a ``Watch`` or read one.
Runs   in the daemon, on the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pallet.build.graph import LintWarning, Span
    from pallet.types import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexEvent:
    """A vertex was planned, began or ended; the same ``digest`` each time.

    Times are Unix nanoseconds, 0 for not yet. A cached vertex has ``cached`` and both times equal.
    """

    digest: Digest
    name: str
    inputs: tuple[Digest, ...] = ()
    started_ns: int = 0
    completed_ns: int = 0
    cached: bool = False
    error: str = ""
    span: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusEvent:
    """Progress of a part of a vertex: a download, an upload, ``transferring context:``."""

    id: str
    vertex: Digest
    name: str = ""
    current: int = 0
    total: int = 0
    timestamp_ns: int = 0
    started_ns: int = 0
    completed_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """Output of a command: raw bytes, split anywhere."""

    vertex: Digest
    stream: int
    """1 or 2."""
    data: bytes
    timestamp_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningEvent:
    """A lint rule's finding, or another warning (``rule`` "")."""

    vertex: Digest
    warning: LintWarning


Event = VertexEvent | StatusEvent | LogEvent | WarningEvent


class Watch(Protocol):
    """Who is told. Called on the loop; must not block and must not raise."""

    def __call__(self, event: Event) -> None:
        """Take one event."""
        ...
