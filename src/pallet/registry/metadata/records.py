"""Records of the registry's metadata.

Owns   the documents that ``MetadataStore`` takes and returns. Times are seconds since the epoch by
       the database's clock.
Runs   anywhere.
Needs  nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pallet.types import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRecord:
    """Content that some repository has or had."""

    digest: Digest
    size: int
    location: str
    created_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRecord:
    """A manifest of a repository, byte for byte."""

    digest: Digest
    media_type: str
    raw: bytes
    subject: Digest | None = None
    artifact_type: str = ""
    descriptor: bytes = b""
    """JSON: its entry in the referrers list of ``subject``; b"" without one."""
    blobs: frozenset[Digest] = field(default=frozenset())
    """Blobs of the repository that it needs (config, layers but foreign ones)."""
    children: frozenset[Digest] = field(default=frozenset())
    """Manifests of the repository that it lists."""
    pushed_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRecord:
    """A tag and when it was last set."""

    name: str
    digest: Digest
    updated_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRecord:
    """An upload session."""

    id: str
    repository: str
    algorithm: str
    epoch: int = 0
    """Counts the requests that wrote or tried to: who holds an older one may not record anything."""
    size: int = 0
    writer: str = ""
    """Process that wrote everything so far; "*" when there were several."""
    state: bytes = b""
    """The driver's ``UploadState`` as JSON."""
    digest: str = ""
    """Set once it is being finished: its object may exist from then on."""
    started_at: float = 0.0
    touched_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestSummary:
    """What retention looks at."""

    digest: Digest
    touched_at: float
    subject: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How much there is."""

    blobs: int
    bytes: int
    """Of the blobs."""
    manifests: int
    uploads: int
    """Sessions."""
    pending: int
    """Notifications to deliver."""
    dead: int
    """Notifications given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A notification for one receiver."""

    id: str
    receiver: str
    event: bytes
    """JSON."""
    attempts: int = 0
    """With the one that runs."""
    created_at: float = 0.0
