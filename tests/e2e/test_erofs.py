"""A daemon that keeps layers as EROFS images, as a user sees it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.faultyregistry import FaultyRegistry
from tests.support.layers import Member, build, directory
from tests.support.probes import which
from tests.support.registry import build_image
from tests.support.scratch import busybox_tar
from tests.support.transfers import upload
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox", "erofs")

TOP = build(directory("srv"), Member("srv/.wh.index.html"), Member("srv/new", b"from the top\n"),
            directory("data"), Member("data/seed", b"seed\n", uid=7), Member("etc/.wh.notexec"))


@pytest.fixture
def reference(tmp_path: Path) -> Iterator[str]:
    """An image of two layers in a registry."""
    with FaultyRegistry(tmp_path / "registry") as server:
        upload(server.authority, "a", "1", build_image([busybox_tar(), TOP], Cmd=["sh"]))
        yield f"{server.authority}/a:1"


@pytest.fixture
def make(fresh_palletd: Callable[..., Daemon]) -> Callable[..., Daemon]:
    """``fresh_palletd`` with the driver."""
    return lambda *flags, **options: fresh_palletd("--storage-driver", "erofs", *flags, **options)


def forms(daemon: Daemon) -> list[str]:
    """What each layer is, by number: ``image`` or ``fs``."""
    layers = daemon.data_root / "snapshots" / "l"
    return [os.listdir(path)[0] for path in sorted(layers.iterdir(), key=lambda path: int(path.name))]


def test_pull_run_write_remove(make: Callable[..., Daemon], reference: str) -> None:
    daemon = make(images=False)
    docker = daemon.cli()
    docker.ok("pull", reference)
    assert forms(daemon) == ["image", "image"]
    assert docker.ok("info", "--format", "{{.Driver}}") == "erofs"
    assert docker.ok("run", "--rm", reference, "ls", "/srv") == "new"
    assert "notexec" not in docker.ok("run", "--rm", reference, "ls", "/etc")
    script = "echo more >> /srv/new && rm /etc/passwd && mkdir /made && cat /srv/new"
    assert docker.ok("run", "--name", "writer", reference, "sh", "-c", script) == "from the top\nmore"
    upper = Path(docker.inspect("writer")["GraphDriver"]["Data"]["UpperDir"])
    assert (upper / "srv/new").read_text() == "from the top\nmore\n"
    assert docker.ok("run", "--rm", reference, "cat", "/srv/new") == "from the top"
    assert set(docker.ok("diff", "writer").splitlines()) == {
        "C /srv", "C /srv/new", "A /made", "C /etc", "D /etc/passwd"}
    assert docker.run("run", "--rm", "--read-only", reference, "touch", "/x").code == 1
    # A new volume takes what the image has there, owners and all: a worker mounts the image.
    assert docker.ok("run", "--rm", "-v", "vol:/data", reference, "stat", "-c", "%u %s",
                     "/data/seed") == "7 5"
    docker.ok("volume", "rm", "vol")
    docker.ok("rm", "writer")
    docker.ok("rmi", reference)
    snapshots = daemon.data_root / "snapshots"
    eventually(lambda: not [*(snapshots / "l").iterdir(), *(snapshots / "trash").iterdir()],
               what="the layers' files are gone")
    assert daemon.process
    held = [os.readlink(path) for path in Path(f"/proc/{daemon.process.pid}/fd").iterdir()
            if path.is_symlink()]
    assert not [target for target in held if target == "/" or "image" in target]


def test_one_file_system_as_programs_see_it(make: Callable[..., Daemon], reference: str) -> None:
    """``-x`` of tar and find stay in the image, whatever layer a file is of."""
    docker = make(images=False).cli()
    docker.ok("pull", reference)
    numbers = docker.ok("run", "--rm", reference, "stat", "-c", "%d", "/", "/srv/new", "/bin/busybox",
                        "/etc/group", "/srv")
    assert len(set(numbers.split())) == 1
    script = "stat -c %i /srv/new; echo x >> /srv/new; stat -c %i /srv/new"
    before, after = docker.ok("run", "--rm", reference, "sh", "-c", script).split()
    assert before == after


def test_running_containers_outlive_the_daemon(make: Callable[..., Daemon], reference: str) -> None:
    daemon = make(images=False)
    docker = daemon.cli()
    docker.ok("run", "-d", "--name", "stays", reference, "sleep", "1000")
    daemon.kill()
    daemon.start()
    assert docker.ok("exec", "stays", "cat", "/srv/new") == "from the top"
    docker.ok("restart", "-t", "0", "stays")
    assert docker.ok("exec", "stays", "cat", "/srv/new") == "from the top"
    conflict = docker.run("rmi", docker.inspect("stays")["Image"])
    assert conflict.code == 1 and "image is being used by running container" in conflict.err
    docker.ok("rm", "-f", "stays")


@pytest.mark.needs("runc")
def test_a_foreign_runtime(make: Callable[..., Daemon], reference: str) -> None:
    daemon = make("--add-runtime", f"other={which('runc')}", images=False)
    docker = daemon.cli()
    docker.ok("pull", reference)
    assert docker.ok("run", "--rm", "--runtime", "other", reference, "cat",
                     "/srv/new") == "from the top"


def test_drivers_change_and_old_layers_stay(make: Callable[..., Daemon], reference: str) -> None:
    daemon = make(images=True)
    docker = daemon.cli()
    for driver, image, expected in (("overlay2", reference, ["image", "fs"]),
                                    ("erofs", "busybox", ["image", "fs"])):
        daemon.stop()
        daemon.config_file.write_text(json.dumps({"storage-driver": driver}))
        if daemon.flags[:2] == ["--storage-driver", "erofs"]:
            del daemon.flags[:2]
        daemon.start()
        docker.ok("run", "--rm", image, "true")
        assert forms(daemon) == expected
        assert docker.ok("run", "--rm", "busybox", "cat", "/srv/index.html").startswith("hello")
        assert docker.ok("info", "--format", "{{.Driver}}") == driver
