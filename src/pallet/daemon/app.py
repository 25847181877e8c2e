"""Composition root: makes every part of the daemon and hands each what it needs.

The only module that knows all of them. ``start`` brings the engine to where the machine is before
the API listens; ``close`` leaves containers running unless live-restore is off.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from functools import partial
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.api.backends import Backends
from pallet.build.kept import kept_layers
from pallet.daemon.buildkit import FrontEnds, make_door
from pallet.daemon.deferred import deferred, made
from pallet.engine import hostinfo
from pallet.engine.archives import ContainerArchives
from pallet.engine.attach import Attacher
from pallet.engine.budget import DiskBudget
from pallet.engine.buildsteps import StepRunner
from pallet.engine.commit import Commits
from pallet.engine.containerlogs import LogReader
from pallet.engine.containers import Containers
from pallet.engine.create import Creator
from pallet.engine.disk import Disk
from pallet.engine.events import EventBus
from pallet.engine.exec import ExecInstances
from pallet.engine.exits import ExitWatcher
from pallet.engine.explore import Explorer
from pallet.engine.files import ContainerFiles
from pallet.engine.health import HealthMonitors
from pallet.engine.imagearchives import ImageArchives
from pallet.engine.imageconfig import ImageDefaults
from pallet.engine.imageimport import ImageImports
from pallet.engine.images import Images
from pallet.engine.index import ContainerIndex
from pallet.engine.integrity import Integrity
from pallet.engine.joins import Joins
from pallet.engine.mountplan import MountPlanner
from pallet.engine.networks import Networks
from pallet.engine.prune import Pruner
from pallet.engine.remove import Remover
from pallet.engine.restore import Restorer
from pallet.engine.seccomp import SeccompFilters
from pallet.engine.security import default_capabilities
from pallet.engine.start import HostFacts, Starter
from pallet.engine.status import Status, is_running
from pallet.engine.stop import Stopper, stop_signal, stop_timeout_s
from pallet.engine.store import ContainerStore
from pallet.engine.system import COMPATIBLE_VERSION, System
from pallet.engine.tasks import Tasks
from pallet.engine.trees import ContainerTrees
from pallet.engine.volumes import Volumes
from pallet.errors import PalletError, SystemFailureError, UnavailableError
from pallet.image.model import ImageUser
from pallet.image.repair import repair
from pallet.image.store import ImageStore
from pallet.network.controller import NetworkController
from pallet.paths import LAYOUT_VERSION, DataPaths, ExecPaths
from pallet.runtime.cgroup import remove_parent, sweep_ahead
from pallet.runtime.seccomp_profile import SeccompCache
from pallet.storage import erofs, stubs
from pallet.storage.content import ContentStore
from pallet.storage.metadata import Metadata
from pallet.storage.native import NativeSnapshotter
from pallet.storage.overlay import OverlaySnapshotter, erofs_snapshotter
from pallet.supervisor.client import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.build.assembly import SolverParts
    from pallet.build.backend import BuildDoors
    from pallet.build.buildkit import BuildKitBuilder
    from pallet.cdi.registry import DeviceRegistry
    from pallet.config import Config
    from pallet.engine.container import Container
    from pallet.spec.engine.build import BuildCacheRecord
    from pallet.storage.snapshot import Snapshotter

logger = logging.getLogger(__name__)


def prepare_roots(data: DataPaths, run: ExecPaths) -> None:
    """Make the directories and check the layout's version.

    Raises:
        SystemFailureError: the data root is of a later version of Pallet.
    """
    for directory in (data.root, data.containers, data.volumes, run.root, run.shims):
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    stubs.make_stubs(os.fspath(data.snapshots / stubs.NAME))
    try:
        found = int(data.version_file.read_text().strip())
    except (FileNotFoundError, ValueError):
        data.version_file.write_text(f"{LAYOUT_VERSION}\n")
        return
    if found > LAYOUT_VERSION:
        msg = (f"{data.root} was written by a later version of Pallet (layout {found}, this one knows "
               f"{LAYOUT_VERSION}); upgrade Pallet or choose another --data-root")
        raise SystemFailureError(msg)


def daemon_id(data: DataPaths) -> str:
    """The daemon's stable id, made at its first start."""
    path = data.root / "engine-id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        parts = secrets.token_hex(16)
        value = "-".join((parts[:8], parts[8:12], parts[12:16], parts[16:20], parts[20:]))
        path.write_text(value)
        return value


def _snapshotter(config: Config, data: DataPaths, metadata: Metadata) -> Snapshotter:
    if config.storage_driver == "vfs":
        return NativeSnapshotter(data, metadata)
    if config.storage_driver != "erofs":
        return OverlaySnapshotter(data, metadata)
    snapshotter = erofs_snapshotter(data, metadata)
    if failure := erofs.supported(str(data.snapshots)):
        snapshotter.close()
        message = f"error initializing graphdriver: driver not supported: erofs: {failure}"
        raise UnavailableError(message)
    return snapshotter


class Daemon:
    """All parts of one daemon."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.data = DataPaths(config.data_root)
        self.run = ExecPaths(config.exec_root)
        prepare_roots(self.data, self.run)
        self.host = hostinfo.collect()
        self.events = EventBus()
        self.tasks = Tasks()
        self.supervisor = Supervisor()
        self.metadata = Metadata(self.data.database)
        self.index = ContainerIndex()
        self.store = ContainerStore(self.index, self.metadata, self.events)
        self.content = ContentStore(self.data)
        self.snapshotter = _snapshotter(config, self.data, self.metadata)
        self.images = ImageStore(self.content, self.snapshotter, self.metadata, users=self._image_users)
        self.network = NetworkController(config.bridge, store=self.metadata, netns=self.supervisor)
        self._wire()

    def _wire(self) -> None:
        """Make the engine's parts; each gets only what it uses."""
        config, store = self.config, self.store
        joins = Joins(self.index)
        self.files = files = ContainerFiles(self.data, config, joins, self.index, self.tasks)
        seccomp_cache = SeccompCache(self.data.seccomp, daemon_profile=_profile_text(config))
        self.filters = filters = SeccompFilters(seccomp_cache, self.run.root / "seccomp")
        self.volumes = Volumes(self.data, self.metadata, self.index, self.events)
        mounts = MountPlanner(volumes=self.volumes, index=self.index, snapshotter=self.snapshotter,
                              supervisor=self.supervisor)
        self.devices = deferred(self._device_registry)
        facts = HostFacts(recursive_read_only=hostinfo.kernel_at_least(self.host.kernel, (5, 12)),
                          has_mqueue=os.path.isdir("/dev/mqueue"))
        starter = Starter(
            config=config, exec_paths=self.run, facts=facts, store=store, snapshotter=self.snapshotter,
            network=self.network, supervisor=self.supervisor, files=files, joins=joins, filters=filters,
            cdi=self.devices)
        execs = ExecInstances(config=config, exec_paths=self.run, store=store, supervisor=self.supervisor,
                              filters=filters, tasks=self.tasks)
        self.stopper = Stopper(store, starter)
        remover = Remover(store=store, snapshotter=self.snapshotter, files=files, mounts=mounts,
                          stopper=self.stopper, execs=execs)
        watcher = ExitWatcher(
            store=store, network=self.network, starter=starter, tasks=self.tasks,
            health=HealthMonitors(execs=execs, store=store, tasks=self.tasks), remove=remover.remove_after_exit)
        starter.on_start = watcher.watch
        creator = Creator(
            config=config, cgroup_v2=self.host.cgroup_v2, index=self.index, store=store, images=self.images,
            defaults=ImageDefaults(), snapshotter=self.snapshotter, files=files, mounts=mounts)
        logs = LogReader(files)
        containers = Containers(
            store=store, images=self.images, snapshotter=self.snapshotter, files=files, network=self.network,
            creator=creator, starter=starter, stopper=self.stopper, remover=remover,
            attacher=Attacher(store, logs, self.tasks), logs=logs, tasks=self.tasks)
        image_api = Images(config=config, content=self.content, snapshotter=self.snapshotter, images=self.images,
                           supervisor=self.supervisor, events=self.events)
        self._image_api = image_api
        self._wire_builder(image_api, StepRunner(
            config=config, exec_paths=self.run, facts=facts, snapshotter=self.snapshotter, network=self.network,
            supervisor=self.supervisor, files=files, joins=joins, filters=filters, cdi=self.devices))
        self.restorer = Restorer(
            exec_paths=self.run, store=store, metadata=self.metadata, supervisor=self.supervisor,
            network=self.network, snapshotter=self.snapshotter, files=files, watcher=watcher, starter=starter,
            remover=remover)
        system = System(
            config=config, daemon_id=daemon_id(self.data), host=self.host, index=self.index, events=self.events,
            images=self.images, snapshotter=self.snapshotter, containers=containers, image_api=image_api,
            volumes=self.volumes, cdi=self.devices, warnings=self._warnings)
        self._starter = starter
        system.build_cache = self._build_cache
        self.backends = Backends(
            trees=self._trees(), container_archives=self._archives(), containers=containers, execs=execs,
            images=image_api, system=system, networks=Networks(self.network, self.events),
            volumes=self.volumes, registries=image_api, disk=self._disk(image_api), build=self.build,
            buildkit=self._buildkit,
            prunes=Pruner(index=self.index, remover=remover, images=self.images, image_api=image_api,
                          snapshotter=self.snapshotter, events=self.events),
            archives=ImageArchives(images=self.images, supervisor=self.supervisor, layers=image_api.layers,
                                   events=self.events),
            imports=ImageImports(images=self.images, supervisor=self.supervisor, events=self.events))

    def _device_registry(self) -> DeviceRegistry:
        from pallet.cdi.registry import DeviceRegistry  # with the first that asks for a device

        return DeviceRegistry(self.config.cdi_directories)

    def _wire_builder(self, image_api: Images, runner: StepRunner) -> None:
        """The builder and its doors: made, with their imports, by the first build."""
        def parts() -> SolverParts:
            from pallet.build.assembly import assemble

            return assemble(self.data.build, metadata=self.metadata, images=self.images, puller=image_api.puller,
                            registries=image_api.artifacts, workers=self.supervisor, runner=runner,
                            devices=self.devices)

        def doors() -> BuildDoors:
            from pallet.daemon.builder import make_builder

            return make_builder(data=self.data, parts=self.solving, images=self.images, image_api=image_api,
                                supervisor=self.supervisor, events=self.events, config=self.config.builder,
                                front_ends=FrontEnds(lambda: self._buildkit))

        def backend() -> BuildKitBuilder:
            from pallet.build.buildkit import BuildKitBuilder

            return BuildKitBuilder(self.build.builder, self.solving.keeper, self.images)

        self.images.keep = partial(kept_layers, self.metadata)
        self.solving = deferred(parts)
        self.build = deferred(doors)
        self._buildkit = make_door(deferred(backend), worker_id=daemon_id(self.data),
                                   host_gateway=self.network.gateway, version=COMPATIBLE_VERSION,
                                   workers=self.supervisor, builder=self.config.builder, root=str(self.data.root),
                                   registry=self.devices)

    def _build_cache(self) -> Sequence[BuildCacheRecord]:
        from pallet.build import cacheview

        return cacheview.records(self.solving.keeper)

    def _disk(self, image_api: Images) -> Disk:
        """What looks after the data root: budget, integrity, exploring."""
        self._budget = DiskBudget(self.config.disk_budget_bytes, images=self.images, index=self.index,
                                  events=self.events)
        self._budget.cache = deferred(lambda: self.solving.keeper)
        self._explorer = Explorer(images=self.images, paths=self.data, workers=self.supervisor)
        disk = Disk(
            images=self.images, budget=self._budget, explorer=self._explorer, events=self.events,
            integrity=Integrity(images=self.images, metadata=self.metadata, paths=self.data, workers=self.supervisor,
                                fetcher=image_api.blobs, index=self.index, events=self.events))
        image_api.facts = disk.facts
        return disk

    def _archives(self) -> ContainerArchives:
        """Single files in and out of containers."""
        return ContainerArchives(store=self.store, files=self.files, snapshotter=self.snapshotter,
                                 supervisor=self.supervisor)

    def _trees(self) -> ContainerTrees:
        """Containers' files: export, changes, commits."""
        trees = ContainerTrees(index=self.index, snapshotter=self.snapshotter, supervisor=self.supervisor)
        trees.commits = Commits(
            config=self.config, store=self.store, images=self.images, supervisor=self.supervisor, trees=trees,
            events=self.events)
        return trees

    def _image_users(self, image_id: str) -> Iterable[ImageUser]:
        return [ImageUser(container_id=c.id, running=is_running(c.status))
                for c in self.index.of_image(image_id)]

    def _warnings(self) -> list[str]:
        found = list(self.network.warnings)
        if not self.host.swap_limit:
            found.append("WARNING: No swap limit support")
        if not self.host.ipv4_forwarding:
            found.append("WARNING: IPv4 forwarding is disabled")
        return found

    async def start(self) -> None:
        """Start the zygote, take over what runs, sweep what is left, start what wants to run.

        Raises:
            PalletError: the daemon cannot work with these settings on this host.
        """
        await self.supervisor.start()
        sweep_ahead(self.config.cgroup_parent or "/pallet", driver=self.config.cgroup_driver)
        self.content.sweep()
        self.snapshotter.sweep()
        await run_blocking(self.images.collect)
        await repair(self.images, self.supervisor)
        self.volumes.store.sweep()
        wanted = await self.restorer.restore()
        await run_blocking(self._explorer.sweep)
        self.tasks.spawn(self._budget.run(), "disk budget")
        self.tasks.spawn(self._warm_up(), "warm-up")
        if self.data.build.is_dir():
            # There have been builds: what the last of them left is swept, away from the start.
            self.tasks.spawn(self._wake_builder(), "builder")
        self.tasks.spawn(self._start_wanted(wanted), "starts after the daemon's own")

    async def _warm_up(self) -> None:
        """Compile the default seccomp filter before the first container asks for it."""
        from pallet.engine.security import SecurityOptions

        await self.filters.select(SecurityOptions(), default_capabilities(), privileged=False)

    async def _wake_builder(self) -> None:
        await run_blocking(lambda: self.build.builder)
        self.build.builder.collect_soon()

    async def _start_wanted(self, wanted: list[Container]) -> None:
        """Start what the restart policies want; those that join another's namespaces come last."""
        def joins(container: Container) -> bool:
            host = container.host_config
            return any(mode.startswith("container:") for mode in (host.network_mode, host.pid_mode, host.ipc_mode))

        for group in ([c for c in wanted if not joins(c)], [c for c in wanted if joins(c)]):
            await asyncio.gather(*(self._start_again(container) for container in group))

    async def _start_again(self, container: Container) -> None:
        async with container.lock:
            try:
                await self._starter.start(container)
            except PalletError as error:
                logger.warning("start of %s after the daemon's start failed: %s", container.id, error)

    async def end_steps(self) -> None:
        """End the steps of builds, which makes their builds fail; no step begins any more."""
        if (doors := made(self.build)) is not None:
            await doors.builder.end_steps()
        if (parts := made(self.solving)) is not None:
            await parts.solver.close()

    async def close(self) -> None:
        """Let go of everything; containers go on running under live-restore, else they are stopped."""
        if (doors := made(self.build)) is not None:
            await doors.builder.close()
        await self.end_steps()
        if not self.config.live_restore:
            running = [c for c in self.index if is_running(c.status)]
            await asyncio.gather(*(self._end(c) for c in running), return_exceptions=True)
        await self.tasks.close()
        self.store.flush()
        await self.files.flush()
        await self._image_api.close()
        keep = any(is_running(c.status) for c in self.index)
        await self.network.close(keep=keep)
        if not keep:
            await self.supervisor.settle()
            await run_blocking(remove_parent, self.config.cgroup_parent or "/pallet",
                               driver=self.config.cgroup_driver)
        await self.supervisor.close()
        await run_blocking(self.snapshotter.close)
        await run_blocking(self.metadata.close)

    async def _end(self, container: Container) -> None:
        timeout_s = stop_timeout_s(container, self.config.shutdown_timeout_s)
        await self.stopper.end(container, stop_signal(container), timeout_s)
        if container.status is Status.EXITED:  # not removed in the meantime: its record must not come back
            container.stopped_by_hand = False  # the daemon's end is nobody's wish to keep it down
            self.store.save(container)


def _profile_text(config: Config) -> str | None:
    """The daemon's own seccomp profile: None is Docker's default.

    Raises:
        SystemFailureError: the file cannot be read.
    """
    name = config.seccomp_profile
    if name in {None, "", "builtin", "unconfined"}:
        return name or None
    try:
        with open(os.fspath(name or ""), encoding="utf-8") as handle:
            return handle.read()
    except OSError as error:
        msg = f"opening seccomp profile ({name}) failed: {error.strerror}"
        raise SystemFailureError(msg) from error
