"""Images as Engine API documents: pure conversions.

Owns   the shape of image list, inspect and history replies.
Runs   anywhere.
Needs  ``image.model``.
Spec   Engine API ImageSummary, ImageInspect, ImageHistoryResponseItem.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from msgspec import UNSET

from pallet.spec.engine.config import HealthConfig, ImageConfig
from pallet.spec.engine.container import DriverData
from pallet.spec.engine.image import (
    ImageHistoryItem,
    ImageInspect,
    ImageMetadata,
    ImageRootFS,
    ImageSummary,
)
from pallet.spec.engine.wire import ZERO_TIME, Empty

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.image.model import Image
    from pallet.spec.image import RunConfig
    from pallet.spec.mounts import RootMount
    from pallet.types import DiffID

MISSING = "<missing>"


def summary(
    image: Image, *, tags: Sequence[str], digests: Sequence[str], containers: int,
    shared_bytes: int = -1,
) -> ImageSummary:
    """One line of a list; ``tags`` and ``digests`` are those that passed the filter."""
    run = image.config.config
    return ImageSummary(
        id=image.id, created=int(image.created_at), labels=run.labels if run else None,
        parent_id=image.parent or "", repo_tags=list(tags), repo_digests=list(digests),
        size=image.size_bytes, shared_size=shared_bytes, containers=containers)


def inspect(image: Image, *, driver: str, mount: RootMount | None) -> ImageInspect:
    """Everything about one image.

    Args:
        mount: its layers as a mount, for the driver's data; None when they are not unpacked.
    """
    config = image.config
    comment = config.comment
    if not comment and config.history:
        comment = config.history[-1].comment
    return ImageInspect(
        id=image.id, repo_tags=list(image.repo_tags), repo_digests=list(image.repo_digests),
        parent=image.parent or "", comment=comment, created=image.created,
        docker_version=config.docker_version, author=config.author,
        config=run_config(config.config), architecture=config.architecture,
        variant=config.variant or UNSET, os=config.os, os_version=config.os_version or UNSET,
        size=image.size_bytes,
        graph_driver=DriverData(name=driver, data=_driver_data(mount)),
        root_fs=ImageRootFS(layers=list(image.diff_ids) or UNSET),
        metadata=ImageMetadata(last_tag_time=image.last_tagged_at or ZERO_TIME))


def run_config(run: RunConfig | None) -> ImageConfig | None:
    """The image's presets in the Engine API's form."""
    if run is None:
        return None
    health = run.healthcheck
    return ImageConfig(
        user=run.user, env=run.env, entrypoint=run.entrypoint, cmd=run.cmd,
        exposed_ports=dict.fromkeys(run.exposed_ports, Empty()) if run.exposed_ports else UNSET,
        volumes=dict.fromkeys(run.volumes, Empty()) if run.volumes else None,
        working_dir=run.working_dir, labels=run.labels, on_build=run.on_build,
        stop_signal=run.stop_signal or UNSET, shell=run.shell or UNSET,
        args_escaped=run.args_escaped or UNSET,
        healthcheck=UNSET if health is None else HealthConfig(
            test=health.test or UNSET, interval=health.interval or UNSET,
            timeout=health.timeout or UNSET, start_period=health.start_period or UNSET,
            start_interval=health.start_interval or UNSET, retries=health.retries or UNSET))


def history(image: Image, layer_size: Callable[[DiffID], int]) -> list[ImageHistoryItem]:
    """Steps of an image, newest first; only the newest has an id and tags."""
    layers = iter(image.diff_ids)
    items: list[ImageHistoryItem] = []
    for step in image.config.history or ():
        diff_id = None if step.empty_layer else next(layers, None)
        items.append(ImageHistoryItem(
            comment=step.comment, created=_seconds(step.created), created_by=step.created_by,
            id=MISSING, size=0 if diff_id is None else layer_size(diff_id), tags=None))
    items.reverse()
    if items:
        top = items[0]
        items[0] = ImageHistoryItem(
            comment=top.comment, created=top.created, created_by=top.created_by, id=image.id,
            size=top.size, tags=list(image.repo_tags) or None)
    return items


def _driver_data(mount: RootMount | None) -> dict[str, str] | None:
    """Where the layers are: the top one and those below it."""
    if mount is None or not mount.lower:
        return None
    paths = [str(PurePosixPath(mount.base_dir) / name) for name in mount.lower]
    data = {"UpperDir": paths[0]}
    if len(paths) > 1:
        data["LowerDir"] = ":".join(paths[1:])
    return data


def _seconds(text: str | None) -> int:
    """Unix seconds of an RFC 3339 time; 0 when there is none."""
    if not text:
        return 0
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return 0
