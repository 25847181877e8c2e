"""Time the engine-side start path: start and exit of ``true`` through the Supervisor.

Run as root: ``.venv/bin/python bench/start_path.py [-n N] [--memory]``. What the engine adds (records,
events, network) is not in these numbers; the root is an overlay on TMPDIR's file system.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / part) for part in ("src", ".")]

from pallet.spec import runtime as oci  # noqa: E402
from tests.root.runtimelab import Lab  # noqa: E402


def _line(name: str, values: list[float]) -> str:
    values = sorted(values)
    return (f"{name:<28} median {statistics.median(values):7.2f} ms   "
            f"min {values[0]:7.2f}   p90 {values[int(len(values) * 0.9)]:7.2f}")


async def _netns_pool(lab: Lab, count: int) -> list[int]:
    pool = []
    for _ in range(count):
        netns_fd, netlink_fd = await lab.supervisor.new_netns()
        os.close(netlink_fd)
        pool.append(netns_fd)
    return pool


async def time_starts(lab: Lab, count: int, *, volatile: bool, private_net: bool) -> None:
    """Start, wait for the exit, and for the shim's own end, ``count`` times."""
    pool = await _netns_pool(lab, count) if private_net else []
    starts, exits, ends = [], [], []
    for _ in range(count):
        name = lab.new_id()
        kinds = ("mount", "uts", "pid", "ipc", *(["network"] if private_net else []))
        request = lab.request(
            name, "true", linux_namespaces=[oci.Namespace(type=kind) for kind in kinds], extra={
                "has_netns": private_net, "seccomp_path": lab_filter(lab),
                "root": lab.root(name, *(["volatile"] if volatile else []))})
        netns_fd = pool.pop() if pool else None
        begin = time.perf_counter()
        shim = await lab.supervisor.start_container(request, netns_fd=netns_fd)
        started = time.perf_counter()
        await shim.exited
        exited = time.perf_counter()
        await shim.gone
        ended = time.perf_counter()
        if netns_fd is not None:
            os.close(netns_fd)
        starts.append((started - begin) * 1000)
        exits.append((exited - begin) * 1000)
        ends.append((ended - begin) * 1000)
    label = f"{'pooled' if private_net else 'host'} net{', volatile' if volatile else ''}"
    print(_line(f"{label}: started", starts))
    print(_line(f"{label}: exited", exits))
    print(_line(f"{label}: torn down", ends))


def lab_filter(lab: Lab) -> str | None:
    """A compiled default filter beside the lab, or none where libseccomp is missing."""
    path = lab.base / "filter.bpf"
    if not path.exists():
        try:
            import pyseccomp
        except (ImportError, RuntimeError):
            return None
        rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        for call in ("reboot", "kexec_load", "swapon", "add_key", "keyctl", "bpf", "userfaultfd"):
            rules.add_rule(pyseccomp.ERRNO(1), call)
        with path.open("wb") as file:
            rules.export_bpf(file)
    return str(path)


def _pss_kib(pid: int) -> dict[str, int]:
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in {"Pss", "Private_Dirty", "Rss", "Pss_Anon"}:
            found[name] = int(rest.split()[0])
    return found


async def measure_memory(lab: Lab, count: int) -> None:
    """Print the shims' proportional memory with ``count`` idle containers."""
    shims = [await lab.start("sleep", "1000") for _ in range(count)]
    await asyncio.sleep(0.5)
    usages = [_pss_kib(shim.shim_pid) for shim in shims]
    for name in ("Pss", "Private_Dirty", "Rss"):
        mean = statistics.mean(usage[name] for usage in usages)
        print(f"{count} idle shims: {name:<14} mean {mean / 1024:6.2f} MiB")
    zygote = _pss_kib(lab.supervisor.zygote_pid)
    print(f"zygote: {zygote}")
    for shim in shims:
        shim.kill(9)
    for shim in shims:
        await shim.gone


async def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=60)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    async with Lab() as lab:
        if options.memory:
            await measure_memory(lab, 20)
            return
        await time_starts(lab, 5, volatile=True, private_net=True)
        print("--")
        await time_starts(lab, options.n, volatile=True, private_net=True)
        await time_starts(lab, options.n, volatile=False, private_net=True)


if __name__ == "__main__":
    asyncio.run(main())
