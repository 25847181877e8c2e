"""A daemon that copies layers instead of joining them (``--storage-driver native``, Docker's vfs)."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import pallet_command, palletd_command
from tests.support.faultyregistry import FaultyRegistry
from tests.support.layers import Member, build, directory
from tests.support.registry import build_image
from tests.support.scratch import busybox_tar
from tests.support.transfers import upload
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "docker_cli", "busybox")

TOP = build(directory("srv"), Member("srv/.wh.index.html"), Member("srv/new", b"from the top\n"),
            directory("data"), Member("data/seed", b"seed\n", uid=7))


@pytest.fixture
def reference(tmp_path: Path) -> Iterator[str]:
    """An image of two layers in a registry."""
    with FaultyRegistry(tmp_path / "registry") as server:
        upload(server.authority, "a", "1", build_image([busybox_tar(), TOP], Cmd=["sh"]))
        yield f"{server.authority}/a:1"


def test_a_containers_life(fresh_palletd: Callable[..., Daemon], reference: str, tmp_path: Path) -> None:
    """Everything that works on a container's or an image's tree."""
    daemon = fresh_palletd("--storage-driver", "native", images=False)
    docker = daemon.cli()
    docker.ok("pull", reference)
    assert docker.ok("info", "--format", "{{.Driver}}") == "vfs"
    assert docker.ok("image", "inspect", "-f", "{{.GraphDriver.Name}} {{json .GraphDriver.Data}}",
                     reference) == "vfs null"
    assert docker.ok("run", "--rm", reference, "ls", "/srv") == "new"
    script = "echo more >> /srv/new; rm /etc/passwd; mkdir /made; echo 12345 > /made/f; exec sleep 600"
    docker.ok("run", "-d", "--name", "box", reference, "sh", "-c", script)
    eventually(lambda: docker.run("exec", "box", "test", "-e", "/made/f").code == 0, what="the files are written")
    assert set(docker.ok("diff", "box").splitlines()) == {
        "C /srv", "C /srv/new", "A /made", "A /made/f", "C /etc", "D /etc/passwd"}
    # The driver has no layer apart: a size is what the tree grew by, as Docker's vfs counts.
    assert docker.ok("ps", "-s", "--format", "{{.Size}}").startswith(("0B", "1", "5B", "11B"))
    docker.ok("cp", "box:/srv/new", str(tmp_path / "copied"))
    assert (tmp_path / "copied").read_text() == "from the top\nmore\n"
    docker.ok("commit", "box", "made:1")
    assert docker.ok("run", "--rm", "made:1", "sh", "-c", "cat /srv/new /made/f; ls /etc/passwd 2>&1; true") == (
        "from the top\nmore\n12345\nls: /etc/passwd: No such file or directory")
    assert docker.ok("run", "--rm", "-v", "vol:/data", reference, "stat", "-c", "%u %s", "/data/seed") == "7 5"
    daemon.kill()
    daemon.start()
    assert docker.ok("exec", "box", "cat", "/made/f") == "12345"
    docker.ok("restart", "-t", "0", "box")
    assert docker.ok("exec", "box", "cat", "/srv/new") == "from the top\nmore\nmore"
    exported = subprocess.run([*docker.argv, "-H", daemon.host, "export", "box"], capture_output=True, check=True)
    assert b"from the top\nmore\nmore\n" in exported.stdout
    assert daemon.cli(pallet_command()).run("system", "check", "-q").text == ""
    docker.ok("rm", "-f", "box")
    docker.ok("rmi", "made:1", reference)
    docker.ok("volume", "rm", "vol")
    snapshots = daemon.data_root / "snapshots"
    eventually(lambda: not [path for name in ("l", "c", "draft", "trash") for path in (snapshots / name).iterdir()],
               what="nothing of layers, views and copies is left")


@pytest.mark.needs("overlay")
def test_drivers_change(fresh_palletd: Callable[..., Daemon]) -> None:
    """Layers serve both; a container belongs to the driver that made it."""
    daemon = fresh_palletd()
    docker = daemon.cli()
    docker.ok("run", "--name", "joined", "busybox", "sh", "-c", "echo joined > /f")
    for flags, name, other in ((["--storage-driver", "vfs"], "copied", "joined"), ([], "again", "copied")):
        daemon.stop()
        daemon.flags = flags
        daemon.start()
        assert docker.ok("run", "--name", name, "busybox", "sh", "-c", f"echo {name} > /f; cat /f") == name
        refused = docker.run("start", other)
        assert (refused.code, "was made by the storage driver" in refused.err) == (1, True), refused
        assert set(docker.ok("ps", "-a", "--format", "{{.Names}}").split()) >= {name, other}
        docker.ok("system", "df")
        docker.ok("ps", "-as")
    assert docker.ok("start", "-a", "joined") == ""
    docker.ok("cp", "joined:/f", "-")
    docker.ok("rm", "joined", "copied", "again")


def test_drivers_that_are_none(tmp_path: Path) -> None:
    """Docker's words."""
    done = subprocess.run([
        *palletd_command(), "--storage-driver", "zfs", "--data-root", str(tmp_path / "data"), "--exec-root",
        str(tmp_path / "run"), "--host", f"unix://{tmp_path}/d.sock", "--pidfile", str(tmp_path / "pid")],
        capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "error initializing graphdriver: driver not supported" in done.stderr
    assert not (tmp_path / "data").exists()
