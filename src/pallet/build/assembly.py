"""The builder's parts, put together for one daemon.

Owns   nothing but the wiring: which part gets what.
Runs   at the daemon's start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.build.cachegc import CacheKeeper
from pallet.build.cachestore import CacheStore
from pallet.build.images import BuildImages
from pallet.build.ops.cachemounts import CacheMounts
from pallet.build.ops.contents import Contents
from pallet.build.ops.downloads import Downloads
from pallet.build.ops.emulation import ForeignPerformer
from pallet.build.ops.failed import FailedSteps
from pallet.build.ops.layers import Layers
from pallet.build.ops.layouts import Layouts
from pallet.build.ops.perform import Performer
from pallet.build.ops.running import StepMaker
from pallet.build.ops.sources import Sources
from pallet.build.ops.trees import Trees
from pallet.build.planning import FrontEndRunner
from pallet.build.remotecache.exporter import CacheExporter
from pallet.build.remotecache.importer import CacheImporter
from pallet.build.remotecache.mounts import MountExporter, MountImporter
from pallet.build.solver import Solver
from pallet.image.lazyblobs import LazyBlobs

if TYPE_CHECKING:
    from pathlib import Path

    from pallet.build.devices import Devices
    from pallet.build.images import Pulls
    from pallet.build.ports import StepRunner
    from pallet.build.remotecache.importer import Registries
    from pallet.image.importer import WorkerRunner
    from pallet.image.store import ImageStore
    from pallet.storage.metadata import Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverParts:
    """What the service builds with."""

    solver: Solver
    images: BuildImages
    cache: CacheStore
    caches: CacheMounts
    keeper: CacheKeeper
    failed: FailedSteps
    importer: CacheImporter
    exporter: CacheExporter
    devices: Devices
    front_ends: FrontEndRunner


def assemble(root: Path, *, metadata: Metadata, images: ImageStore, puller: Pulls, registries: Registries,
             workers: WorkerRunner, runner: StepRunner, devices: Devices) -> SolverParts:
    """Make the solver of a daemon.

    Args:
        root: the builder's own directory below the data root.
    """
    snapshotter = images.snapshotter
    cache = CacheStore(metadata, snapshotter)
    images.keep = cache.layers
    layers = Layers(snapshotter=snapshotter, workers=workers, content=images.content)
    contents = Contents(cache=cache, layers=layers, workers=workers)
    trees = Trees(cache=cache, contents=contents, layers=layers, workers=workers)
    caches = CacheMounts(root / "caches", cache)
    found = BuildImages(images, puller)
    failed = FailedSteps(images=images, runner=runner)
    performer = Performer(layers=layers, workers=workers, runner=runner, failed=failed,
                          steps=StepMaker(
                              caches, trees, MountImporter(content=images.content, workers=workers), devices))
    sources = Sources(images=found, cache=cache, layers=layers, workers=workers, fetcher=Downloads(),
                      layouts=Layouts(images=images, workers=workers), scratch=str(root / "scratch"))
    importer = CacheImporter(images=images, workers=workers, registries=registries)
    solver = Solver(cache=cache, sources=sources, contents=contents, importer=importer,
                    performer=ForeignPerformer(performer, workers))
    keeper = CacheKeeper(cache=cache, mounts=caches, images=images, root=str(root.parent))
    return SolverParts(solver=solver, images=found, cache=cache, caches=caches, keeper=keeper, failed=failed,
                       importer=importer, devices=devices, front_ends=FrontEndRunner(layers, runner),
                       exporter=CacheExporter(images=images, cache=cache, blobs=LazyBlobs(images, workers),
                                              registries=registries, mounts=MountExporter(
                                  caches, content=images.content, workers=workers)))
