"""Create, start, stop, kill, restart, rename, wait, remove, list, inspect, events."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import eventually, steady

if TYPE_CHECKING:
    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")

TRAP = "trap 'echo bye; exit 3' TERM; trap 'echo usr; exit 4' USR1; echo up; while true; do sleep 0.05; done"


def status(docker: DockerCli, name: str) -> str:
    return str(docker.inspect(name)["State"]["Status"])


def start_trap(docker: DockerCli, name: str, *flags: str) -> None:
    docker.ok("run", "-d", "--name", name, *flags, "busybox", "sh", "-c", TRAP)
    eventually(lambda: "up" in docker.ok("logs", name))


def test_states(docker: DockerCli, name: str) -> None:
    docker.ok("create", "--name", name, "busybox", "sleep", "60")
    assert status(docker, name) == "created"
    docker.ok("start", name)
    assert status(docker, name) == "running"
    docker.ok("kill", name)
    assert status(docker, name) == "exited"
    state = docker.inspect(name)["State"]
    assert (state["ExitCode"], state["Running"], state["Pid"]) == (137, False, 0)
    assert state["FinishedAt"] > state["StartedAt"] > "2020"


def test_stop_lets_it_clean_up(docker: DockerCli, name: str) -> None:
    start_trap(docker, name)
    docker.ok("stop", name)
    assert docker.inspect(name)["State"]["ExitCode"] == 3
    assert docker.ok("logs", name).endswith("bye")


def test_stop_kills_after_its_timeout(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    began = time.monotonic()
    docker.ok("stop", "-t", "1", name)
    assert 0.9 < time.monotonic() - began < 5
    assert docker.inspect(name)["State"]["ExitCode"] == 137


def test_stop_signal_of_the_container(docker: DockerCli, name: str) -> None:
    start_trap(docker, name, "--stop-signal", "USR1", "--stop-timeout", "8")
    docker.ok("stop", name)
    assert docker.inspect(name)["State"]["ExitCode"] == 4


def test_stop_and_start_twice_are_quiet(engine: Daemon, docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--init", "--name", name, "busybox", "sleep", "600")
    assert engine.api.call("POST", f"/containers/{name}/start").status == 304
    docker.ok("start", name)
    docker.ok("stop", name)
    assert engine.api.call("POST", f"/containers/{name}/stop").status == 304
    docker.ok("stop", name)


def test_kill_of_a_stopped_container(docker: DockerCli, name: str) -> None:
    full = docker.ok("create", "--name", name, "busybox")
    result = docker.run("kill", name)
    assert result.code == 1
    assert "is not running" in result.err
    assert full in result.err or name in result.err


def test_kill_with_a_signal_goes_on(docker: DockerCli, name: str) -> None:
    script = "trap 'echo hup' HUP; echo up; while true; do sleep 0.05; done"
    docker.ok("run", "-d", "--name", name, "busybox", "sh", "-c", script)
    eventually(lambda: "up" in docker.ok("logs", name))
    docker.ok("kill", "-s", "HUP", name)
    eventually(lambda: "hup" in docker.ok("logs", name))
    assert status(docker, name) == "running"
    result = docker.run("kill", "-s", "NOPE", name)
    assert result.code == 1
    assert "nvalid signal: NOPE" in result.err


def test_restart_keeps_the_layer_and_changes_the_process(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--init", "--name", name, "busybox", "sh", "-c",
              "echo run >> /runs; exec sleep 600")  # fmt: skip
    eventually(lambda: docker.run("exec", name, "cat", "/runs").text == "run")
    first = docker.inspect(name)["State"]["Pid"]
    docker.ok("restart", "-t", "2", name)
    eventually(lambda: docker.run("exec", name, "cat", "/runs").text == "run\nrun")
    assert docker.inspect(name)["State"]["Pid"] not in (0, first)


def test_start_again_keeps_the_layer(docker: DockerCli, name: str) -> None:
    docker.ok("run", "--name", name, "busybox", "sh", "-c", "date >> /f; wc -l < /f")
    assert docker.ok("start", "-a", name) == "2"
    assert docker.ok("start", "-a", name) == "3"


def test_rename(docker: DockerCli, name: str) -> None:
    full = docker.ok("create", "--name", name, "busybox")
    docker.ok("rename", name, f"{name}-new")
    assert docker.inspect(f"{name}-new")["Id"] == full
    assert docker.run("inspect", name).code == 1
    other = f"{name}-other"
    docker.ok("create", "--name", other, "busybox")
    result = docker.run("rename", f"{name}-new", other)
    assert result.code == 1
    assert "is already in use by container" in result.err


def test_wait_for_several(docker: DockerCli, name: str) -> None:
    for code in ("0", "7"):
        docker.ok("run", "-d", "--name", f"{name}-{code}", "busybox", "sh", "-c", f"exit {code}")
    assert docker.ok("wait", f"{name}-0", f"{name}-7").split() == ["0", "7"]


def test_wait_conditions(engine: Daemon, docker: DockerCli, name: str) -> None:
    docker.ok("create", "--name", name, "busybox", "sh", "-c", "sleep 0.2; exit 6")
    assert engine.api.call("POST", f"/containers/{name}/wait").json["StatusCode"] == 0
    waiter = docker.start("wait", name, stdin=subprocess.DEVNULL)
    waiter.communicate(timeout=10)
    docker.ok("start", name)
    reply = engine.api.call("POST", f"/containers/{name}/wait?condition=next-exit")
    assert reply.json["StatusCode"] == 6


def test_remove(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    result = docker.run("rm", name)
    assert result.code == 1
    assert (f'cannot remove container "/{name}": container is running: stop the container before removing '
            "or force remove") in result.err
    assert docker.ok("rm", "-f", name) == name
    result = docker.run("rm", name)
    assert result.code == 1
    assert f"No such container: {name}" in result.err
    assert docker.run("rm", "-f", name).code == 0


def test_lookup_by_id_prefix(docker: DockerCli, name: str) -> None:
    full = docker.ok("create", "--name", name, "busybox")
    assert docker.inspect(full[:12])["Id"] == full
    assert docker.inspect(f"/{name}")["Id"] == full


def test_names_are_made_up(docker: DockerCli) -> None:
    full = docker.ok("create", "busybox")
    left, _, right = docker.inspect(full)["Name"].lstrip("/").partition("_")
    assert left.isalpha()
    assert right.isalnum()


@pytest.mark.parametrize("bad", ["-x", "a/b", "ä", "x"])
def test_bad_names(docker: DockerCli, bad: str) -> None:
    result = docker.run("create", f"--name={bad}", "busybox")
    assert result.code == 1
    assert (
        f"Invalid container name ({bad}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed" in result.err
    )


def test_list_and_filters(docker: DockerCli, name: str) -> None:
    made = {}
    for kind, flags in {"a": ("-l", "k=1"), "b": ("-l", "k=2"), "c": ()}.items():
        made[kind] = docker.ok("run", "-d", "--init", "--name", f"{name}-{kind}", *flags, "busybox",
                               "sh", "-c", "echo up; exec sleep 600")  # fmt: skip
    # A first process that has not begun yet is deaf to signals.
    eventually(lambda: docker.ok("logs", f"{name}-c") == "up")
    docker.ok("stop", f"{name}-c")

    def listed(*filters: str, everything: bool = True) -> set[str]:
        args = [word for text in filters for word in ("--filter", text)]
        out = docker.ok("ps", "--no-trunc", "-q", *(["-a"] if everything else []), *args)
        return {kind for kind, full in made.items() if full in out.split()}

    assert listed(everything=False) == {"a", "b"}
    assert listed() == {"a", "b", "c"}
    assert listed("label=k") == {"a", "b"}
    assert listed("label=k=2") == {"b"}
    assert listed("status=exited") == {"c"}
    assert listed("status=exited", "status=running") == {"a", "b", "c"}
    assert listed(f"name={name}-[ab]") == {"a", "b"}
    assert listed(f"id={made['b'][:12]}") == {"b"}
    assert listed("exited=143") == {"c"}
    assert listed("exited=0") == set()
    assert listed("ancestor=busybox", "label=k=1") == {"a"}
    assert listed(f"before={made['b']}") == {"a"}
    assert listed(f"since={made['b']}") == {"c"}
    assert listed("network=bridge") == {"a", "b", "c"}
    assert docker.run("ps", "--filter", "nope=1").code == 1
    assert docker.ok("ps", "-n", "1", "--format", "{{.Names}}") == f"{name}-c"
    assert docker.ok("ps", "-l", "--format", "{{.Names}}") == f"{name}-c"


def test_list_columns(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "-p", "127.0.0.1::80", "busybox", "sleep", "600")
    header, row = docker.ok("ps").splitlines()[:2]
    assert header.split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS",
                              "NAMES"]  # fmt: skip
    assert '"sleep 600"' in row
    assert " Up " in row
    assert "->80/tcp" in row
    sizes = docker.ok("ps", "-s", "--format", "{{.Size}}")
    assert "virtual" in sizes


def test_inspect_fields(docker: DockerCli, name: str) -> None:
    docker.ok(
        "run", "-d", "--name", name, "--memory", "64m", "-e", "A=b", "busybox", "sleep", "600"
    )
    data = docker.inspect(name)
    assert data["Name"] == f"/{name}"
    assert (data["Path"], data["Args"]) == ("sleep", ["600"])
    assert data["Config"]["Image"] == "busybox"
    assert data["Image"].startswith("sha256:")
    assert data["HostConfig"]["Memory"] == 64 * 1024 * 1024
    assert data["HostConfig"]["NetworkMode"] in ("default", "bridge")
    assert data["NetworkSettings"]["Networks"]["bridge"]["IPAddress"].count(".") == 3
    assert "A=b" in data["Config"]["Env"]
    assert data["State"]["Pid"] > 1
    assert docker.ok("inspect", "-f", "{{.State.Status}} {{.Config.Cmd}}", name) == (
        "running [sleep 600]"
    )
    assert "SizeRw" in docker.ok("inspect", "--size", name)


def test_events_in_order(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--init", "--name", name, "busybox", "sleep", "600")
    full = docker.inspect(name)["Id"]
    docker.ok("stop", name)
    docker.ok("rm", name)
    rows = [json.loads(line) for line in docker.events(template="{{json .}}")]
    mine = [
        (row["Type"], row["Action"])
        for row in rows
        if full in (row["Actor"]["ID"], row["Actor"]["Attributes"].get("container"))
    ]
    assert mine == [
        ("container", "create"), ("network", "connect"), ("container", "start"),
        ("container", "kill"), ("container", "die"), ("network", "disconnect"),
        ("container", "stop"), ("container", "destroy"),
    ]  # fmt: skip
    die = next(row for row in rows if row["Action"] == "die" and row["Actor"]["ID"] == full)
    assert die["Actor"]["Attributes"]["exitCode"] == "143"
    assert die["Actor"]["Attributes"]["image"] == "busybox"
    assert die["Actor"]["Attributes"]["name"] == name


def test_events_live(docker: DockerCli, name: str) -> None:
    watcher = docker.start("events", "--filter", f"container={name}", "--format", "{{.Action}}")
    assert watcher.stdout
    steady(lambda: watcher.poll() is None, for_s=0.4)
    docker.ok("run", "--rm", "--name", name, "busybox", "true")
    seen: list[str] = []
    while not seen or seen[-1] != "destroy":
        seen.append(watcher.stdout.readline().strip())
    watcher.kill()
    watcher.communicate()
    assert seen[0] == "create"
    assert seen.index("start") < seen.index("die") < seen.index("destroy")


@pytest.mark.parametrize(
    ("policy", "script", "restarts"),
    [("no", "exit 1", 0), ("on-failure:2", "exit 1", 2), ("on-failure:2", "exit 0", 0)],
)
def test_restart_policy(
    docker: DockerCli, name: str, policy: str, script: str, restarts: int
) -> None:
    docker.ok("run", "-d", "--name", name, "--restart", policy, "busybox", "sh", "-c", script)
    eventually(lambda: status(docker, name) == "exited")
    data = docker.inspect(name)
    assert data["RestartCount"] == restarts
    assert data["State"]["ExitCode"] == int(script.split()[1])


def test_restart_always_until_stopped(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "--restart", "always", "busybox", "sh", "-c",
              "date >> /runs; sleep 0.1")  # fmt: skip
    eventually(lambda: docker.inspect(name)["RestartCount"] >= 2)
    docker.ok("stop", name)
    assert status(docker, name) == "exited"
    count = docker.inspect(name)["RestartCount"]
    steady(lambda: docker.inspect(name)["State"]["Running"] is False, for_s=0.8)
    assert docker.inspect(name)["RestartCount"] == count


def test_restart_policy_conflicts_with_rm(docker: DockerCli) -> None:
    result = docker.run("run", "--rm", "--restart", "always", "busybox", "true")
    assert result.code == 125
