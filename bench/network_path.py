"""Time the network side of a start: sandboxes from the pool, published ports, refilling.

Run as root: ``.venv/bin/python bench/network_path.py [-n N]``. Everything happens in a network
namespace of its own, with a real zygote.
"""

from __future__ import annotations

# ruff: noqa: SLF001 - it looks behind the public interface on purpose
import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / part) for part in ("src", ".")]

from pallet.config import BridgeConfig  # noqa: E402
from pallet.network.controller import NetworkController  # noqa: E402
from pallet.supervisor.client import Supervisor  # noqa: E402
from tests.root.netlab import Store, request  # noqa: E402
from tests.support.isolation import CLONE_NEWNET, CLONE_NEWNS, run_isolated  # noqa: E402


def _line(name: str, values: list[float]) -> str:
    values = sorted(values)
    return (f"{name:<28} median {statistics.median(values):8.3f} ms   "
            f"min {values[0]:8.3f}   p90 {values[int(len(values) * 0.9)]:8.3f}")


async def _measure(count: int) -> list[str]:
    supervisor = Supervisor()
    await supervisor.start()
    controller = NetworkController(
        BridgeConfig(sandbox_pool=count), store=Store(), netns=supervisor)
    began = time.perf_counter()
    await controller.start({})
    lines = [f"start of the controller      {1000 * (time.perf_counter() - began):8.3f} ms"]
    pool = controller._bridge._pool
    for name, ports in (("connect", 0), ("connect, 1 port", 1), ("connect, 4 ports", 4)):
        while len(pool) < count:  # noqa: ASYNC110 - measured code has no event for it
            await asyncio.sleep(0.01)
        connects, releases, sandboxes = [], [], []
        wanted = [request(f"c{n}", *[f"{20000 + n * ports + at}:{80 + at}" for at in range(ports)])
                  for n in range(count)]
        for n, one in enumerate(wanted):
            began = time.perf_counter()
            sandboxes.append(await controller.connect(f"c{n}", one))
            connects.append(1000 * (time.perf_counter() - began))
        for sandbox in sandboxes:
            sandbox.close()
        for n in range(count):
            began = time.perf_counter()
            await controller.release(f"c{n}")
            releases.append(1000 * (time.perf_counter() - began))
        lines += [_line(name, connects), _line(name.replace("connect", "release"), releases)]
    pool.drop_all()
    await asyncio.sleep(0.5)
    for size in (1, 4):
        cold = []
        for _ in range(max(1, count // size)):
            wirings = [pool._wire() for _ in range(size)]
            began = time.perf_counter()
            made = await pool.make(wirings)
            cold.append(1000 * (time.perf_counter() - began) / size)
            pool._ready += made
        lines.append(_line(f"a sandbox, {size} at a time", cold))
    await controller.close(keep=False)
    await supervisor.close()
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=20, help="sandboxes a figure")
    count = parser.parse_args().n
    for line in run_isolated(lambda: asyncio.run(_measure(count)), CLONE_NEWNS | CLONE_NEWNET):
        print(line)


if __name__ == "__main__":
    main()
