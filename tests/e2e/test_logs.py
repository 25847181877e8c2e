"""``docker logs``: follow, tail, since, until, timestamps, streams, long lines, rotation."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")

STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (.*)$")


def finished(docker: DockerCli, name: str, script: str, *flags: str) -> None:
    docker.ok("run", "-d", "--name", name, *flags, "busybox", "sh", "-c", script)
    docker.ok("wait", name)


def test_streams_stay_apart(docker: DockerCli, name: str) -> None:
    finished(docker, name, "echo out; echo err >&2")
    result = docker.run("logs", name)
    assert (result.out, result.err) == ("out\n", "err\n")


def test_terminal_output_is_one_stream(docker: DockerCli, name: str) -> None:
    finished(docker, name, "echo out; echo err >&2", "-t")
    assert docker.run("logs", name).out == "out\r\nerr\r\n"


@pytest.mark.parametrize(("tail", "expected"), [("2", "4\n5\n"), ("0", ""), ("all", "1\n2\n3\n4\n5\n"),
                                                ("99", "1\n2\n3\n4\n5\n")])  # fmt: skip
def test_tail(docker: DockerCli, name: str, tail: str, expected: str) -> None:
    finished(docker, name, "seq 5")
    assert docker.run("logs", "--tail", tail, name).out == expected


def test_timestamps(docker: DockerCli, name: str) -> None:
    finished(docker, name, "seq 3")
    lines = docker.ok("logs", "-t", name).splitlines()
    found = [STAMP.match(line) for line in lines]
    assert [match and match.group(1) for match in found] == ["1", "2", "3"]


def test_since_and_until(docker: DockerCli, name: str) -> None:
    finished(docker, name, "echo one; sleep 1.1; echo two; sleep 1.1; echo three")
    stamps = [line.split()[0] for line in docker.ok("logs", "-t", name).splitlines()]
    assert docker.ok("logs", "--since", stamps[1], name) == "two\nthree"
    assert docker.ok("logs", "--until", stamps[1], name).startswith("one")
    assert "three" not in docker.ok("logs", "--until", stamps[1], name)
    assert docker.ok("logs", "--since", "1h", name) == "one\ntwo\nthree"


def test_follow_ends_with_the_container(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; "
              "sleep 0.1; done")  # fmt: skip
    assert docker.run("logs", "-f", name, timeout_s=20).out == "1\n2\n3\n"


def test_follow_with_tail_continues(docker: DockerCli, name: str) -> None:
    script = "seq 50; cat"
    docker.ok("run", "-d", "-i", "--name", name, "busybox", "sh", "-c", script)
    eventually(lambda: docker.ok("logs", name).endswith("50"))
    follower = docker.start("logs", "-f", "--tail", "2", name, stdin=subprocess.DEVNULL)
    assert follower.stdout
    assert [follower.stdout.readline() for _ in range(2)] == ["49\n", "50\n"]
    attached = docker.start("attach", name, bufsize=1)
    assert attached.stdin
    attached.stdin.write("typed\n")
    assert follower.stdout.readline() == "typed\n"
    docker.ok("kill", name)
    out, _ = follower.communicate(timeout=15)
    assert (out, follower.returncode) == ("", 0)


def test_follow_survives_a_restart_only_until_the_end(docker: DockerCli, name: str) -> None:
    finished(docker, name, "echo again")
    docker.ok("start", "-a", name)
    assert docker.ok("logs", name) == "again\nagain"


def test_long_line_is_whole(docker: DockerCli, name: str) -> None:
    finished(docker, name, "head -c 50000 /dev/zero | tr '\\0' y; echo")
    assert docker.run("logs", name).out == "y" * 50_000 + "\n"


def test_last_line_without_newline(docker: DockerCli, name: str) -> None:
    finished(docker, name, "printf unfinished")
    assert docker.run("logs", name).out == "unfinished"


def test_file_on_disk_is_docker_s_format(engine: Daemon, docker: DockerCli, name: str) -> None:
    finished(docker, name, "echo 'quote \" and ä'; echo err >&2")
    path = docker.inspect(name)["LogPath"]
    assert path.startswith(str(engine.data_root))
    with open(path, encoding="utf-8") as log:
        rows = [json.loads(line) for line in log]
    assert {row["stream"]: row["log"] for row in rows} == {
        "stdout": 'quote " and ä\n', "stderr": "err\n",
    }  # fmt: skip
    assert all(row["time"].endswith("Z") for row in rows)


def test_rotation_keeps_the_newest(docker: DockerCli, name: str) -> None:
    finished(docker, name, "seq 20000", "--log-opt", "max-size=50k", "--log-opt", "max-file=2")
    lines = docker.ok("logs", name).splitlines()
    assert lines[-1] == "20000"
    assert 100 < len(lines) < 20_000
    assert lines == [str(n) for n in range(20_001 - len(lines), 20_001)]


def test_none_driver_cannot_be_read(docker: DockerCli, name: str) -> None:
    finished(docker, name, "echo x", "--log-driver", "none")
    result = docker.run("logs", name)
    assert result.code == 1
    assert "configured logging driver does not support reading" in result.err


def test_api_wants_a_stream(engine: Daemon, docker: DockerCli, name: str) -> None:
    finished(docker, name, "true")
    reply = engine.api.call("GET", f"/containers/{name}/logs")
    assert reply.status == 400
    assert "you must choose at least one stream" in reply.message


def test_unknown_container(docker: DockerCli) -> None:
    result = docker.run("logs", "nope")
    assert result.code == 1
    assert "No such container: nope" in result.err
