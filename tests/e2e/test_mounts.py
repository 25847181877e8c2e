"""Binds, ``--mount``, tmpfs, volumes, read-only roots, and the files that the engine writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")


def test_bind_both_ways(docker: DockerCli, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from host")
    out = docker.ok("run", "--rm", "-v", f"{tmp_path}:/data", "busybox", "sh", "-c",
                    "cat /data/in; echo from container > /data/out")  # fmt: skip
    assert out == "from host"
    assert (tmp_path / "out").read_text() == "from container\n"


def test_bind_of_one_file(docker: DockerCli, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one")
    shown = docker.ok("run", "--rm", "-v", f"{tmp_path}/f:/etc/deep/f", "busybox", "cat",
                      "/etc/deep/f")  # fmt: skip
    assert shown == "one"


def test_bind_read_only(docker: DockerCli, tmp_path: Path) -> None:
    result = docker.run("run", "--rm", "-v", f"{tmp_path}:/data:ro", "busybox", "touch", "/data/x")
    assert result.code == 1
    assert "Read-only file system" in result.err


def test_bind_makes_a_missing_directory(docker: DockerCli, tmp_path: Path) -> None:
    docker.ok("run", "--rm", "-v", f"{tmp_path}/new/dir:/data", "busybox", "true")
    assert (tmp_path / "new/dir").is_dir()


def test_mount_demands_an_existing_source(docker: DockerCli, tmp_path: Path) -> None:
    mount = f"type=bind,source={tmp_path}/none,target=/data"
    result = docker.run("run", "--rm", "--mount", mount, "busybox", "true")
    assert result.code == 125
    assert "bind source path does not exist" in result.err


def test_mount_bind(docker: DockerCli, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one")
    mount = f"type=bind,source={tmp_path},target=/data,readonly"
    script = "cat /data/f; touch /data/x 2>/dev/null || echo refused"
    out = docker.ok("run", "--rm", "--mount", mount, "busybox", "sh", "-c", script)
    assert out == "onerefused"


def test_duplicate_target(docker: DockerCli) -> None:
    result = docker.run("run", "--rm", "-v", "/tmp:/data", "-v", "/var:/data", "busybox", "true")
    assert result.code == 125
    assert "Duplicate mount point: /data" in result.err


def test_deeper_targets_are_mounted_later(docker: DockerCli, tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "name").write_text(part)
    out = docker.ok("run", "--rm", "-v", f"{tmp_path}/b:/x/y", "-v", f"{tmp_path}/a:/x", "busybox",
                    "cat", "/x/name", "/x/y/name")  # fmt: skip
    assert out == "ab"


def test_propagation_of_a_private_bind(docker: DockerCli, tmp_path: Path) -> None:
    out = docker.ok("run", "--rm", "-v", f"{tmp_path}:/data", "busybox", "grep", " /data ",
                    "/proc/self/mountinfo")  # fmt: skip
    assert "shared:" not in out


def test_tmpfs(docker: DockerCli) -> None:
    out = docker.ok("run", "--rm", "--tmpfs", "/scratch:size=1m,mode=1770", "busybox", "sh", "-c",
                    "grep ' /scratch ' /proc/mounts; stat -c %a /scratch; "
                    "head -c 2m /dev/zero > /scratch/x; wc -c < /scratch/x")  # fmt: skip
    lines = out.splitlines()
    assert {"nosuid", "nodev", "noexec", "size=1024k"} <= set(lines[0].split()[3].split(","))
    assert lines[1:] == ["1770", "1048576"]


def test_mount_tmpfs(docker: DockerCli) -> None:
    mount = "type=tmpfs,target=/scratch,tmpfs-size=2097152"
    out = docker.ok(
        "run", "--rm", "--mount", mount, "busybox", "grep", " /scratch ", "/proc/mounts"
    )
    assert "size=2048k" in out


def test_read_only_root(docker: DockerCli) -> None:
    script = "touch /x 2>&1; touch /run/x 2>&1; touch /scratch/x && echo written"
    result = docker.run("run", "--rm", "--read-only", "--tmpfs", "/scratch", "busybox", "sh", "-c",
                        script)  # fmt: skip
    assert "touch: /x: Read-only file system" in result.out
    assert result.text.endswith("written")


def test_named_volume_outlives_its_container(docker: DockerCli, name: str) -> None:
    docker.ok("run", "--rm", "-v", f"{name}:/data", "busybox", "sh", "-c", "echo kept > /data/f")
    try:
        assert docker.ok("run", "--rm", "-v", f"{name}:/d", "busybox", "cat", "/d/f") == "kept"
        assert name in docker.ok("volume", "ls", "-q").split()
    finally:
        docker.ok("volume", "rm", name)


def test_volume_takes_the_image_s_content_once(docker: DockerCli, name: str) -> None:
    mount = ("-v", f"{name}:/home")
    script = "stat -c %u:%a /home/app; rmdir /home/app; touch /home/mine"
    shown = docker.ok("run", "--rm", *mount, "busybox", "sh", "-c", script)
    try:
        assert shown == "1000:755"
        assert docker.ok("run", "--rm", *mount, "busybox", "ls", "/home") == "mine"
    finally:
        docker.ok("volume", "rm", name)


def test_anonymous_volume_goes_with_rm(docker: DockerCli) -> None:
    before = set(docker.ok("volume", "ls", "-q").split())
    docker.ok("run", "--rm", "-v", "/data", "busybox", "touch", "/data/x")
    assert set(docker.ok("volume", "ls", "-q").split()) == before


def test_engine_files(docker: DockerCli) -> None:
    out = docker.ok("run", "--rm", "--hostname", "box", "--add-host", "db:10.9.8.7", "busybox", "sh",
                    "-c", "cat /etc/hosts; hostname -i")  # fmt: skip
    *hosts, address = out.splitlines()
    assert hosts[0].split() == ["127.0.0.1", "localhost"]
    assert "10.9.8.7\tdb" in hosts
    assert hosts[-1].split() == [address, "box"]


def test_resolv_conf(docker: DockerCli) -> None:
    args = ("--dns", "10.1.2.3", "--dns-search", "example.test", "--dns-option", "ndots:2")
    out = docker.ok("run", "--rm", *args, "busybox", "cat", "/etc/resolv.conf")
    assert {"nameserver 10.1.2.3", "search example.test", "options ndots:2"} <= set(
        out.splitlines()
    )


def test_shm_size(docker: DockerCli) -> None:
    args = ("busybox", "grep", "/dev/shm", "/proc/mounts")
    assert "size=65536k" in docker.ok("run", "--rm", *args)
    assert "size=8192k" in docker.ok("run", "--rm", "--shm-size", "8m", *args)


def test_layer_is_written_and_counted(docker: DockerCli, name: str) -> None:
    docker.ok("run", "--name", name, "busybox", "sh", "-c", "head -c 300000 /dev/zero > /big")
    assert docker.inspect(name)["State"]["ExitCode"] == 0
    reply = docker.ok("ps", "-a", "-s", "--filter", f"name={name}", "--format", "{{.Size}}")
    assert reply.split()[0] in ("300kB", "303kB", "305kB")


def test_the_mode_of_a_volume_tells_whether_it_was_named(docker: DockerCli, name: str) -> None:
    docker.ok("create", "--name", name, "-v", "/anonymous", "-v", f"{name}-v:/named", "busybox")
    modes = {mount["Destination"]: mount["Mode"] for mount in docker.inspect(name)["Mounts"]}
    assert modes == {"/anonymous": "", "/named": "z"}
    docker.ok("rm", "-v", name)
    docker.ok("volume", "rm", f"{name}-v")
