"""A pull whose daemon is killed or whose client goes away: nothing half-made stays."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.faultyregistry import Fault, FaultyRegistry
from tests.support.registry import build_image
from tests.support.transfers import layer_tar, upload
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli")

IMAGE = build_image([layer_tar({"a": os.urandom(5_000_000)}), layer_tar({"b": b"b"})], Cmd=["sh"])


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end in any case, so that the registry's threads end."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def registry(tmp_path: Path, gate: threading.Event) -> Iterator[FaultyRegistry]:
    """The image as ``a:1``; the second half of its big layer comes when ``gate`` is opened."""
    with FaultyRegistry(tmp_path / "registry") as server:
        upload(server.authority, "a", "1", IMAGE)
        big = max(IMAGE.blobs, key=lambda key: len(IMAGE.blobs[key]))
        server.faults += [Fault(f"GET /v2/a/blobs/{big}", cut_at=2_500_000),
                          Fault(f"GET /v2/a/blobs/{big}", wait=gate, times=9)]
        yield server
        gate.set()


def half_there(daemon: Daemon) -> bool:
    """Whether the big layer is on its way and the small one is here."""
    ingest = daemon.data_root / "content" / "ingest"
    return any(path.stat().st_size >= 2_000_000 for path in ingest.iterdir()) and any(
        (daemon.data_root / "snapshots" / "l").iterdir())


def left(daemon: Daemon) -> list[str]:
    """Everything under the data root that belongs to no image."""
    places = ("content/ingest", "snapshots/draft", "snapshots/trash", "snapshots/l",
              "content/blobs/sha256")
    return [str(path) for place in places for path in (daemon.data_root / place).iterdir()]


def pulling(daemon: Daemon, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*daemon.cli().argv, "-H", daemon.host, "pull", name],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("driver", [
    "overlay2", pytest.param("erofs", marks=pytest.mark.needs("erofs"))])
def test_killed_daemon(
    fresh_palletd: Callable[..., Daemon], registry: FaultyRegistry, gate: threading.Event,
    driver: str,
) -> None:
    """kill -9 in the middle: the next daemon sweeps, and the same pull then works."""
    daemon = fresh_palletd("--storage-driver", driver, images=False)
    name = f"{registry.authority}/a:1"
    with pulling(daemon, name) as client:
        eventually(lambda: half_there(daemon), what="half of the image is there")
        daemon.kill()
        client.communicate(timeout=20)
        assert client.returncode != 0
    daemon.start()
    eventually(lambda: not left(daemon), what="everything half-made is gone")
    gate.set()
    assert "Downloaded newer image" in daemon.cli().ok("pull", name)


def test_client_that_goes_away(
    fresh_palletd: Callable[..., Daemon], registry: FaultyRegistry, gate: threading.Event
) -> None:
    """ctrl-c at ``docker pull``: the download stops, and what came before it goes as well."""
    daemon = fresh_palletd(images=False)
    name = f"{registry.authority}/a:1"
    with pulling(daemon, name) as client:
        eventually(lambda: half_there(daemon), what="half of the image is there")
        client.kill()
        client.communicate(timeout=20)
    eventually(lambda: not left(daemon), what="everything of the transfer is gone")
    gate.set()
    assert "Downloaded newer image" in daemon.cli().ok("pull", name)
