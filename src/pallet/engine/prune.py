"""Pruning containers and images: what is unused goes, what is used meanwhile stays.

Owns   ``api.backends.PruneBackend``; networks and volumes prune themselves.
Runs   on the event loop; disk work in worker threads.
Spec   Engine API ContainerPrune, ImagePrune; semantics "images prune".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.engine.pruning import PruneGate, labels_match, until_of
from pallet.engine.status import is_running
from pallet.errors import PalletError
from pallet.spec.engine.prune import ContainerPruneResponse, ImagePruneResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.engine.container import Container
    from pallet.engine.events import EventSink
    from pallet.engine.images import Images
    from pallet.engine.index import ContainerIndex
    from pallet.engine.remove import Remover
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.engine.filters import Filters
    from pallet.spec.engine.image import ImageDeleteItem
    from pallet.storage.snapshot import Snapshotter
    from pallet.types import DiffID

logger = logging.getLogger(__name__)


class Pruner:
    """Implements ``api.backends.PruneBackend``."""

    def __init__(
        self, *, index: ContainerIndex, remover: Remover, images: ImageStore, image_api: Images,
        snapshotter: Snapshotter, events: EventSink,
    ) -> None:
        self._index = index
        self._remover = remover
        self._images = images
        self._image_api = image_api
        self._snapshotter = snapshotter
        self._events = events
        self._container_gate = PruneGate()
        self._image_gate = PruneGate()

    async def containers(self, filters: Filters) -> ContainerPruneResponse:
        """See ``PruneBackend.containers``."""
        until = until_of(filters)
        deleted: list[str] = []
        reclaimed = 0
        with self._container_gate.enter():
            for container in self._index:
                if not _may_go(container, filters, until):
                    continue
                try:
                    size = await run_blocking(self._snapshotter.usage, container.id)
                    await self._remover.remove(container, force=False, volumes=False)
                except PalletError as error:
                    logger.info("prune leaves container %s: %s", container.id, error)
                    continue
                deleted.append(container.id)
                reclaimed += size
            self._events.emit("container", "prune", "", {"reclaimed": str(reclaimed)})
        return ContainerPruneResponse(containers_deleted=deleted or None, space_reclaimed=reclaimed)

    async def images(self, filters: Filters) -> ImagePruneResponse:
        """See ``PruneBackend.images``."""
        dangling_only = filters.boolean("dangling", default=True)
        until = until_of(filters)
        with self._image_gate.enter():
            before = self._layer_sizes()
            chosen = [image for image in self._images.list()
                      if not image.covered
                      and not (image.is_dangling and not image.repo_digests
                              and self._images.children(image.id))
                      and (until is None or image.created_at <= until)
                      and labels_match(filters, _labels(image))]
            items: list[ImageDeleteItem] = []
            for image in chosen:
                for name in _names_to_remove(image, dangling_only=dangling_only):
                    items += await self._remove(name)
            # Layers that a container or another image has are still here, and do not count.
            gone = before.keys() - self._layer_sizes().keys()
            reclaimed = sum(before[layer] for layer in gone)
            self._events.emit("image", "prune", "", {"reclaimed": str(reclaimed)})
        return ImagePruneResponse(images_deleted=items or None, space_reclaimed=reclaimed)

    async def _remove(self, name: str) -> Sequence[ImageDeleteItem]:
        try:
            return await self._image_api.remove(name, force=False, prune_parents=True)
        except PalletError as error:
            logger.debug("prune leaves image %s: %s", name, error)
            return []

    def _layer_sizes(self) -> dict[DiffID, int]:
        return {layer: self._snapshotter.layer_size(layer) for layer in self._snapshotter.layers()
                if self._snapshotter.has_layer(layer)}


def _may_go(container: Container, filters: Filters, until: float | None) -> bool:
    if is_running(container.status) or container.hidden or container.removed:
        return False
    if until is not None and container.created_at_ns > until * 1e9:
        return False
    return labels_match(filters, container.config.labels)


def _labels(image: Image) -> dict[str, str] | None:
    run = image.config.config
    return run.labels if run else None


def _names_to_remove(image: Image, *, dangling_only: bool) -> Sequence[str]:
    """What to give ``docker rmi``, one after the other, so that the image goes if it can."""
    if image.repo_tags or image.repo_digests:
        if dangling_only and image.repo_tags:
            return ()
        return image.repo_tags or image.repo_digests
    return (image.id,)
