"""Stop, kill and restart.

Engine API ContainerStop, ContainerKill, ContainerRestart; semantics rows "stop", "kill".
"""

from __future__ import annotations

import asyncio
import signal as signals
from typing import TYPE_CHECKING

from pallet.engine.exits import give_up_restart
from pallet.engine.start import check_startable
from pallet.engine.status import Status, is_running
from pallet.errors import ConflictError, NotModifiedError, SystemFailureError
from pallet.spec.engine.wire import given
from pallet.spec.signals import signal_number

if TYPE_CHECKING:
    from pallet.engine.container import Container
    from pallet.engine.start import Starter
    from pallet.engine.store import ContainerStore

_DEFAULT_TIMEOUT_S = 10
_KILL_TIMEOUT_S = 10.0


def stop_signal(container: Container) -> int:
    """The signal that asks the container to end."""
    return signal_number(given(container.config.stop_signal) or "SIGTERM")


def stop_timeout_s(container: Container, default_s: int) -> int:
    """Seconds that the container is given to end after that signal; -1 is for ever."""
    own = given(container.config.stop_timeout)
    return default_s if own is None else own


class Stopper:
    """Ends containers."""

    def __init__(self, store: ContainerStore, starter: Starter) -> None:
        self._store = store
        self._starter = starter

    async def stop(self, container: Container, *, signal: str | None, timeout_s: int | None) -> None:
        """See ``api.backends.ContainerBackend.stop``."""
        number = signal_number(signal) if signal else stop_signal(container)
        if not is_running(container.status):
            msg = f"container {container.id} is already stopped"
            raise NotModifiedError(msg)
        await self.end(container, number, stop_timeout_s(container, _DEFAULT_TIMEOUT_S)
                       if timeout_s is None else timeout_s)
        self._store.emit(container, "stop")

    async def end(self, container: Container, number: int, timeout_s: int) -> None:
        """Make the container not run: signal, wait, SIGKILL; no restart afterwards.

        Args:
            timeout_s: -1 waits for ever, 0 kills at once after the signal.
        """
        container.stopped_by_hand = True
        async with container.lock:
            give_up_restart(container, self._store)
            if not is_running(container.status):
                return
            self._store.save(container)
            self._signal(container, number)
        if await _ended(container, None if timeout_s < 0 else float(timeout_s)):
            return
        self._signal(container, int(signals.SIGKILL))
        if not await _ended(container, _KILL_TIMEOUT_S):
            msg = f"tried to kill container {container.id}, but did not receive an exit event"
            raise SystemFailureError(msg)

    def _signal(self, container: Container, number: int) -> None:
        if container.shim is not None and container.shim.kill(number):
            self._store.emit(container, "kill", signal=str(number))

    async def kill(self, container: Container, *, signal: str) -> None:
        """See ``api.backends.ContainerBackend.kill``."""
        number = signal_number(signal) if signal else int(signals.SIGKILL)
        async with container.lock:
            if not is_running(container.status):
                msg = f"cannot kill container: {container.name}: container {container.id} is not running"
                raise ConflictError(msg)
            if number in {int(signals.SIGKILL), stop_signal(container)}:
                container.stopped_by_hand = True
                self._store.save(container)
                give_up_restart(container, self._store)
            self._signal(container, number)
        if number == signals.SIGKILL and not await _ended(container, _KILL_TIMEOUT_S):
            msg = f"tried to kill container {container.id}, but did not receive an exit event"
            raise SystemFailureError(msg)

    async def restart(self, container: Container, *, signal: str | None, timeout_s: int | None) -> None:
        """See ``api.backends.ContainerBackend.restart``."""
        container.keep_once = True
        try:
            if is_running(container.status):
                await self.stop(container, signal=signal, timeout_s=timeout_s)
            async with container.lock:
                if container.status is Status.RUNNING:
                    return  # another restart at the same time has done it
                check_startable(container)
                container.stopped_by_hand = False
                container.restart_count = 0
                container.restart_delay_s = 0.0
                await self._starter.start(container)
        finally:
            container.keep_once = False
        self._store.emit(container, "restart")


async def _ended(container: Container, timeout_s: float | None) -> bool:
    """Wait for the end of the process; False when time ran out."""
    if container.status not in {Status.RUNNING, Status.PAUSED}:
        return True
    try:
        async with asyncio.timeout(timeout_s):
            await container.ended.wait()
    except TimeoutError:
        return False
    return True
