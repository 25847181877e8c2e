"""The builder of one daemon: its parts made and joined to the engine's.

Runs   at the first build. ``engine`` and ``build`` do not know each other: this is where they meet.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from pallet.build.backend import BuildDoors
from pallet.build.collector import CacheCollector
from pallet.build.context import ContextStore
from pallet.build.credentials import auth_config
from pallet.build.progress import LogEvent, StatusEvent
from pallet.build.service import Builder
from pallet.engine.imagefilter import parse_until
from pallet.errors import SystemFailureError
from pallet.layer.remove import discard
from pallet.spec.engine.options import PushOptions
from pallet.transfer.push import PushAux
from pallet.types import Digest

if TYPE_CHECKING:
    from pallet.build.assembly import SolverParts
    from pallet.build.ports import FrontEnds
    from pallet.build.progress import Watch
    from pallet.config import BuilderConfig
    from pallet.engine.events import EventBus
    from pallet.engine.images import Images
    from pallet.image.store import ImageStore
    from pallet.paths import DataPaths
    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.reference import Reference
    from pallet.supervisor.client import Supervisor


def make_builder(*, data: DataPaths, parts: SolverParts, images: ImageStore, image_api: Images,
                 supervisor: Supervisor, events: EventBus, config: BuilderConfig, front_ends: FrontEnds) -> BuildDoors:
    """Make the builder's doors; what an earlier daemon's builds left goes first. Blocking."""
    builder = Builder(parts, images=images, contexts=ContextStore(data.build / "contexts", discard=discard),
                      workers=supervisor, scratch=data.build / "scratch", pushes=BuildPushes(image_api), notes=events,
                      collector=CacheCollector(parts.keeper, config, str(data.root)))
    builder.front_ends = front_ends
    builder.sweep()
    parts.caches.sweep()
    parts.keeper.contexts = builder.contexts
    return BuildDoors(builder, supervisor, age_of=_age_of)


def _age_of(text: str) -> float:
    return time.time() - parse_until(text)


class BuildPushes:
    """Pushes of builds are the engine's own."""

    def __init__(self, images: Images) -> None:
        self._images = images

    async def push(self, reference: Reference, credentials: tuple[str, str] | None, watch: Watch,
                   vertex: Digest) -> tuple[Digest, int]:
        """Push one name of the image store; return what it names at its registry."""
        pushed: list[PushAux] = []

        def tell(message: ProgressMessage) -> None:
            if message.aux is not UNSET:
                with suppress(msgspec.ValidationError):  # another kind of note
                    pushed.append(msgspec.json.decode(message.aux, type=PushAux))
            _tell(message, watch, vertex)

        await self._images.push(PushOptions(
            reference=reference.familiar_name, tag=reference.tag or "", platform="",
            auth=auth_config(credentials),
            meta_headers={}), tell)
        return Digest(pushed[-1].digest), pushed[-1].size


def _tell(message: ProgressMessage, watch: Watch, vertex: Digest) -> None:
    now = time.time_ns()
    if message.error is not UNSET and message.error:
        raise SystemFailureError(message.error)
    text = message.status if message.status is not UNSET else ""
    if message.id is UNSET:
        if not text:
            return
        watch(LogEvent(vertex=vertex, stream=1, data=f"{text}\n".encode(), timestamp_ns=now))
        return
    detail = message.progress_detail if message.progress_detail is not UNSET else None
    done = detail is None or detail.current is UNSET
    watch(StatusEvent(
        id=str(message.id), vertex=vertex, name=f"{text} {message.id}".lower() if text else "",
        current=0 if detail is None or detail.current is UNSET else detail.current,
        total=0 if detail is None or detail.total is UNSET else detail.total, timestamp_ns=now, started_ns=now,
        completed_ns=now if done else 0))
