"""How fast layers are unpacked: a 1.3 GB, 50,000-file image in five layers, made up on the spot.

Run as root: ``.venv/bin/python bench/layer_apply.py [--dir DIR] [--scale 1.0] [--keep]``. Prints a
table: each layer by itself, then all five with two workers at a time, then the sync that the
snapshotter does afterwards in the background.

On ext4 without a journal, making files soon after many were deleted is many times slower (the
kernel passes over recently freed inodes); give ``--dir`` a fresh place there.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from pallet.layer.apply import apply
from pallet.linux.syncfs import syncfs

MIB = 1 << 20
BLOCK = 512


class LayerPlan(NamedTuple):
    """Size and number of files of one layer."""

    name: str
    files: int
    size_bytes: int


PLAN = (
    LayerPlan("base", 9_000, 120 * MIB), LayerPlan("packages", 24_000, 520 * MIB),
    LayerPlan("runtime", 12_000, 380 * MIB), LayerPlan("assets", 1_000, 260 * MIB),
    LayerPlan("app", 4_000, 50 * MIB))


class Result(NamedTuple):
    """What unpacking took."""

    wall_s: float
    user_s: float
    system_s: float
    rss_mib: float
    entries: int
    stream_bytes: int


def _text(seed: int) -> bytes:
    """A few MiB that compress about as well as programs and libraries do."""
    dice = random.Random(seed)
    words = [dice.randbytes(dice.randrange(2, 14)) for _ in range(3000)]
    return b"".join(dice.choice(words) for _ in range(400_000))


def _header(name: str, size: int, kind: bytes) -> bytes:
    mode = b"0000755\0" if kind == b"5" else b"0000644\0"
    head = bytearray(BLOCK)
    head[0:len(name)] = name.encode()
    head[100:108], head[108:124] = mode, b"0000000\0" * 2
    head[124:136], head[136:148] = b"%011o\0" % size, b"14573262700\0"
    head[156:157], head[257:265] = kind, b"ustar\x0000"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def make_layer(path: Path, plan: LayerPlan, scale: float, seed: int) -> None:
    """Write one gzip-compressed layer; file sizes are distributed as in distributions' packages."""
    text = _text(seed)
    dice = random.Random(seed)
    files = max(int(plan.files * scale), 1)
    weights = [dice.lognormvariate(0, 1.8) for _ in range(files)]
    unit = plan.size_bytes * scale / sum(weights)
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    with path.open("wb") as out:
        for number, weight in enumerate(weights):
            directory = f"usr/{plan.name}/d{number // 200}/s{number // 12}"
            if number % 12 == 0:
                out.write(packer.compress(_header(directory + "/", 0, b"5")))
            size = int(weight * unit)
            out.write(packer.compress(_header(f"{directory}/file{number}", size, b"0")))
            left = size
            while left:
                start = dice.randrange(len(text) - 1)
                piece = text[start:start + left]
                out.write(packer.compress(piece))
                left -= len(piece)
            out.write(packer.compress(bytes(-size % BLOCK)))
        out.write(packer.compress(bytes(2 * BLOCK)))
        out.write(packer.flush())


def unpack(source: Path, target: Path) -> Result:
    """Unpack in this process and measure it."""
    target.mkdir()
    fd = os.open(source, os.O_RDONLY)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    applied = apply(fd, str(target))
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    os.close(fd)
    return Result(wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime,
                  after.ru_maxrss / 1024, applied.entries, applied.stream_bytes)


def in_child(source: Path, target: Path) -> tuple[int, int]:
    """Start ``unpack`` in a forked child; return its pid and the pipe its result comes from."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write_fd, repr(tuple(unpack(source, target))).encode())
        os._exit(0)
    os.close(write_fd)
    return pid, read_fd


def result_of(child: tuple[int, int]) -> Result:
    """Wait for a child."""
    pid, read_fd = child
    with os.fdopen(read_fd, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return Result(*(float(item) if "." in item else int(item)  # type: ignore[arg-type]
                    for item in text.strip("()").split(", ")))


def show(name: str, size: int, result: Result) -> None:
    """Print one row."""
    cpu = result.user_s + result.system_s
    print(f"{name:10} {size / 1e6:8.1f} {result.stream_bytes / 1e6:8.1f} {result.entries:7d}"
          f" {result.wall_s:7.2f} {result.user_s:6.2f} {result.system_s:6.2f}"
          f" {result.stream_bytes / 1e6 / result.wall_s:7.0f} {result.entries / cpu:9.0f}"
          f" {result.rss_mib:5.0f}")


def measure(root: Path, scale: float) -> None:
    """Make the layers and print the table."""
    blobs = [(plan, root / f"{plan.name}.tar.gz") for plan in PLAN]
    children = []
    for number, (plan, path) in enumerate(blobs):
        if len(children) == (os.cpu_count() or 1):
            os.waitpid(children.pop(0), 0)
        pid = os.fork()
        if pid == 0:
            make_layer(path, plan, scale, number)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    print(f"{'layer':10} {'MB in':>8} {'MB out':>8} {'entries':>7} {'wall s':>7} {'user':>6}"
          f" {'sys':>6} {'MB/s':>7} {'files/cpu':>9} {'MiB':>5}")
    for plan, path in blobs:
        show(plan.name, path.stat().st_size, result_of(in_child(path, root / f"one-{plan.name}")))
    os.sync()
    start = time.perf_counter()
    waiting = sorted(blobs, key=lambda blob: blob[1].stat().st_size, reverse=True)
    running: list[tuple[int, int]] = []
    results = []
    while waiting or running:
        while waiting and len(running) < 2:
            plan, path = waiting.pop(0)
            running.append(in_child(path, root / f"two-{plan.name}"))
        results.append(result_of(running.pop(0)))
    total = Result(time.perf_counter() - start, *(
        sum(column) for column in list(zip(*results, strict=True))[1:3]),
        max(result.rss_mib for result in results), sum(result.entries for result in results),
        sum(result.stream_bytes for result in results))
    show("two by two", sum(path.stat().st_size for _, path in blobs), total)
    fd = os.open(root, os.O_RDONLY)
    start = time.perf_counter()
    syncfs(fd)
    print(f"sync afterwards: {time.perf_counter() - start:.2f} s")
    os.close(fd)


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", default=tempfile.gettempdir())
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--keep", action="store_true", help="leave the files for a look")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="pallet-bench-", dir=options.dir))
    try:
        measure(root, options.scale)
    finally:
        if options.keep:
            print(root)
        else:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
