"""``docker diff``, ``docker export`` and ``docker commit``, and Pallet's own, on real containers."""

from __future__ import annotations

import io
import json
import signal
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import pallet_command
from tests.support.engines import not_on_dockerd
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay")

CHANGES = ("mkdir -p /new/deep; echo 1 >/new/deep/f; echo 2 >>/etc/passwd; rm /etc/group; mkfifo /p;"
           "ln /new/deep/f /hl; ln -s f /sl; chmod 700 /root; rm -rf /home/app; mkdir /home/app;"
           "touch /home/app/z; touch /bin/zz; rm /bin/wc")
LISTED = [
    "C /bin", "D /bin/wc", "A /bin/zz", "C /etc", "D /etc/group", "C /etc/passwd", "A /hl", "C /home",
    "C /home/app", "A /home/app/z", "A /new", "A /new/deep", "A /new/deep/f", "A /p", "C /root",
    "A /sl", "A /vol"]


@pytest.fixture
def made(docker: DockerCli, engine: Daemon) -> Iterator[list[str]]:
    """Names of images; they are removed at the end."""
    names: list[str] = []
    yield names
    engine.purge_containers()
    for name in names:
        docker.run("rmi", "-f", name)


def inspect(engine: Daemon, name: str) -> Any:
    return engine.api.call("GET", f"/images/{name}/json").json


def exported(engine: Daemon, name: str) -> dict[str, tarfile.TarInfo]:
    body = engine.api.call("GET", f"/containers/{name}/export").body
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        return {info.name: info for info in tar}


def test_diff_lists_changes_but_no_mount_points(docker: DockerCli) -> None:
    docker.ok("run", "--name", "changed", "--network=none", "-v", "/vol", "busybox", "sh", "-c", CHANGES)
    assert sorted(docker.ok("diff", "changed").splitlines()) == sorted(LISTED)
    docker.ok("run", "--name", "same", "--network=none", "busybox", "true")
    assert docker.ok("diff", "same") == ""


def test_export_running_and_stopped_is_the_same_tree(docker: DockerCli, engine: Daemon) -> None:
    docker.ok("run", "-d", "--name", "cc", "--network=none", "-v", "/vol", "--tmpfs", "/tmp/t", "busybox",
              "sh", "-c", CHANGES + "; touch /vol/hidden /tmp/t/hidden; touch /done; exec sleep 1000")
    eventually(lambda: docker.run("exec", "cc", "test", "-e", "/done").code == 0)
    running = exported(engine, "cc")
    docker.ok("kill", "cc")
    assert {name: info.tobuf() for name, info in exported(engine, "cc").items()} == {
        name: info.tobuf() for name, info in running.items()}
    assert {"new/deep/f", "vol", ".dockerenv", "dev/console", "proc", "etc/hosts", "etc/mtab"} <= set(running)
    assert not {"vol/hidden", "tmp/t/hidden", "etc/group", "bin/wc"} & set(running)
    assert running["new/deep/f"].linkname == "hl"


def test_commit_makes_an_image_that_runs(docker: DockerCli, engine: Daemon, made: list[str]) -> None:
    docker.ok("run", "-d", "--name", "cc", "--network=none", "-e", "OWN=1", "busybox", "sh", "-c",
              CHANGES + "; echo yes >/made; exec sleep 1000")
    eventually(lambda: docker.run("exec", "cc", "test", "-s", "/made").code == 0)
    made.append("made:1")
    image_id = docker.ok("commit", "-a", "me", "-m", "why", "-c", 'CMD ["cat", "/made"]', "-c", "ENV Z=$OWN",
                         "-c", "LABEL l=v", "cc", "made:1").strip()
    assert docker.ok("run", "--rm", "--network=none", "made:1") == "yes"
    assert docker.run("run", "--rm", "--network=none", "made:1", "ls", "/etc/group").code != 0
    document, base = inspect(engine, "made:1"), inspect(engine, "busybox")
    assert document["Id"] == image_id
    assert (document["Author"], document["Comment"], document["Parent"]) == ("me", "why", base["Id"])
    assert document["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]
    config = document["Config"]
    assert (config["Cmd"], config["Labels"]) == (["cat", "/made"], {"l": "v"})
    assert {"OWN=1", "Z=1", "IMAGE_VAR=yes"} <= set(config["Env"])
    top = engine.api.call("GET", "/images/made:1/history").json[0]
    assert (top["Comment"], top["CreatedBy"].startswith("sh -c mkdir")) == ("why", True)
    assert docker.ok("exec", "cc", "cat", "/made") == "yes", "the container goes on"


def test_commit_of_nothing_adds_no_layer(docker: DockerCli, engine: Daemon, made: list[str]) -> None:
    docker.ok("create", "--name", "cc", "busybox", "true")
    made.append("nothing:1")
    docker.ok("commit", "cc", "nothing:1")
    assert inspect(engine, "nothing:1")["RootFS"] == inspect(engine, "busybox")["RootFS"]


@pytest.mark.parametrize(("arguments", "text"), [
    (("-c", "RUN x", "cc"), "run is not a valid change command"),
    (("nope",), "No such container: nope"),
])
def test_commit_refuses_in_dockers_words(docker: DockerCli, arguments: tuple[str, ...], text: str) -> None:
    docker.ok("create", "--name", "cc", "busybox", "true")
    result = docker.run("commit", *arguments)
    assert result.code == 1
    assert text in result.err


def test_events_of_a_commit(docker: DockerCli, engine: Daemon, made: list[str]) -> None:
    docker.ok("run", "-d", "--name", "cc", "--network=none", "busybox", "sleep", "1000")
    made.append("told:1")
    since = docker.ok("info", "-f", "{{.SystemTime}}").strip()
    docker.ok("commit", "-m", "why", "cc", "told:1")
    until = docker.ok("info", "-f", "{{.SystemTime}}").strip()
    lines = docker.ok("events", "--since", since, "--until", until, "--format", "{{json .}}").splitlines()
    found = [json.loads(line) for line in lines]
    assert [(event["Type"], event["Action"]) for event in found] == [
        ("container", "pause"), ("image", "tag"), ("container", "commit"), ("container", "unpause")]
    attributes = found[2]["Actor"]["Attributes"]
    assert (attributes["comment"], attributes["imageRef"], attributes["imageID"]) == (
        "why", "told:1", inspect(engine, "told:1")["Id"])


def test_same_content_and_epoch_is_the_same_image(engine: Daemon, made: list[str]) -> None:
    not_on_dockerd(engine, "no SOURCE_DATE_EPOCH")
    pallet = engine.cli(pallet_command())
    ids, manifests = [], []
    for name in ("one", "two"):
        pallet.ok("run", "--name", name, "--hostname", "h", "--network=none", "busybox", "sh", "-c", CHANGES)
        made.append(f"{name}:1")
        engine_query = f"/commit?container={name}&repo={name}&tag=1&sourceDateEpoch=1700000000"
        ids.append(engine.api.call("POST", engine_query).json["Id"])
        manifests.append(sorted(path.name for path in (engine.data_root / "content/blobs/sha256").iterdir()))
    assert ids[0] == ids[1]
    assert manifests[0] == manifests[1], "manifest and compressed layer, too"
    assert inspect(engine, "one:1")["Created"] == "2023-11-14T22:13:20Z"


def test_a_daemon_killed_in_a_commit_leaves_the_container_running(
    fresh_palletd: Callable[..., Daemon]
) -> None:
    daemon = fresh_palletd()
    not_on_dockerd(daemon, "it stays paused there")
    docker = daemon.cli()
    docker.ok("run", "-d", "--name", "cc", "--network=none", "busybox", "sh", "-c",
              "head -c 150000000 /dev/urandom >/big; i=0; while :; do i=$((i+1)); echo $i >/n; done")
    eventually(lambda: docker.run("exec", "cc", "test", "-s", "/n").code == 0)
    pid = int(docker.ok("inspect", "-f", "{{.State.Pid}}", "cc"))
    number = Path(f"/proc/{pid}/root/n")
    commit = docker.start("commit", "cc", "never:1")
    eventually(lambda: frozen(pid))
    daemon.signal(signal.SIGKILL)
    daemon.kill()
    commit.communicate()
    eventually(lambda: not frozen(pid))
    before = number.read_text()
    eventually(lambda: number.read_text() not in ("", before))
    daemon.start()
    assert "never" not in docker.ok("images")


def frozen(pid: int) -> bool:
    """Whether the freezer has a process."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if controllers == "freezer":
            return Path(f"/sys/fs/cgroup/freezer{path}/freezer.state").read_text().strip() != "THAWED"
        if number == "0" and Path(f"/sys/fs/cgroup{path}/cgroup.freeze").exists():
            return Path(f"/sys/fs/cgroup{path}/cgroup.freeze").read_text().strip() == "1"
    return False


@pytest.mark.parametrize("target", ["-o", "stdout"])
def test_pallet_commands(docker: DockerCli, engine: Daemon, made: list[str], tmp_path: Path, target: str) -> None:
    not_on_dockerd(engine, "the command line is Pallet's")
    pallet = engine.cli(pallet_command())
    docker.ok("run", "--name", "cc", "--network=none", "-v", "/vol", "busybox", "sh", "-c", CHANGES)
    assert pallet.ok("diff", "cc").splitlines() == LISTED
    if target == "-o":
        pallet.ok("export", "-o", str(tmp_path / "x.tar"), "cc")
        body = (tmp_path / "x.tar").read_bytes()
        assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]
    else:
        body = engine.api.call("GET", "/containers/cc/export").body
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        assert "new/deep/f" in tar.getnames()
    made.append(f"by-{len(target)}:1")
    image_id = pallet.ok("commit", "-m", "m", "--pause=false", "cc", made[-1]).strip()
    assert inspect(engine, made[-1])["Id"] == image_id
    assert pallet.run("export", "-o", "/nowhere/x", "cc").code == 1


def test_layers_kept_as_images(fresh_palletd: Callable[..., Daemon]) -> None:
    """The EROFS driver: what is compared with is mounted from images."""
    daemon = fresh_palletd("--storage-driver", "erofs")
    not_on_dockerd(daemon, "the driver is Pallet's")
    docker = daemon.cli()
    for name, image in (("c1", "busybox"), ("c2", "again:1")):
        docker.ok("run", "--name", name, "--network=none", "-v", "/vol", image, "sh", "-c",
                  CHANGES if name == "c1" else "rm -r /new; echo >/x")
        docker.ok("commit", name, "again:1")
    assert docker.ok("diff", "c1").splitlines() == LISTED
    assert docker.ok("diff", "c2").splitlines() == ["D /new", "A /x"]
    assert {"x", "hl", "etc/passwd"} <= set(exported(daemon, "c2"))
    assert docker.ok("run", "--rm", "--network=none", "again:1", "ls", "/hl", "/x").split() == ["/hl", "/x"]


def test_a_container_removed_meanwhile_is_no_archive(fresh_palletd: Callable[..., Daemon]) -> None:
    daemon = fresh_palletd()
    not_on_dockerd(daemon, "it keeps the files until the export ends")
    docker = daemon.cli()
    docker.ok("run", "--name", "cc", "--network=none", "busybox", "sh", "-c",
              "head -c 30000000 /dev/zero >/a; touch /b /z")
    export = docker.start("export", "-o", str(daemon.top / "never.tar"), "cc")
    commit = docker.start("commit", "cc")
    docker.run("rm", "cc")
    export.communicate()
    commit.communicate()
    if export.returncode == 0:  # else the client was told, and may leave what it has: it does not remove its file
        with tarfile.open(daemon.top / "never.tar") as tar:
            assert {"a", "b", "z", "etc/passwd"} <= set(tar.getnames()), "whole or not at all"
