"""What a new daemon does with what an earlier one left: re-attach, record ends, finish, sweep.

Runs once, before the API listens. The records say what was meant, the shims' directories what is.

| record | shim | then |
|---|---|---|
| any | alive | running: re-attach, network kept |
| running, paused | ended meanwhile | exited with its code; restart policy or AutoRemove apply |
| running, paused | no trace (reboot) | exited, code 255 |
| created, exited | ended meanwhile | its start was under way: as running |
| created, exited | - | AutoRemove applies |
| hidden, removing | - | the removal is finished |
| unreadable | any | left alone |
| none | alive | killed: its container was being removed |
| none | - | snapshot, directory and shim directory are swept |
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from typing import TYPE_CHECKING

import msgspec

from pallet.aio import run_blocking
from pallet.engine import container as containers
from pallet.engine.restart import RestartPolicy, starts_with_daemon
from pallet.engine.status import Status
from pallet.engine.stepmounts import memory_of
from pallet.errors import PalletError
from pallet.network.model import LiveEndpoint
from pallet.supervisor.shims import Exit, Shim
from pallet.zygote import messages

if TYPE_CHECKING:
    from pallet.engine.container import Container
    from pallet.engine.exits import ExitWatcher
    from pallet.engine.files import ContainerFiles
    from pallet.engine.remove import Remover
    from pallet.engine.start import Starter
    from pallet.engine.store import ContainerStore
    from pallet.network.controller import NetworkController
    from pallet.paths import ExecPaths
    from pallet.storage.metadata import Metadata
    from pallet.storage.snapshot import Snapshotter
    from pallet.supervisor.client import Supervisor

logger = logging.getLogger(__name__)

_LOST_EXIT = 255
_RUNNING = (Status.RUNNING, Status.PAUSED, Status.RESTARTING)


class Restorer:
    """Brings the engine to where the machine is."""

    def __init__(
        self, *, exec_paths: ExecPaths, store: ContainerStore, metadata: Metadata, supervisor: Supervisor,
        network: NetworkController, snapshotter: Snapshotter, files: ContainerFiles, watcher: ExitWatcher,
        starter: Starter, remover: Remover,
    ) -> None:
        self._exec_paths = exec_paths
        self._store = store
        self._metadata = metadata
        self._supervisor = supervisor
        self._network = network
        self._snapshotter = snapshotter
        self._files = files
        self._watcher = watcher
        self._starter = starter
        self._remover = remover

    async def restore(self) -> list[Container]:
        """Do all of it; return the containers whose restart policy wants them started now."""
        known, unreadable = self._load()
        found = {c.id: await self._find(c) for c in known}
        live: dict[str, LiveEndpoint] = {c.id: LiveEndpoint(container_name=c.name, endpoint=c.endpoint) for c in known
                if isinstance(found[c.id], Shim) and c.endpoint is not None}
        await self._network.start(live)
        wanted: list[Container] = []
        for container in known:
            if container.hidden or container.status in {Status.REMOVING, Status.DEAD}:
                await self._finish_removal(container)
            elif await self._settle(container, found[container.id]):
                wanted.append(container)
        await self._sweep({c.id for c in known} | unreadable)
        return wanted

    def _load(self) -> tuple[list[Container], set[str]]:
        """Every container, and the ids of those whose record is not of this version."""
        known: list[Container] = []
        unreadable: set[str] = set()
        for container_id, name, raw in self._metadata.containers():
            try:
                container = containers.decode(raw)
            except msgspec.MsgspecError:
                logger.exception("record of container %s (%s) cannot be read; it is left alone", container_id, name)
                self._store.index.reserve_name(name, container_id)
                unreadable.add(container_id)
                continue
            self._store.index.add(container)
            known.append(container)
        return known, unreadable

    async def _find(self, container: Container) -> Shim | Exit | None:
        return await self._supervisor.reattach(os.fspath(self._exec_paths.shim(container.id)))

    async def _settle(self, container: Container, found: Shim | Exit | None) -> bool:
        """Bring one container up to date; return whether it should be started."""
        # The record of a start or an exit follows a moment after the shim's own.
        was_running = container.status in _RUNNING or (
            isinstance(found, Exit) and found.finished_at_ns != container.finished_at_ns)
        if isinstance(found, Shim):
            self._adopt(container, found)
            return False
        container.ended.set()
        if isinstance(found, Exit) or container.status in {Status.RUNNING, Status.PAUSED}:
            end = found or Exit(exit_code=_LOST_EXIT, oom_killed=False, finished_at_ns=time.time_ns())
            if isinstance(found, Exit):
                container.started_at_ns = found.started_at_ns or container.started_at_ns or end.finished_at_ns
            container.status = Status.RUNNING
            async with container.lock:
                # Without a restart: the policies of all containers are looked at together, below.
                await self._watcher.finish(container, end, may_restart=False)
            self._store.flush()
            await run_blocking(shutil.rmtree, self._exec_paths.shim(container.id), ignore_errors=True)
        elif container.status is Status.RESTARTING:
            container.status = Status.EXITED
            self._store.save(container)
        if container.host_config.auto_remove:
            await self._remove(container)
            return False
        policy = container.host_config.restart_policy
        return container.started_at_ns != 0 and starts_with_daemon(
            RestartPolicy(name=policy.name, maximum_retry_count=policy.maximum_retry_count),
            was_running=was_running, stopped_by_hand=container.stopped_by_hand,
            exit_code=container.exit_code, restart_count=container.restart_count)

    def _adopt(self, container: Container, shim: Shim) -> None:
        logger.info("container %s runs on (pid %d)", container.id[:12], shim.pid)
        container.status = Status.RUNNING
        container.shim = shim
        container.pid = shim.pid
        container.started_at_ns = shim.started_at_ns
        container.exit_code, container.error, container.oom_killed = 0, "", False
        container.ended.clear()
        self._store.save(container)
        self._watcher.watch(container, shim)

    async def _finish_removal(self, container: Container) -> None:
        container.status = Status.EXITED
        container.ended.set()
        await self._remove(container)

    async def _remove(self, container: Container) -> None:
        try:
            await self._remover.remove_after_exit(container)
        except PalletError as error:
            logger.warning("removal of %s failed: %s", container.id, error)

    async def _sweep(self, known: set[str]) -> None:
        """Drop what has no record: snapshots, directories, shims."""
        for key in self._snapshotter.keys():  # noqa: SIM118 - not a dict
            if key not in known:
                self._snapshotter.remove(key)
        for container_id in self._files.known():
            if container_id not in known:
                await run_blocking(shutil.rmtree, self._files.directory(container_id), ignore_errors=True)
        try:
            names = os.listdir(self._exec_paths.shims)
        except FileNotFoundError:
            return
        for name in names:
            if name not in known:
                await self._sweep_shim(name)

    async def _sweep_shim(self, name: str) -> None:
        """A shim without a container: an exec that goes on, or a container whose record is gone."""
        path = os.fspath(self._exec_paths.shim(name))
        found = await self._supervisor.reattach(path)
        if isinstance(found, Shim) and _is_exec(path):
            found.exited.add_done_callback(lambda _: shutil.rmtree(path, ignore_errors=True))
            return
        if isinstance(found, Shim):
            found.kill(9)
            await found.exited
        await run_blocking(shutil.rmtree, memory_of(name), ignore_errors=True)
        await run_blocking(shutil.rmtree, path, ignore_errors=True)


def _is_exec(shim_dir: str) -> bool:
    """Whether a shim's state says that the cgroup is another's: an exec in a living container."""
    try:
        with open(f"{shim_dir}/state.json", "rb") as handle:
            return not messages.state_decoder.decode(handle.read()).kill_cgroup
    except (OSError, msgspec.MsgspecError):
        return False
