"""``docker exec``: streams, terminal, identity, exit codes, and its errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.engines import not_on_dockerd
from tests.support.terminal import PROMPT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")


@pytest.fixture
def box(docker: DockerCli, name: str) -> str:
    """A running container."""
    docker.ok("run", "-d", "--init", "--name", name, "-e", "FROM_RUN=1", "--hostname", "box",
              "-w", "/srv", "busybox", "sleep", "600")  # fmt: skip
    return name


def test_streams_and_code(any_docker: DockerCli, docker: DockerCli, box: str) -> None:
    del docker
    result = any_docker.run("exec", box, "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (result.code, result.out, result.err) == (5, "out\n", "err\n")


def test_stdin(docker: DockerCli, box: str) -> None:
    assert docker.run("exec", "-i", box, "wc", "-c", stdin="12345").text == "5"


def test_is_inside_the_container(docker: DockerCli, box: str) -> None:
    out = docker.ok("exec", box, "sh", "-c", "hostname; pwd; echo $FROM_RUN; cat /proc/1/comm")
    assert out.splitlines()[:3] == ["box", "/srv", "1"]
    same = (
        "for n in mnt pid net uts ipc; do readlink /proc/1/ns/$n; readlink /proc/self/ns/$n; done"
    )
    lines = docker.ok("exec", box, "sh", "-c", same).splitlines()
    assert lines[::2] == lines[1::2]
    assert len(lines) == 10


def test_options(docker: DockerCli, box: str) -> None:
    out = docker.ok("exec", "-u", "app", "-w", "/tmp", "-e", "A=b", box, "sh", "-c",
                    "id -un; pwd; echo $A $HOME")  # fmt: skip
    assert out.splitlines() == ["app", "/tmp", "b /home/app"]


def test_terminal(any_docker: DockerCli, docker: DockerCli, box: str) -> None:
    del docker
    with any_docker.terminal("exec", "-it", box, "sh", rows=31, columns=99) as terminal:
        terminal.expect(PROMPT)
        terminal.type("tty; while ! stty size 2>&1 | grep '31 99'; do sleep 0.1; done\n")
        terminal.expect("/dev/pts/")
        terminal.expect("\n31 99")
        terminal.type("exit 6\n")
        assert terminal.wait() == 6


def test_detached(docker: DockerCli, box: str) -> None:
    assert docker.run("exec", "-d", box, "sh", "-c", "echo done > /tmp/made").out == ""
    eventually(lambda: docker.run("exec", box, "cat", "/tmp/made").text == "done")


def test_privileged_has_every_capability(engine: Daemon, docker: DockerCli, box: str) -> None:
    not_on_dockerd(engine, "runc asks for capabilities that this host withholds from everyone")
    read = ("grep", "CapEff", "/proc/self/status")
    plain = docker.ok("exec", box, *read).split()[1]
    full = docker.ok("exec", "--privileged", box, *read).split()[1]
    assert plain == "00000000a80425fb"
    assert int(full, 16) & int(plain, 16) == int(plain, 16)
    assert int(full, 16).bit_count() > 30


def test_unknown_command_is_127(engine: Daemon, docker: DockerCli, box: str) -> None:
    result = docker.run("exec", box, "no-such-command")
    assert result.code == (126 if engine.kind == "docker" else 127)
    assert "executable file not found" in result.out  # Docker writes it there
    assert not result.err


def test_directory_is_126(docker: DockerCli, box: str) -> None:
    assert docker.run("exec", box, "/etc").code == 126


def test_stopped_container_is_refused(docker: DockerCli, box: str) -> None:
    docker.ok("kill", box)
    result = docker.run("exec", box, "true")
    assert result.code == 1
    assert "is not running" in result.err


def test_lives_in_the_container_s_cgroup(docker: DockerCli, box: str) -> None:
    read = "cat /proc/self/cgroup"
    assert docker.ok("exec", box, "sh", "-c", read) == docker.ok(
        "exec", box, "cat", "/proc/1/cgroup"
    )


def test_ends_with_the_container(docker: DockerCli, box: str) -> None:
    process = docker.start("exec", box, "sleep", "300")
    eventually(lambda: "sleep 300" in docker.ok("exec", box, "ps", "-o", "args"))
    docker.ok("kill", box)
    process.communicate(timeout=15)
    assert process.returncode == 137


def test_inspect_and_second_start(engine: Daemon, docker: DockerCli, box: str) -> None:
    del docker
    body = {"Cmd": ["sh", "-c", "exit 8"], "AttachStdout": True}
    reply = engine.api.call("POST", f"/containers/{box}/exec", body)
    assert reply.status == 201
    exec_id = reply.json["Id"]
    before = engine.api.get(f"/exec/{exec_id}/json")
    assert (before["Running"], before["ExitCode"]) == (False, None)
    assert before["ProcessConfig"]["entrypoint"] == "sh"
    assert engine.api.call("POST", f"/exec/{exec_id}/start", {"Detach": True}).status == 200
    eventually(lambda: engine.api.get(f"/exec/{exec_id}/json")["ExitCode"] == 8)
    again = engine.api.call("POST", f"/exec/{exec_id}/start", {"Detach": True})
    assert again.status == 409


def test_events(docker: DockerCli, box: str) -> None:
    docker.ok("exec", box, "true")
    shown = docker.events(f"container={box}")
    actions = [line.split(":")[0] for line in shown if line.startswith("exec")]
    assert actions == ["exec_create", "exec_start", "exec_die"]
