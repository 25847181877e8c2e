"""Pushing a large image to a registry that has none of it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engines import drop_caches
from bench.model import Figure
from bench.pull_figures import FILES, LAYERS, TOTAL_BYTES, Growth, large_image
from tests.support.registry import DebianRegistry

if TYPE_CHECKING:
    from tests.support.daemon import Daemon


def pushes(engines: dict[str, Daemon], rounds: int, share: float) -> list[Figure]:
    """Pull from one registry, push to another, empty one each time; the engines in turn."""
    size = f"{TOTAL_BYTES * share / 1e9:.1f} GB, {LAYERS} layers, {int(FILES * share)} files"
    took = Figure(name=f"push of {size} to an empty registry", unit="s", factor=5)
    grew = Figure(name=f"memory growth during the push of {size}", unit="MB", goal=100)
    with tempfile.TemporaryDirectory(prefix="t-bench-") as scratch:
        with DebianRegistry(Path(scratch) / "source") as source:
            reference = source.push("bench/large", "v1", large_image(share))
            for daemon in engines.values():
                daemon.cli().run("pull", "-q", reference, check=True, timeout_s=600)
        for number in range(rounds + 1):
            for name, daemon in engines.items():
                with DebianRegistry(Path(scratch) / f"{name}{number}") as target:
                    seconds, mb = _push(daemon, reference, f"{target.address}/bench/new:v1")
                if number:  # the first round warms each daemon's code
                    took.add(name, seconds)
                    grew.add(name, mb)
        for daemon in engines.values():
            daemon.cli().ok("rmi", "-f", daemon.cli().ok("image", "inspect", "-f", "{{.Id}}", reference))
    return [took, grew]


def _push(daemon: Daemon, reference: str, target: str) -> tuple[float, float]:
    cli = daemon.cli()
    cli.ok("tag", reference, target)
    drop_caches()
    assert daemon.process
    growth = Growth(daemon.process.pid)
    began = time.monotonic()
    try:
        cli.run("push", "-q", target, check=True, timeout_s=600)
    finally:
        seconds, mb = time.monotonic() - began, growth.finish()
    return seconds, mb
