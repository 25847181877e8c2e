"""What happens when a container's process ends: state, events, waiters, restart or removal.

Semantics rows "event order", "restart policy", "--rm race", "restart waits".
"""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from typing import TYPE_CHECKING

from pallet.engine.container import Container, Waiters, at_rest
from pallet.engine.restart import RestartPolicy, next_delay_s
from pallet.engine.status import Change, Status, advance
from pallet.errors import PalletError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pallet.engine.health import HealthMonitors
    from pallet.engine.start import Starter
    from pallet.engine.store import ContainerStore
    from pallet.engine.tasks import Tasks
    from pallet.network.controller import NetworkController
    from pallet.supervisor.shims import Exit, Shim

logger = logging.getLogger(__name__)


class ExitWatcher:
    """Follows running containers to their end."""

    def __init__(
        self, *, store: ContainerStore, network: NetworkController, starter: Starter, tasks: Tasks,
        health: HealthMonitors, remove: Callable[[Container], Awaitable[None]],
    ) -> None:
        self._store = store
        self._network = network
        self._starter = starter
        self._tasks = tasks
        self._health = health
        self._remove = remove

    def watch(self, container: Container, shim: Shim) -> None:
        """Take over a container that has just been started, or was found running."""
        self._tasks.spawn(self._follow(container, shim), f"exit of {container.id[:12]}")
        self._health.start(container)

    async def _follow(self, container: Container, shim: Shim) -> None:
        end = await asyncio.shield(shim.exited)
        async with container.lock:
            # A few unlinks on tmpfs, before a new start can use the directory: it saves the record.
            delay_s = await self.finish(container, end, then=partial(_clean, shim.shim_dir))
            remove = container.host_config.auto_remove and not container.keep_once
        if delay_s is not None:
            await self._restart_later(container, delay_s)
        elif remove:
            try:
                await self._remove(container)
            except PalletError as error:
                logger.warning("automatic removal of %s failed: %s", container.id, error)

    async def finish(self, container: Container, end: Exit, *, may_restart: bool = True,
                     then: Callable[[], None] | None = None) -> float | None:
        """Record the end and tell everyone; return the delay of the restart, None for none.

        Preconditions: ``container.lock`` is held.

        Args:
            then: called once the record is on disk.
        """
        self._health.stop(container)
        container.shim = None
        container.pid = 0
        container.exit_code = end.exit_code
        container.oom_killed = end.oom_killed
        container.error = end.error
        container.finished_at_ns = end.finished_at_ns
        ran_s = max(0.0, (end.finished_at_ns - container.started_at_ns) / 1e9)
        delay_s = self._restart_delay(container, ran_s) if may_restart else None
        try:
            await self._network.release(container.id)
        except (PalletError, OSError):
            logger.exception("network of %s is not released", container.id)
        change = Change.EXIT if delay_s is None else Change.EXIT_RESTART
        container.status = advance(container.status, change)
        if end.oom_killed:
            self._store.emit(container, "oom")
        self._store.emit(container, "die", exitCode=str(end.exit_code), execDuration=str(int(ran_s)))
        self._store.emit_network(container, "disconnect")
        self._store.emit_volumes(container, "unmount")
        container.endpoint = at_rest(container.endpoint)
        self._store.note_soon(container, then)
        container.ended.set()
        Waiters.resolve(container.waiters.next_exit, container.result())
        if delay_s is None:
            Waiters.resolve(container.waiters.not_running, container.result())
        return delay_s

    def _restart_delay(self, container: Container, ran_s: float) -> float | None:
        wanted = container.host_config.restart_policy
        policy = RestartPolicy(name=wanted.name, maximum_retry_count=wanted.maximum_retry_count)
        delay_s = next_delay_s(
            policy, exit_code=container.exit_code, ran_s=ran_s, restart_count=container.restart_count,
            last_delay_s=container.restart_delay_s, stopped_by_hand=container.stopped_by_hand)
        container.restart_delay_s = delay_s or 0.0
        return delay_s

    async def _restart_later(self, container: Container, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await container.restart_cancelled.wait()
                return  # whoever cancelled has set the status
        except TimeoutError:
            pass
        async with container.lock:
            if container.status is not Status.RESTARTING:
                return
            container.restart_count += 1
            try:
                await self._starter.start(container)
            except PalletError as error:
                logger.warning("restart of %s failed: %s", container.id, error)
                Waiters.resolve(container.waiters.not_running, container.result())


def give_up_restart(container: Container, store: ContainerStore) -> None:
    """End the waiting for a restart; nothing when none is waited for.

    Preconditions: ``container.lock`` is held.
    """
    if container.status is not Status.RESTARTING:
        return
    container.restart_cancelled.set()
    container.status = advance(container.status, Change.GIVE_UP_RESTART)
    store.save(container)
    Waiters.resolve(container.waiters.not_running, container.result())


def _clean(shim_dir: str) -> None:
    """Remove what an ended shim left in its run directory."""
    try:
        for name in os.listdir(shim_dir):
            path = f"{shim_dir}/{name}"
            os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
        os.rmdir(shim_dir)
    except OSError as error:
        logger.debug("clean-up of %s: %s", shim_dir, error)
