"""Loading and saving the large generated image, side by side."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engines import drop_caches
from bench.model import Figure
from bench.pull_figures import FILES, LAYERS, TOTAL_BYTES, Growth, large_layer

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

NAME = "bench/archive:v1"


def write_archive(path: Path, share: float) -> None:
    """The image as ``docker save`` of Debian's dockerd writes it: uncompressed layers first."""
    files, size = int(FILES * share / LAYERS), int(TOTAL_BYTES * share / LAYERS)
    diff_ids, layers = [], []
    with tarfile.open(path, "w") as tar:
        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for number in range(LAYERS):
            layer = large_layer(number, files, size)
            diff_ids.append("sha256:" + hashlib.sha256(layer).hexdigest())
            layers.append(f"{number:064x}/layer.tar")
            add(layers[-1], layer)
        config = json.dumps({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
        add("config.json", config)
        add("manifest.json", json.dumps([{
            "Config": "config.json", "RepoTags": [NAME], "Layers": layers}]).encode())


def archives(engines: dict[str, Daemon], rounds: int, share: float) -> list[Figure]:
    """Load, save, remove, the engines in turn, caches dropped before each."""
    size = f"{TOTAL_BYTES * share / 1e9:.1f} GB, {LAYERS} layers, {int(FILES * share)} files"
    jobs = {
        "load": (Figure(name=f"load of {size}", unit="s", factor=4.0),
                 Figure(name=f"memory growth during the load of {size}", unit="MB", goal=100)),
        "save": (Figure(name=f"save of {size}", unit="s", factor=5.0),
                 Figure(name=f"memory growth during the save of {size}", unit="MB", goal=100)),
    }
    with tempfile.TemporaryDirectory(prefix="t-bench-") as scratch:
        source, target = Path(scratch) / "in.tar", Path(scratch) / "out.tar"
        write_archive(source, share)
        for number in range(rounds + 1):
            for name, daemon in engines.items():
                cli = daemon.cli()
                for verb, argv in (("load", ("load", "-q", "-i", str(source))),
                                   ("save", ("save", "-o", str(target), NAME))):
                    drop_caches()
                    assert daemon.process
                    growth = Growth(daemon.process.pid)
                    began = time.monotonic()
                    try:
                        cli.run(*argv, check=True, timeout_s=600)
                    finally:
                        seconds, mb = time.monotonic() - began, growth.finish()
                    if number:  # the first round warms each daemon's code
                        jobs[verb][0].add(name, seconds)
                        jobs[verb][1].add(name, mb)
                target.unlink()
                cli.ok("rmi", NAME)
    return [figure for pair in jobs.values() for figure in pair]
