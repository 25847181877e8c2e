"""Pulling a large generated image and a real Debian from a registry on loopback."""

from __future__ import annotations

import contextlib
import io
import random
import subprocess
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engines import descendants, drop_caches, pss_mb
from bench.model import Figure
from tests.support.isolation import host_network
from tests.support.probes import which
from tests.support.registry import BuiltImage, DebianRegistry, build_image

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

LAYERS, FILES, TOTAL_BYTES = 5, 50_000, 1_300_000_000


def large_layer(number: int, files: int, size_bytes: int) -> bytes:
    """A layer tar of ``files`` files in directories of a hundred; the same bytes every time.

    Half of each file is random and half repeats, so gzip makes about half of it: what programs and
    their data usually come to. Sizes go from a few hundred bytes to a few hundred kilobytes.
    """
    source = random.Random(number)
    weights = [source.paretovariate(1.2) for _ in range(files)]
    scale = size_bytes / sum(weights)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for index, weight in enumerate(weights):
            if index % 100 == 0:
                directory = tarfile.TarInfo(f"layer{number}/d{index // 100:04}")
                directory.type, directory.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(directory)
            size = int(weight * scale)
            info = tarfile.TarInfo(f"layer{number}/d{index // 100:04}/file{index:06}")
            info.size = size
            noise = source.randbytes(size // 2)
            text = b"pallet bench " * (size // 26 + 1)
            tar.addfile(info, io.BytesIO(noise + text[: size - len(noise)]))
    return buffer.getvalue()


def large_image(share: float) -> BuiltImage:
    """The generated image; ``share`` scales it down for a quick run."""
    files, size = int(FILES * share / LAYERS), int(TOTAL_BYTES * share / LAYERS)
    return build_image([large_layer(n, files, size) for n in range(LAYERS)], Cmd=["true"])


def debian_image() -> BuiltImage | None:
    """Debian from the distribution's packages; None when no mirror can be reached."""
    if not which("mmdebstrap"):
        return None
    done = subprocess.run(
        host_network(["mmdebstrap", "--variant=important", "--format=tar", "bookworm", "-"]),
        capture_output=True, check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                                               "SOURCE_DATE_EPOCH": "1700000000"},
    )  # fmt: skip
    return build_image([done.stdout], Cmd=["bash"]) if done.returncode == 0 else None


class Growth:
    """The most memory that the daemon and its helpers took above where they were, in MB."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._base = self._now()
        self.mb = 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _now(self) -> float:
        total = 0.0
        for pid in {self._pid} | descendants(self._pid):
            with contextlib.suppress(OSError, LookupError):
                total += pss_mb(pid)
        return total

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.mb = max(self.mb, self._now() - self._base)

    def finish(self) -> float:
        """Stop watching."""
        self._stop.set()
        self._thread.join()
        return self.mb


def pulls(engines: dict[str, Daemon], rounds: int, share: float) -> list[Figure]:
    """Pull, remove, pull again, the engines in turn, caches dropped before each."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="t-bench-") as scratch, DebianRegistry(
        Path(scratch) / "registry"
    ) as registry:
        large = large_image(share)
        size = f"{TOTAL_BYTES * share / 1e9:.1f} GB, {LAYERS} layers, {int(FILES * share)} files"
        jobs = [(f"pull of {size}", registry.push("bench/large", "v1", large), 3.5)]
        del large
        if debian := debian_image():
            jobs.append(("pull of a Debian", registry.push("bench/debian", "v1", debian), 2.5))
            del debian
        for title, reference, factor in jobs:
            figures += _pull_one(engines, title, reference, factor, rounds)
    return figures


def _pull_one(
    engines: dict[str, Daemon], title: str, reference: str, factor: float, rounds: int
) -> list[Figure]:
    took = Figure(name=title, unit="s", factor=factor)
    grew = Figure(name=f"memory growth during the {title}", unit="MB", goal=100)
    for number in range(rounds + 1):
        for name, daemon in engines.items():
            cli = daemon.cli()
            drop_caches()
            assert daemon.process
            growth = Growth(daemon.process.pid)
            began = time.monotonic()
            try:
                cli.run("pull", "-q", reference, check=True, timeout_s=600)
            finally:
                seconds, mb = time.monotonic() - began, growth.finish()
            cli.ok("rmi", reference)
            if number:  # the first round warms the registry's files and each daemon's code
                took.add(name, seconds)
                grew.add(name, mb)
    return [took, grew]
