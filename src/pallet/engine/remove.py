"""Removing containers: nothing of them stays.

The record goes first: what a killed daemon leaves after that has no owner and is swept by the next
one. Engine API ContainerDelete; semantics rows "start/stop replies", "--rm race".
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from pallet.engine.container import Container, ExitResult, Waiters
from pallet.engine.status import Change, Status, advance, is_running
from pallet.errors import ConflictError, PalletError

if TYPE_CHECKING:
    from pallet.engine.exec import ExecInstances
    from pallet.engine.files import ContainerFiles
    from pallet.engine.mountplan import MountPlanner
    from pallet.engine.stop import Stopper
    from pallet.engine.store import ContainerStore
    from pallet.storage.snapshot import Snapshotter


class Remover:
    """Removes containers."""

    def __init__(
        self, *, store: ContainerStore, snapshotter: Snapshotter, files: ContainerFiles,
        mounts: MountPlanner, stopper: Stopper, execs: ExecInstances,
    ) -> None:
        self._store = store
        self._snapshotter = snapshotter
        self._files = files
        self._mounts = mounts
        self._stopper = stopper
        self._execs = execs

    async def remove(self, container: Container, *, force: bool, volumes: bool) -> None:
        """See ``api.backends.ContainerBackend.remove``."""
        _check_not_removing(container)
        if is_running(container.status):
            if not force:
                raise _still_running(container)
            container.keep_once = True  # the removal below is ours, also for AutoRemove
            await self._stopper.end(container, int(signal.SIGKILL), -1)
        async with container.lock:
            _check_not_removing(container)
            if is_running(container.status):
                raise _still_running(container)
            await self._remove(container, volumes=volumes)

    async def remove_after_exit(self, container: Container) -> None:
        """What AutoRemove does."""
        await self.remove(container, force=False, volumes=True)

    async def _remove(self, container: Container, *, volumes: bool) -> None:
        container.status = advance(container.status, Change.REMOVE)
        for attach in container.pending:
            attach.finish("eof")
        container.pending.clear()
        try:
            if volumes and any(mount.anonymous for mount in container.mounts):
                container.hidden = True
                self._store.save(container)
                await self._mounts.remove_anonymous(container)
            self._store.delete(container)
            self._snapshotter.remove(container.id)
            self._files.remove_later(container.id)
        except (PalletError, OSError):
            container.status = advance(container.status, Change.REMOVE_FAILED)
            container.hidden = False  # ``ps -a`` shows it as dead, and rm can be tried again
            self._store.note(container)
            raise
        container.removed = True
        self._execs.forget(container)
        self._store.emit(container, "destroy")
        result = container.result()
        # The error of a failed start is the start's to report; here it would be the removal's.
        Waiters.resolve(container.waiters.removed, ExitResult(container.exit_code))
        Waiters.resolve(container.waiters.not_running, result)
        Waiters.resolve(container.waiters.next_exit, result)


def _check_not_removing(container: Container) -> None:
    if container.status is Status.REMOVING or container.removed:
        msg = f"removal of container {container.name} is already in progress"
        raise ConflictError(msg)


def _still_running(container: Container) -> ConflictError:
    if container.status is Status.PAUSED:
        why = "container is paused and must be unpaused first"
    elif container.status is Status.RESTARTING:
        why = "container is restarting: stop the container before removing or force remove"
    else:
        why = "container is running: stop the container before removing or force remove"
    return ConflictError(f'cannot remove container "/{container.name}": {why}')
