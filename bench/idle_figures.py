"""What twenty idle containers and the daemon cost in memory, and how fast a daemon is there."""

from __future__ import annotations

import statistics
import subprocess
from typing import TYPE_CHECKING

from bench.engines import children, command_line, parent, pss_mb
from bench.model import Figure
from tests.support.daemon import Dockerd, Palletd
from tests.support.probes import lacking

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

COUNT = 20


def idle_memory(engines: dict[str, Daemon]) -> list[Figure]:
    """Proportional set size of one shim, and of the daemon with its helpers."""
    shim = Figure(name=f"memory of one shim, {COUNT} idle containers", unit="MB", goal=4)
    rest = Figure(name=f"memory of the daemon's processes, {COUNT} idle containers", unit="MB",
                  goal=90)  # fmt: skip
    for name, daemon in engines.items():
        cli = daemon.cli(command_line("dockerd"))
        try:
            for number in range(COUNT):
                cli.ok("run", "-d", "--name", f"idle-{number}", "busybox", "sleep", "3600")
            names = [f"idle-{number}" for number in range(COUNT)]
            pids = [int(word) for word in cli.ok("inspect", "-f", "{{.State.Pid}}", *names).split()]
            shims = {parent(pid) for pid in pids}
            shim.add(name, statistics.mean(pss_mb(pid) for pid in shims))
            assert daemon.process
            own = {daemon.process.pid} | children(daemon.process.pid)
            rest.add(name, sum(pss_mb(pid) for pid in own - shims))
        finally:
            daemon.purge_containers()
    rest.note = "palletd and its zygote; dockerd and its containerd"
    return [shim, rest]


def daemon_start(count: int) -> list[Figure]:
    """From exec to the first answer, with an empty data root the first time."""
    figure = Figure(name="daemon start until it serves", unit="ms", goal=500)
    kinds: dict[str, type[Daemon]] = {"pallet": Palletd}
    if not lacking("dockerd"):
        kinds["dockerd"] = Dockerd
    for name, kind in kinds.items():
        daemon = kind()
        try:
            for _ in range(count):
                figure.add(name, daemon.start() * 1000)
                daemon.stop()
        except (AssertionError, subprocess.SubprocessError) as error:
            figure.note = f"{name} failed: {error}"
        finally:
            daemon.remove()
    return [figure]
