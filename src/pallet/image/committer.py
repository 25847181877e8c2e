"""``docker commit``: an image with one more layer, made of a container's changes.

Owns   config, history and manifest of the new image.
Runs   in the daemon, on the loop; see ``image/importer.py``, which brings the layer in.
Spec   Engine API ImageCommit; image-spec config.md, manifest.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from pallet.image.importer import Importer
from pallet.image.moments import now
from pallet.spec import image as spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pallet.image.importer import AddedLayer, WorkerRunner
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.spec.reference import Reference
    from pallet.storage.leases import Lease

_DOCKER_TO_OCI = {spec.DOCKER_LAYER_GZIP: spec.OCI_LAYER_GZIP}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitPlan:
    """What the new image is to be."""

    base: Image
    config: spec.RunConfig
    created_by: str
    author: str = ""
    comment: str = ""
    container_id: str = ""
    """"" leaves it out: it would make every commit another image."""
    epoch_s: int | None = None
    """SOURCE_DATE_EPOCH: when the image was made; None is now."""
    reference: Reference | None = None


class Committer:
    """Makes images of containers."""

    def __init__(self, images: ImageStore, workers: WorkerRunner) -> None:
        self._images = images
        self._importer = Importer(images, workers)

    async def run(self, layer: AsyncIterator[bytes], plan: CommitPlan) -> Image:
        """Read the layer's tar to its end and record the image.

        Raises:
            DataLossError: the base image has lost its manifest.
        """
        return await self._importer.add_layer(
            layer, lambda lease, added: self._record(lease, added, plan), keep_empty=False)

    def _record(self, lease: Lease, added: AddedLayer, plan: CommitPlan) -> Image:
        base, empty = plan.base, added.is_empty
        _, manifest = self._images.manifest(base.id)
        created = _created(plan.epoch_s)
        step = spec.History(created=created, created_by=plan.created_by, author=plan.author,
                            comment=plan.comment, empty_layer=empty)
        config_raw = spec.encode(msgspec.structs.replace(
            base.config, created=created, author=plan.author, comment=plan.comment,
            container=plan.container_id, config=plan.config, docker_version="", parent="",
            rootfs=spec.RootFS(
                diff_ids=[*base.diff_ids, *([] if empty else [added.applied.diff_id])]),
            history=[*(base.config.history or ()), step]))
        config_digest = self._importer.put(lease, config_raw)
        layers = [*manifest.layers, *([] if empty else [_fitting(added.descriptor, manifest)])]
        manifest_digest = self._importer.put(lease, spec.encode(spec.Manifest(
            media_type=manifest.media_type or spec.OCI_MANIFEST, layers=layers,
            config=spec.Descriptor(media_type=manifest.config.media_type, digest=config_digest,
                                   size=len(config_raw)))))
        image = self._images.put(config_digest, manifest_digest=manifest_digest, parent=base.id)
        if plan.reference is not None:
            self._images.tag(image.id, plan.reference)
        return self._images.get(image.id)


def _fitting(layer: spec.Descriptor, manifest: spec.Manifest) -> spec.Descriptor:
    """Give the layer the media type that goes with the manifest's."""
    if manifest.media_type == spec.DOCKER_MANIFEST:
        return layer
    return msgspec.structs.replace(
        layer, media_type=_DOCKER_TO_OCI.get(layer.media_type, layer.media_type))


def _created(epoch_s: int | None) -> str:
    if epoch_s is None:
        return now()
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
