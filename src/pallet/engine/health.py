"""Health checks: probes run as execs, the last five results, the status.

Engine API HealthConfig, Health; semantics row "health".
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.engine.probe import run_probe
from pallet.errors import PalletError
from pallet.spec.engine.container import Health, HealthcheckResult
from pallet.spec.engine.wire import given, rfc3339_nano

if TYPE_CHECKING:
    from pallet.engine.container import Container
    from pallet.engine.exec import ExecInstances
    from pallet.engine.store import ContainerStore
    from pallet.engine.tasks import Tasks
    from pallet.spec.engine.config import HealthConfig

_RESULTS = 5
_DEFAULT_INTERVAL_S = 30.0
_DEFAULT_TIMEOUT_S = 30.0
_DEFAULT_START_INTERVAL_S = 5.0
_DEFAULT_RETRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A health check with its defaults filled in; times in seconds."""

    command: tuple[str, ...]
    interval_s: float
    timeout_s: float
    start_period_s: float
    start_interval_s: float
    retries: int


def plan(health: HealthConfig | None, shell: list[str] | None) -> Plan | None:
    """The probe to run; None for no check (also ``NONE``)."""
    test = given(health.test) if health is not None else None
    if health is None or not test or test[0] == "NONE":
        return None
    if test[0] == "CMD-SHELL":
        command = (*(shell or ["/bin/sh", "-c"]), *test[1:2])
    else:
        command = tuple(test[1:] if test[0] == "CMD" else test)

    def seconds(value_ns: int | None, default_s: float) -> float:
        return value_ns / 1e9 if value_ns else default_s

    return Plan(
        command=command, interval_s=seconds(given(health.interval), _DEFAULT_INTERVAL_S),
        timeout_s=seconds(given(health.timeout), _DEFAULT_TIMEOUT_S),
        start_period_s=seconds(given(health.start_period), 0.0),
        start_interval_s=seconds(given(health.start_interval), _DEFAULT_START_INTERVAL_S),
        retries=given(health.retries) or _DEFAULT_RETRIES)


class HealthMonitor:
    """Health of one running container."""

    def __init__(self, checks: Plan) -> None:
        self.plan = checks
        self.status = "starting"
        self.failing_streak = 0
        self._results: deque[HealthcheckResult] = deque(maxlen=_RESULTS)
        self.task: asyncio.Task[None] | None = None

    def summary(self) -> str:
        """What ``ps`` adds to ``Up 5 minutes``."""
        return " (health: starting)" if self.status == "starting" else f" ({self.status})"

    def document(self) -> Health:
        """``State.Health``."""
        return Health(status=self.status, failing_streak=self.failing_streak, log=list(self._results))

    def record(self, result: HealthcheckResult, *, in_start_period: bool) -> bool:
        """Take one probe's result into account; return whether the status changed.

        Failures in the start period do not count until the first success.
        """
        self._results.append(result)
        before = self.status
        if result.exit_code == 0:
            self.failing_streak = 0
            self.status = "healthy"
        elif self.status != "starting" or not in_start_period:
            self.failing_streak += 1
            if self.failing_streak >= self.plan.retries:
                self.status = "unhealthy"
        return self.status != before


class HealthMonitors:
    """Runs the monitors of all containers."""

    def __init__(self, *, execs: ExecInstances, store: ContainerStore, tasks: Tasks) -> None:
        self._execs = execs
        self._store = store
        self._tasks = tasks

    def start(self, container: Container) -> None:
        """Begin probing a container that has just been started, if it wants that."""
        checks = plan(given(container.config.healthcheck), given(container.config.shell))
        if checks is None:
            container.health = None
            return
        monitor = container.health = HealthMonitor(checks)
        monitor.task = self._tasks.spawn(self._probe_forever(container, monitor), f"health of {container.id[:12]}")

    def stop(self, container: Container) -> None:
        """End probing; what does not run is unhealthy in Docker, whatever it was."""
        if container.health is not None and container.health.task is not None:
            container.health.task.cancel()
            container.health.task = None
            container.health.status = "unhealthy"

    async def _probe_forever(self, container: Container, monitor: HealthMonitor) -> None:
        began = time.monotonic()
        while True:
            starting = monitor.status == "starting" and time.monotonic() - began < monitor.plan.start_period_s
            await asyncio.sleep(monitor.plan.start_interval_s if starting else monitor.plan.interval_s)
            started_at_ns = time.time_ns()
            try:
                code, output = await run_probe(self._execs, container, monitor.plan.command, monitor.plan.timeout_s)
            except (PalletError, OSError) as error:
                code, output = -1, str(error)
            result = HealthcheckResult(start=rfc3339_nano(started_at_ns), end=rfc3339_nano(time.time_ns()),
                                       exit_code=code, output=output)
            in_start_period = time.monotonic() - began < monitor.plan.start_period_s
            if monitor.record(result, in_start_period=in_start_period):
                self._store.emit(container, f"health_status: {monitor.status}")
