"""``docker cp`` into and out of containers: rules, mounts, and links that lead astray."""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import pallet_command
from tests.support.engines import not_on_dockerd
from tests.support.layers import Member, build, directory, hardlink, symlink

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """``one`` and a directory ``d`` with a file, a link and a directory."""
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "one").write_text("one")
    (tmp_path / "d/f").write_text("f")
    (tmp_path / "d/sub/g").write_text("g")
    (tmp_path / "d/l").symlink_to("f")
    return tmp_path


@pytest.fixture(params=["created", "running", "stopped"])
def container(request: pytest.FixtureRequest, docker: DockerCli) -> str:
    """A container ``box`` with a volume at /vol, in each state."""
    docker.ok("create", "--name", "box", "--network=none", "-v", "/vol", "busybox", "sleep", "1000")
    if request.param != "created":
        docker.ok("start", "box")
    if request.param == "stopped":
        docker.ok("kill", "box")
    return "box"


@pytest.fixture(params=["docker", "pallet"])
def copier(request: pytest.FixtureRequest, engine: Daemon, docker: DockerCli) -> DockerCli:
    """The command line that copies."""
    return docker if request.param == "docker" else engine.cli(pallet_command())


def listing(engine: Daemon, name: str, path: str) -> dict[str, tarfile.TarInfo]:
    reply = engine.api.call("GET", f"/containers/{name}/archive?path={path}")
    assert reply.status == 200, reply.body
    with tarfile.open(fileobj=io.BytesIO(reply.body)) as tar:
        return {info.name: info for info in tar}


def stat_of(engine: Daemon, name: str, path: str) -> Any:
    reply = engine.api.call("HEAD", f"/containers/{name}/archive?path={path}")
    headers = {key.lower(): value for key, value in reply.headers.items()}
    return json.loads(base64.b64decode(headers["x-docker-container-path-stat"]))


def put(engine: Daemon, name: str, path: str, *members: Member, query: str = "") -> Any:
    return engine.api.call("PUT", f"/containers/{name}/archive?path={path}{query}", build(*members),
                           {"Content-Type": "application/x-tar"})


def test_there_and_back(copier: DockerCli, source: Path, container: str, tmp_path: Path) -> None:
    copier.ok("cp", f"{source}/one", f"{container}:/vol/one")
    copier.ok("cp", f"{source}/d", f"{container}:/")
    copier.ok("cp", f"{source}/d/.", f"{container}:/x")
    copier.ok("cp", f"{source}/one", f"{container}:/d")
    back = tmp_path / "back"
    back.mkdir()
    for name in ("/vol/one", "/d", "/x"):
        copier.ok("cp", f"{container}:{name}", str(back))
    found = sorted(os.path.relpath(os.path.join(base, name), back)
                   for base, names, files in os.walk(back) for name in names + files)
    assert found == ["d", "d/f", "d/l", "d/one", "d/sub", "d/sub/g", "one", "x", "x/f", "x/l", "x/sub",
                     "x/sub/g"]
    assert ((back / "one").read_text(), os.readlink(back / "x/l")) == ("one", "f")
    copier.ok("cp", f"{container}:/d/f", str(back / "renamed"))
    copier.ok("cp", f"{container}:/d/.", str(back / "made"))
    assert ((back / "renamed").read_text(), (back / "made/sub/g").read_text()) == ("f", "g")
    copier.ok("cp", "-L", f"{container}:/d/l", str(back / "followed"))
    assert (back / "followed").read_text() == "f"


def test_what_docker_refuses(copier: DockerCli, source: Path, container: str) -> None:
    for arguments, text in (
        ((f"{source}/one", f"{container}:/none/"), "no such directory"),
        ((f"{source}/one", f"{container}:/none/x"), f"Could not find the file /none in container {container}"),
        ((f"{source}/d", f"{container}:/etc/passwd"), "cannot copy directory"),
        ((f"{container}:/none", "-"), f"Could not find the file /none in container {container}"),
    ):
        result = copier.run("cp", *arguments)
        assert result.code == 1
        assert text in result.err


def test_streams(copier: DockerCli, engine: Daemon, docker: DockerCli) -> None:
    docker.ok("create", "--name", "box", "--network=none", "busybox", "true")
    copier.ok("cp", "-", "box:/tmp", stdin=build(Member("streamed", b"x")))
    assert "tmp/streamed" in listing(engine, "box", "/tmp")
    assert "tmp/streamed" in copier.run("cp", "box:/tmp", "-").out
    result = copier.run("cp", "-", "box:/etc/passwd", stdin=build(Member("x", b"")))
    assert (result.code, 'destination "box:/etc/passwd" must be a directory' in result.err) == (1, True)


def test_links_stay_inside(docker: DockerCli, engine: Daemon, container: str) -> None:
    assert put(engine, container, "/", symlink("up", "../../../../etc"), symlink("abs", "/etc"),
               symlink("lost", "/nowhere")).status == 200
    assert put(engine, container, "/up", Member("here", b"x")).status == 200
    assert put(engine, container, "/", Member("abs/there", b"x")).status == 200
    assert not os.path.exists("/etc/here") and not os.path.exists("/etc/there")
    assert {"etc/here", "etc/there"} <= set(listing(engine, container, "/etc"))
    assert (stat_of(engine, container, "/up")["linkTarget"],
            stat_of(engine, container, "/lost")["linkTarget"]) == ("/etc", "/nowhere")
    assert stat_of(engine, container, "/up/")["linkTarget"] == ""
    assert list(listing(engine, container, "/abs")) == ["abs"]


@pytest.mark.parametrize("member", [
    Member("../../evil", b"x"), hardlink("h", "../../etc/shadow"), Member("a/../../evil", b"x")])
def test_archives_that_break_out(docker: DockerCli, engine: Daemon, member: Member) -> None:
    docker.ok("create", "--name", "box", "--network=none", "busybox", "true")
    assert put(engine, "box", "/tmp", member).status >= 400
    names = listing(engine, "box", "/")
    assert not any(name.endswith("evil") for name in names)


def test_kinds_owners_times_and_links(docker: DockerCli, engine: Daemon) -> None:
    docker.ok("create", "--name", "box", "--network=none", "-u", "1000:1000", "busybox", "true")
    members = (directory("dir", 0o2750, uid=7), Member("dir/f", b"data", mode=0o4755, uid=8, gid=9, mtime=5),
               hardlink("dir/h", "dir/f"), Member("fifo", kind=tarfile.FIFOTYPE))
    assert put(engine, "box", "/tmp", *members).status == 200
    found = listing(engine, "box", "/tmp/dir")
    assert oct(found["dir"].mode) == "0o2750"
    file = found["dir/f"]
    assert (oct(file.mode), file.uid, file.gid, file.mtime) == ("0o4755", 8, 9, 5)
    assert found["dir/h"].linkname == "dir/f"
    assert stat_of(engine, "box", "/tmp/dir/f")["mode"] == 0o755 | 1 << 23
    assert put(engine, "box", "/tmp", Member("own", b""), query="&copyUIDGID=1").status == 200
    assert listing(engine, "box", "/tmp/own")["own"].uid == 1000
    assert put(engine, "box", "/tmp", Member("dir", b""), query="&noOverwriteDirNonDir=1").status >= 400
    assert put(engine, "box", "/tmp", Member("dir", b"file")).status == 200
    assert listing(engine, "box", "/tmp/dir")["dir"].isfile()
    assert put(engine, "box", "/etc/passwd").status == 400


def test_read_only(docker: DockerCli, engine: Daemon, tmp_path: Path) -> None:
    docker.ok("run", "-d", "--name", "box", "--network=none", "--read-only", "-v", f"{tmp_path}:/ro:ro", "-v",
              "/rw", "busybox", "sleep", "1000")
    for state in ("running", "stopped"):
        refused = [put(engine, "box", path, Member("x", b"")) for path in ("/", "/ro")]
        assert [reply.json["message"] for reply in refused] == [
            "container rootfs is marked read-only", "mounted volume is marked read-only"], state
        assert put(engine, "box", "/rw", Member("x", b"")).status == 200
        docker.run("kill", "box")
    assert list(tmp_path.iterdir()) == []


def test_damaged_archives_leave_the_daemon_well(docker: DockerCli, engine: Daemon) -> None:
    not_on_dockerd(engine, "it answers 500")
    docker.ok("create", "--name", "box", "--network=none", "busybox", "true")
    whole = build(Member("x", bytes(100_000)))
    reply = engine.api.call("PUT", "/containers/box/archive?path=/tmp", whole[:50_000])
    assert reply.status >= 400
    reply = engine.api.call("PUT", "/containers/box/archive?path=/none", whole * 20)
    assert reply.status == 404
    assert put(engine, "box", "/tmp", Member("y", b"")).status == 200
