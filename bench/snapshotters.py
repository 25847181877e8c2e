"""The snapshotters side by side: directories under overlay, and EROFS images.

Run as root: ``.venv/bin/python bench/snapshotters.py [--share 1.0] [--rounds 3]``. One daemon a driver,
in turn on the same generated image (``pull_figures.large_image``) with busybox in it, from a registry
on loopback; prints a table of medians. Reads are made in a container: every file once, in the order
of names. "Cold" is with the kernel's caches dropped.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / part) for part in ("src", ".")]

from bench.engines import drop_caches  # noqa: E402
from bench.pull_figures import FILES, LAYERS, TOTAL_BYTES, Growth, large_layer  # noqa: E402
from tests.support.daemon import Palletd  # noqa: E402
from tests.support.registry import DebianRegistry, build_image  # noqa: E402
from tests.support.scratch import busybox_tar  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.dockercli import DockerCli

DRIVERS = ("overlay2", "erofs")
_READ = "cat $(find /layer* -type f) >/dev/null"


class Table:
    """Samples by row and driver."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, list[float]]] = {}

    def add(self, row: str, driver: str, value: float) -> None:
        """Note one measurement."""
        self._rows.setdefault(row, {}).setdefault(driver, []).append(value)

    def text(self) -> str:
        """Markdown: medians, and how many times the second is of the first."""
        lines = ["| figure | overlay2 | erofs | ratio |", "| --- | --- | --- | --- |"]
        for name, found in self._rows.items():
            first, second = (statistics.median(found[driver]) for driver in DRIVERS)
            lines.append(f"| {name} | {first:.3g} | {second:.3g} | {second / first:.2f} |")
        return "\n".join(lines)


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _used_mb(path: Path) -> float:
    done = subprocess.run(["du", "-sk", str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0]) / 1000


def _cached_mb() -> float:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("Cached:"):
            return int(line.split()[1]) / 1000
    raise LookupError


def _start_ms(cli: DockerCli, reference: str, count: int) -> float:
    return statistics.median(
        _timed(lambda: cli.ok("run", "--rm", "--network", "none", reference, "true"))
        for _ in range(count)) * 1000


def _inside(cli: DockerCli, reference: str, script: str) -> float:
    """Seconds of a script in a fresh container, less the start of one."""
    name = cli.ok("run", "-d", "--network", "none", reference, "sleep", "600")
    try:
        return _timed(lambda: cli.ok("exec", name, "sh", "-c", script, timeout_s=300))
    finally:
        cli.ok("rm", "-f", name)


def measure(daemon: Palletd, driver: str, reference: str, table: Table) -> None:
    """One round on one driver."""
    cli = daemon.cli()
    drop_caches()
    assert daemon.process
    growth = Growth(daemon.process.pid)
    try:
        took = _timed(lambda: cli.ok("pull", "-q", reference, timeout_s=600))
    finally:
        memory = growth.finish()
    table.add("pull, s", driver, took)
    table.add("memory growth of a pull, MB", driver, memory)
    subprocess.run(["sync"], check=True)
    table.add("disk of layers, MB", driver, _used_mb(daemon.data_root / "snapshots"))
    table.add("first run after the pull, ms", driver, _start_ms(cli, reference, 1))
    table.add("run --rm true, warm, ms", driver, _start_ms(cli, reference, 20))
    drop_caches()
    table.add("run --rm true, cold, ms", driver, _start_ms(cli, reference, 1))
    drop_caches()
    before = _cached_mb()
    table.add("read every file, cold, s", driver, _inside(cli, reference, _READ))
    table.add("file cache after it, MB", driver, _cached_mb() - before)
    table.add("read every file, warm, s", driver, _inside(cli, reference, _READ))
    before = _cached_mb()
    _inside(cli, reference, _READ)
    table.add("file cache of one more container, MB", driver, max(_cached_mb() - before, 1.0))
    drop_caches()
    table.add("find, cold, s", driver, _inside(cli, reference, "find / -xdev >/dev/null"))
    table.add("find -size, warm, s", driver,
              _inside(cli, reference, "find / -xdev -size +1 >/dev/null"))
    table.add("chown of 5,000 files (copy-up), s", driver,
              _inside(cli, reference, "chown -R 1:1 /layer*/d000*"))
    drop_caches()
    table.add("rmi, s", driver, _timed(lambda: cli.ok("rmi", reference)))

    def gone() -> None:
        while any((daemon.data_root / "snapshots" / "trash").iterdir()):
            time.sleep(0.02)

    table.add("until its files are deleted, s", driver, _timed(gone))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    files, size = (int(total * options.share / LAYERS) for total in (FILES, TOTAL_BYTES))
    table = Table()
    with tempfile.TemporaryDirectory(prefix="t-bench-") as scratch, DebianRegistry(
            Path(scratch) / "registry") as registry:
        layers = [busybox_tar(), *(large_layer(n, files, size) for n in range(LAYERS))]
        reference = registry.push("bench/large", "v1", build_image(layers, Cmd=["true"]))
        del layers
        daemons = {driver: Palletd(flags=["--storage-driver", driver, "--log-level", "warn"])
                   for driver in DRIVERS}
        try:
            for daemon in daemons.values():
                daemon.start()
            for number in range(options.rounds + 1):
                for driver, daemon in daemons.items():
                    # The first round warms the registry's files and each daemon's code.
                    measure(daemon, driver, reference, table if number else Table())
        finally:
            for daemon in reversed(daemons.values()):
                daemon.remove()
    print(table.text())


if __name__ == "__main__":
    main()
