"""What a readable log driver promises, and the record it yields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """Selection of ``GET /containers/{id}/logs`` (Engine API ContainerLogs)."""

    follow: bool = False
    tail: int | None = None
    """The last so many records; None is all, 0 none of the past."""
    since_ns: int | None = None
    until_ns: int | None = None
    stdout: bool = True
    stderr: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One write of the container, at most 16 KiB; ``line`` keeps its newline if it had one."""

    stream: str
    line: bytes
    time: str
    """RFC 3339 with nine fractional digits, UTC."""
    attributes: dict[str, str] = field(default_factory=dict)


class ReadableLog(Protocol):
    """A container's log, readable while and after it is written."""

    def read(self, options: ReadOptions) -> AsyncIterator[list[LogRecord]]:
        """Yield batches of records, oldest first; with ``follow`` until the log has ended."""
        ...
