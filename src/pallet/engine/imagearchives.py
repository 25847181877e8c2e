"""``api.backends.ImageArchiveBackend``: ``docker save`` and ``docker load``. Engine API ImageGet, ImageLoad."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.errors import InvalidParameterError, PalletError
from pallet.image import variants
from pallet.image.archive.load import Loader
from pallet.image.archive.save import Selection
from pallet.image.lazyblobs import LazyBlobs
from pallet.spec import platform as platform_spec
from pallet.spec.engine.progress import ProgressMessage
from pallet.spec.reference import parse_normalized

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pallet.engine.events import EventSink
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.engine.options import Stream
    from pallet.transfer.layer_job import WorkerRunner
    from pallet.transfer.layers import LayerPool


class ImageArchives:
    """Images to archives and back."""

    def __init__(self, *, images: ImageStore, supervisor: WorkerRunner, layers: LayerPool,
                 events: EventSink) -> None:
        self._images = images
        self._loader = Loader(images, supervisor, layers)
        self._events = events
        self._blobs = LazyBlobs(images, supervisor)

    async def load(
        self, source: AsyncIterator[bytes], *, quiet: bool, platforms: Sequence[str],
        progress: Callable[[ProgressMessage], None],
    ) -> None:
        """See ``ImageArchiveBackend.load``."""
        loaded = await self._loader.run(
            source, platforms=[platform_spec.parse(text) for text in platforms],
            watch=None if quiet else progress)
        for entry in loaded:
            for replaced, before in entry.replaced.items():
                progress(_line(f"The image {replaced} already exists, renaming the old one with ID "
                               f"{before.id} to empty string"))
            for name in entry.names:
                progress(_line(f"Loaded image: {name.familiar()}"))
            for image in entry.images:
                if not entry.names:
                    progress(_line(f"Loaded image ID: {image.id}"))
                self._events.emit("image", "load", image.id, {"name": image.id})

    async def save(self, names: Sequence[str], *, platforms: Sequence[str]) -> Stream[bytes]:
        """See ``ImageArchiveBackend.save``."""
        if not names:
            message = "no image specified: invalid reference format"
            raise InvalidParameterError(message)
        wanted = [platform_spec.parse(text) for text in platforms]
        with self._images.lease() as lease:
            for name in names:
                await self._blobs.of_images(_named(self._images, name), lease)
            selection = await run_blocking(Selection, self._images, names, wanted)
        for image in selection.chosen:
            self._events.emit("image", "save", image.id, {"name": image.id})
        return _Archive(selection)


def _named(images: ImageStore, name: str) -> Sequence[Image]:
    """Every image that a name stands for: one, several platforms, or all tags of a repository."""
    found: list[Image] = []
    with suppress(PalletError):  # ``Selection`` says what is wrong
        found += variants.of_name(images, name)
    with suppress(PalletError):
        reference = parse_normalized(name)
        found += variants.of_repository(images, reference) if reference.is_name_only else []
    return found


class _Archive:
    """The stream of one archive; ``aclose`` gives its blobs up even if it was never read."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._stream = selection.stream()

    def __aiter__(self) -> _Archive:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._stream)

    async def aclose(self) -> None:
        """End the archive."""
        await self._stream.aclose()
        self._selection.close()


def _line(text: str) -> ProgressMessage:
    return ProgressMessage(stream=f"{text}\n")
