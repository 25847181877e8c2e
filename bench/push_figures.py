"""Pushing a large image to a registry that has none of it."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engines import drop_caches
from bench.model import Figure
from bench.pull_figures import FILES, LAYERS, TOTAL_BYTES, Growth, large_image, large_layer
from tests.support.registry import DebianRegistry, digest

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

_LOADED = "bench/loaded:v1"


def pushes(engines: dict[str, Daemon], rounds: int, share: float) -> list[Figure]:
    """Push to a registry that is empty each time; the engines in turn.

    Once an image that was pulled, whose compressed layers Pallet still has, and once one that was
    loaded with plain layers, which both engines have to compress.
    """
    size = f"{TOTAL_BYTES * share / 1e9:.1f} GB, {LAYERS} layers, {int(FILES * share)} files"
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="t-bench-") as scratch:
        with DebianRegistry(Path(scratch) / "source") as source:
            pulled = source.push("bench/large", "v1", large_image(share))
            for daemon in engines.values():
                daemon.cli().run("pull", "-q", pulled, check=True, timeout_s=600)
        figures += _rounds(engines, pulled, f"push of {size}, pulled before", rounds, scratch)
        _remove(engines, pulled)
        archive = Path(scratch) / "image.tar"
        _save(archive, share)
        for daemon in engines.values():
            daemon.cli().run("load", "-q", "-i", str(archive), check=True, timeout_s=600)
        figures += _rounds(engines, _LOADED, f"push of {size}, new layers", rounds, scratch)
        _remove(engines, _LOADED)
    return figures


def _rounds(engines: dict[str, Daemon], reference: str, title: str, rounds: int,
            scratch: str) -> list[Figure]:
    took = Figure(name=title, unit="s", factor=5)
    grew = Figure(name=f"memory growth during the {title}", unit="MB", goal=100)
    for number in range(rounds + 1):
        for name, daemon in engines.items():
            with DebianRegistry(Path(scratch) / f"{name}{number}") as target:
                seconds, mb = _push(daemon, reference, f"{target.address}/bench/new:v1")
            if number:  # the first round warms each daemon's code
                took.add(name, seconds)
                grew.add(name, mb)
    return [took, grew]


def _remove(engines: dict[str, Daemon], reference: str) -> None:
    for daemon in engines.values():
        cli = daemon.cli()
        cli.ok("rmi", "-f", cli.ok("image", "inspect", "-f", "{{.Id}}", reference))


def _save(path: Path, share: float) -> None:
    """The image as ``docker save`` of 20.10 has it: plain layers, a layer after another."""
    files, size = int(FILES * share / LAYERS), int(TOTAL_BYTES * share / LAYERS)
    with tarfile.open(path, "w") as tar:
        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        diff_ids = []
        for number in range(LAYERS):
            data = large_layer(number, files, size)
            diff_ids.append(digest(data))
            add(f"{number}/layer.tar", data)
        add("config.json", json.dumps({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode())
        add("manifest.json", json.dumps([{
            "Config": "config.json", "RepoTags": [_LOADED],
            "Layers": [f"{number}/layer.tar" for number in range(LAYERS)]}]).encode())


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
