"""A data root without room: builds fail with the reason and leave nothing, sound layers stay sound."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import pallet_command
from tests.support.engines import load_images
from tests.support.isolation import mount, unmount
from tests.support.scratch import busybox_tar
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli")

SIZE = 320 << 20
"""Unpacking an image's layer leaves 256 MiB free."""
FREE = 24 << 20
TOO_MUCH = 30 << 20
FULL = "o space left on device"


@pytest.fixture
def daemon(fresh_palletd: Callable[..., Daemon]) -> Iterator[Daemon]:
    """A daemon whose data root is a small file system of its own."""
    made = fresh_palletd(start=False)
    made.data_root.mkdir()
    mount("tmpfs", str(made.data_root), "tmpfs", data=f"size={SIZE}")
    try:
        made.start()
        load_images(made)
        fill(made, FREE)
        yield made
        if made.process is not None:
            made.purge_containers()
            made.stop()
    finally:
        made.kill()
        eventually(lambda: unmount(str(made.data_root)) or True, what="the data root is unmounted")


@pytest.fixture
def pallet(daemon: Daemon) -> DockerCli:
    return daemon.cli(pallet_command())


def left(daemon: Daemon) -> list[str]:
    """What builds in flight own."""
    data = daemon.data_root
    places = [data / "snapshots/c", data / "snapshots/draft", data / "build/scratch", data / "content/ingest"]
    return [str(path) for place in places if place.is_dir() for path in place.iterdir()]


def fill(daemon: Daemon, free: int) -> None:
    """Leave so many bytes free."""
    filler = daemon.data_root / "filler"
    filler.unlink(missing_ok=True)
    status = os.statvfs(daemon.data_root)
    fd = os.open(filler, os.O_CREAT | os.O_WRONLY)
    os.posix_fallocate(fd, 0, status.f_bavail * status.f_frsize - free)
    os.close(fd)


def build(pallet: DockerCli, context: Path, dockerfile: str, *args: str) -> str:
    """Build what must fail; returns what it says."""
    (context / "Dockerfile").write_text(f"FROM busybox\nRUN echo first > /first\n{dockerfile}\n")
    done = pallet.run("build", "--progress", "plain", *args, str(context))
    assert done.code == 1, done.err
    return done.err


@pytest.mark.parametrize(("dockerfile", "words"), [
    ("COPY big /big", FULL),
    ("COPY --from=busybox /bin /b1\nCOPY --from=busybox /bin /b2\n" + "".join(
        f"RUN cat /bin/busybox /bin/busybox > /c{n}\n" for n in range(12)), FULL),
    ("RUN cat /dev/zero > /big", "exit code: 1")], ids=["context", "layers", "command"])
def test_a_build_without_room(daemon: Daemon, pallet: DockerCli, tmp_path: Path, dockerfile: str, words: str) -> None:
    """The error says so, nothing of the step is left, and with room the next build works."""
    with (tmp_path / "big").open("wb") as file:
        file.truncate(TOO_MUCH)
    said = build(pallet, tmp_path, dockerfile)
    assert words in said
    assert FULL in said
    eventually(lambda: not left(daemon), what="nothing is left")
    # The database needs room, too, and what was removed gives it back a moment later.
    eventually(lambda: pallet.run("builder", "prune", "-af").code == 0, what="the cache is pruned")
    (tmp_path / "big").write_text("small\n")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo first > /first\nCOPY big /big\nRUN cat /big\n")
    pallet.ok("build", "-t", "room:1", str(tmp_path))
    assert pallet.ok("run", "--rm", "room:1", "cat", "/first", "/big") == "first\nsmall"
    (daemon.data_root / "filler").unlink()
    assert "all is well" in pallet.ok("system", "check")


def test_an_export_without_room(daemon: Daemon, pallet: DockerCli, tmp_path: Path) -> None:
    """Compressed layers need room in the store; the build's own layers stay."""
    (tmp_path / "noise").write_bytes(os.urandom(9 << 20))
    said = build(pallet, tmp_path, "COPY noise /noise\nCOPY noise /again/noise",
                 "-o", "type=image,name=full:1,compression=gzip,force-compression=true")
    assert FULL in said
    eventually(lambda: not left(daemon), what="nothing is left")
    assert not pallet.ok("images", "-q", "full")
    assert pallet.ok("run", "--rm", "busybox", "echo", "alive") == "alive"


def test_a_check_without_room_calls_nothing_damaged(daemon: Daemon, pallet: DockerCli) -> None:
    found = pallet.run("system", "check", "--repair")
    assert found.code == 1
    assert "cannot be checked: there is no space left" in found.err + found.out
    assert "damaged" not in found.out
    (daemon.data_root / "filler").unlink()
    assert "all is well" in pallet.ok("system", "check")
    assert pallet.ok("run", "--rm", "busybox", "echo", "alive") == "alive"


def test_an_image_without_room(daemon: Daemon, pallet: DockerCli) -> None:
    """An import that there is no room for says so, and not that its layer is too large."""
    done = pallet.run("import", "-", "more:1", stdin=busybox_tar())
    assert done.code == 1
    assert FULL in done.err
    eventually(lambda: not left(daemon), what="nothing is left")
    assert not pallet.ok("images", "-q", "more")


@pytest.mark.parametrize("words", [["rmi", "room:1"], ["builder", "prune", "-af"]], ids=["rmi", "prune"])
def test_what_frees_space_needs_none(daemon: Daemon, pallet: DockerCli, tmp_path: Path, words: list[str]) -> None:
    """Not one byte is free, whoever took them: images and cache can be removed all the same."""
    (tmp_path / "big").write_bytes(os.urandom(4 << 20))
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY big /big\n")
    pallet.ok("build", "-q", "-t", "room:1", str(tmp_path))
    if words[0] == "builder":
        pallet.ok("rmi", "room:1")
    else:
        pallet.ok("builder", "prune", "-af")
    with suppress(OSError), (daemon.data_root / "last").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    status = os.statvfs(daemon.data_root)
    assert status.f_bavail == 0
    pallet.ok(*words)
    eventually(lambda: os.statvfs(daemon.data_root).f_bavail * status.f_frsize > 4 << 20, what="there is room")
    assert pallet.ok("run", "--rm", "busybox", "echo", "alive") == "alive"
