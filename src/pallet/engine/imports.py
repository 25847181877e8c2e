"""``POST /images/create?fromSrc=-``: images made of a root file system's tar.

``Imports`` implements ``api.backends.ImageImportBackend``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.image.importer import Importer
from pallet.spec import platform as platforms
from pallet.spec import reference as references
from pallet.spec.engine.progress import ProgressMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pallet.engine.events import EventSink
    from pallet.image.importer import WorkerRunner
    from pallet.image.store import ImageStore
    from pallet.spec.reference import Reference


def target(repository: str, tag: str) -> Reference | None:
    """The name an import gives; None for none.

    Raises:
        InvalidParameterError: not a reference, or one with a digest.
    """
    if not repository:
        return None
    reference = references.parse_normalized(f"{repository}:{tag}" if tag else repository)
    if reference.digest is not None:
        msg = "cannot import digest reference"
        raise InvalidParameterError(msg)
    return reference.with_default_tag()


class Imports:
    """Imports, with their progress and event."""

    def __init__(self, images: ImageStore, workers: WorkerRunner, events: EventSink) -> None:
        self._importer = Importer(images, workers)
        self._events = events

    async def import_tree(
        self, source: AsyncIterator[bytes], *, repository: str, tag: str, message: str, changes: Sequence[str],
        platform: str, progress: Callable[[ProgressMessage], None],
    ) -> None:
        """See ``ImageImportBackend.import_tree``."""
        reference = target(repository, tag)
        image = await self._importer.run(
            source, reference=reference, message=message, changes=changes,
            platform=platforms.parse(platform) if platform else None)
        progress(ProgressMessage(status=image.id))
        name = reference.familiar() if reference is not None else image.id
        self._events.emit("image", "import", image.id, {"name": name})
