"""Unpack again what a power cut took: layers without a tree, from the blobs that are kept.

Runs   in the daemon at its start, before containers are started again.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING

from pallet.aio import held, run_blocking
from pallet.errors import DataLossError, PalletError
from pallet.layer.model import MissingLinkTargetError
from pallet.layer.worker import ApplyReply, ApplyRequest

if TYPE_CHECKING:
    from pallet.image.importer import WorkerRunner
    from pallet.image.model import Image
    from pallet.image.store import ImageStore
    from pallet.layer.model import Applied
    from pallet.types import Digest

logger = logging.getLogger(__name__)


async def repair(images: ImageStore, workers: WorkerRunner) -> int:
    """Bring back missing layers of every image; return how many came back.

    An image whose blobs are damaged or gone is logged and stays as it is.
    """
    restored = 0
    for image in images.list():
        try:
            missing = images.missing_layers(image.id)
            for diff_id, blob in missing:
                applied = await unpack_again(images, workers, image, blob.digest)
                logger.info("layer %s unpacked again (%d entries)", diff_id, applied.entries)
                restored += 1
            if missing:
                await run_blocking(images.snapshotter.settle, image.diff_ids)
        except (PalletError, OSError) as error:
            logger.warning("image %s cannot be repaired, pull it again: %s", image.id, error)
    return restored


async def unpack_again(images: ImageStore, workers: WorkerRunner, image: Image,
                       blob: Digest) -> Applied:
    """Commit the layer that ``blob`` holds; nothing when it is there.

    Raises:
        DataLossError: the blob is none of the image's layers.
        PalletError: it cannot be read or unpacked.
    """
    snapshotter = images.snapshotter
    try:
        return await _attempt(images, workers, image, blob, lower_dirs=[])
    except MissingLinkTargetError:
        # Base first: what the links point to is here by now.
        below = [layer for layer in image.diff_ids if snapshotter.has_layer(layer)]
        root = snapshotter.root_mount_of_layers(below)
        dirs = [os.path.join(root.base_dir, name) for name in root.lower]
        return await _attempt(images, workers, image, blob, lower_dirs=dirs)


async def _attempt(images: ImageStore, workers: WorkerRunner, image: Image, blob: Digest, *,
                   lower_dirs: list[str]) -> Applied:
    snapshotter = images.snapshotter
    async with (held(snapshotter.draft, snapshotter.abort) as draft,
                held(partial(images.content.open, blob), os.close) as fd):
        reply = await workers.run_worker(
            "layer.apply", ApplyRequest(target=draft.path, lower_dirs=lower_dirs), [fd],
            reply_type=ApplyReply)
        applied = reply.result()
        if applied.diff_id not in image.diff_ids:
            message = f"blob {blob} is damaged: it unpacks to {applied.diff_id}"
            raise DataLossError(message)
        snapshotter.commit_layer(draft, applied.diff_id, applied.size_bytes,
                                 implied_dirs=applied.implied_dirs, opaque_root=applied.opaque_root)
        return applied
