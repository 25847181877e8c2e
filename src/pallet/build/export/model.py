"""One build's export: what exporters share.

Owns   ``ExportJob``, and the vertices of exports in the progress.
Runs   on the loop.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pallet.build.progress import StatusEvent, VertexEvent
from pallet.spec import platform as platforms
from pallet.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pallet.build.graph import ImageSource
    from pallet.build.ports import BuildClient, SolvedTarget
    from pallet.build.progress import Watch
    from pallet.build.request import BuildRequest
    from pallet.build.treeclient import WorkerRunner
    from pallet.image.lazyblobs import LazyBlobs
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.image import Descriptor
    from pallet.spec.reference import Reference
    from pallet.storage.leases import Lease
    from pallet.types import DiffID, ImageId


class Pushes(Protocol):
    """Pushes what is in the image store: the engine."""

    async def push(self, reference: Reference, credentials: tuple[str, str] | None, watch: Watch,
                   vertex: Digest) -> tuple[Digest, int]:
        """Push one name; return digest and size in bytes of the manifest or index that it names there."""
        ...


class Notes(Protocol):
    """Where events go: the engine's event bus."""

    def emit(self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        """Record one event."""
        ...


class VertexProgress:
    """One vertex that is not in the graph."""

    def __init__(self, watch: Watch, name: str, salt: str) -> None:
        self._watch = watch
        self._name = name
        self._started_ns = time.time_ns()
        self.digest = Digest("sha256:" + hashlib.sha256(f"{salt}\0{name}".encode()).hexdigest())
        watch(VertexEvent(digest=self.digest, name=name, started_ns=self._started_ns))

    def end(self, error: str = "") -> None:
        """Tell its end."""
        self._watch(VertexEvent(digest=self.digest, name=self._name, started_ns=self._started_ns,
                                completed_ns=time.time_ns(), error=error))

    def transferred(self, name: str, size_bytes: int) -> None:
        """Tell of bytes that came from the client since the vertex began."""
        now = time.time_ns()
        self._watch(StatusEvent(id=name, vertex=self.digest, name="transferring", current=size_bytes, timestamp_ns=now,
                                started_ns=self._started_ns, completed_ns=now))

    @contextmanager
    def status(self, name: str) -> Iterator[None]:
        """Tell of a part of it, from its beginning to its end."""
        started = time.time_ns()
        self._watch(StatusEvent(id=name, vertex=self.digest, name="", timestamp_ns=started, started_ns=started))
        yield
        now = time.time_ns()
        self._watch(StatusEvent(id=name, vertex=self.digest, name="", timestamp_ns=now, started_ns=started,
                                completed_ns=now))


class Progress:
    """Vertices of one build's doors and exports."""

    def __init__(self, watch: Watch, salt: str) -> None:
        self.watch = watch
        self.definition = Digest("")
        """The vertex that reads the Dockerfile: warnings belong to it."""
        self._salt = salt

    @contextmanager
    def vertex(self, name: str) -> Iterator[VertexProgress]:
        """Tell of a vertex, and with which error it ends."""
        vertex = VertexProgress(self.watch, name, self._salt)
        try:
            yield vertex
        except BaseException as error:
            vertex.end(str(error) if isinstance(error, Exception) else "context canceled")
            raise
        vertex.end()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """What a scanner's image found."""

    image: ImageSource
    predicates: Mapping[str, Mapping[str, bytes]]
    """SPDX documents of each platform, by the platform's text: those of each file that was written."""


@dataclass(slots=True, kw_only=True)
class ExportJob:
    """What exporters get, and what they leave."""

    request: BuildRequest
    targets: Sequence[SolvedTarget]
    client: BuildClient
    progress: Progress
    images: ImageStore
    workers: WorkerRunner
    blobs: LazyBlobs
    scratch: str
    """Directory for trees that are gone before the build ends."""
    lease: Lease
    pushes: Pushes
    notes: Notes
    attestations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """``provenance`` and ``sbom`` to their attributes."""
    provenance: Mapping[str, bytes] = field(default_factory=dict)
    """Predicate of each platform's provenance, by the platform's text."""
    scanned: Scanned | None = None
    """What a scanner's image found; None where there is none."""
    added: dict[DiffID, Descriptor] = field(default_factory=dict)
    """Blobs of layers that outputs made themselves."""
    epoch_s: int | None = None
    image_id: ImageId | None = None
    image_ids: list[ImageId] = field(default_factory=list)
    digest: Digest | None = None

    @property
    def multi_platform(self) -> bool:
        """An index even for one platform."""
        options = self.request.options
        asked = options.build_args.get("BUILDKIT_MULTI_PLATFORM", "")
        return options.multi_platform or asked.lower() in ("1", "t", "true")

    def main_image(self, images: Sequence[Image]) -> Image:
        """The one that a name runs here: this host's platform where there is one."""
        host = platforms.host()
        return next((image for image in images if platforms.matches(host, image.config.platform)), images[0])

    def note(self, action: str, image_id: ImageId, name: str) -> None:
        """Tell the event stream."""
        self.notes.emit("image", action, image_id, {"name": name})

    async def push(self, name: Reference) -> tuple[Digest, int]:
        """Push a name that is in the store; see ``Pushes``."""
        credentials = await self.client.credentials(name.domain)
        with self.progress.vertex(f"pushing {name}") as vertex:
            return await self.pushes.push(name, credentials, self.progress.watch, vertex.digest)
