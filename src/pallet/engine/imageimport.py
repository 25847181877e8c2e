"""``api.backends.ImageImportBackend``: ``docker import`` and bootstraps. Engine API ImageCreate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.image.importer import Importer
from pallet.spec import platform as platforms
from pallet.spec import reference as references
from pallet.spec.engine.progress import ProgressMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pallet.engine.events import EventSink
    from pallet.image.importer import WorkerRunner
    from pallet.image.store import ImageStore


class ImageImports:
    """Makes images of root file systems."""

    def __init__(self, *, images: ImageStore, supervisor: WorkerRunner, events: EventSink) -> None:
        self._importer = Importer(images, supervisor)
        self._events = events

    async def import_tree(
        self, source: AsyncIterator[bytes], *, repository: str, tag: str, message: str,
        changes: Sequence[str], platform: str, progress: Callable[[ProgressMessage], None],
    ) -> None:
        """See ``ImageImportBackend.import_tree``."""
        reference = references.parse_repository_tag(repository, tag) if repository else None
        image = await self._importer.run(
            source, reference=reference, message=message, changes=changes,
            platform=platforms.parse(platform) if platform else None)
        self._events.emit("image", "import", image.id, {"name": image.id})
        if reference is not None:
            name = reference.with_default_tag().familiar()
            self._events.emit("image", "tag", image.id, {"name": name})
        progress(ProgressMessage(status=image.id))
