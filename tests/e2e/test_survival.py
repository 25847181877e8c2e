"""Containers outlive their daemon: kill -9, restart, upgrade in place, and nothing half made stays."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.registry import free_port
from tests.support.terminal import PROMPT
from tests.support.waiting import eventually, steady

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")

COUNT = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.02; done"


@pytest.fixture
def daemon(fresh_palletd: Callable[..., Daemon]) -> Daemon:
    """A daemon of the test's own."""
    made = fresh_palletd()
    if made.kind == "docker":
        pytest.skip("dockerd keeps containers only with --live-restore")
    return made


def last_line(daemon: Daemon, name: str) -> int:
    lines = daemon.cli().ok("logs", "--tail", "1", name).split()
    return int(lines[-1]) if lines else 0


def test_running_containers_go_on(daemon: Daemon) -> None:
    docker = daemon.cli()
    docker.ok("run", "-d", "--name", "counter", "busybox", "sh", "-c", COUNT)
    eventually(lambda: last_line(daemon, "counter") > 3)
    before = docker.inspect("counter")
    daemon.kill()
    daemon.start()
    after = docker.inspect("counter")
    assert after["State"]["Running"]
    assert after["State"]["Pid"] == before["State"]["Pid"]
    assert after["State"]["StartedAt"] == before["State"]["StartedAt"]
    reached = last_line(daemon, "counter")
    eventually(lambda: last_line(daemon, "counter") > reached + 5)
    lines = docker.ok("logs", "counter").splitlines()
    assert lines == [f"line {n}" for n in range(1, len(lines) + 1)], "no line was lost"
    assert docker.ok("exec", "counter", "echo", "still here") == "still here"
    docker.ok("stop", "-t", "0", "counter")
    assert docker.inspect("counter")["State"]["ExitCode"] == 137


def test_exit_codes_of_those_that_ended_meanwhile(daemon: Daemon) -> None:
    docker = daemon.cli()
    for code in (0, 7):
        script = f"while [ ! -e /tmp/go ]; do sleep 0.02; done; exit {code}"
        docker.ok("run", "-d", "--name", f"ends-{code}", "busybox", "sh", "-c", script)
    killed = docker.ok("run", "-d", "--name", "killed", "busybox", "sleep", "600")
    pids = {name: docker.inspect(name)["State"]["Pid"] for name in ("ends-0", "ends-7", "killed")}
    for name in ("ends-0", "ends-7"):
        docker.ok("exec", "-d", name, "sh", "-c", "sleep 0.4; touch /tmp/go")
    daemon.kill()
    subprocess.run(["kill", "-9", str(pids["killed"])], check=True)
    eventually(lambda: not any(_alive(pid) for pid in pids.values()))
    daemon.start()
    for name, code in (("ends-0", 0), ("ends-7", 7), ("killed", 137)):
        state = docker.inspect(name)["State"]
        assert (name, state["Status"], state["ExitCode"]) == (name, "exited", code)
    assert killed in docker.ok("ps", "-a", "-q", "--no-trunc")


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _runs(docker: DockerCli, name: str) -> bool:
    return bool(docker.inspect(name)["State"]["Running"])


def test_published_ports_go_on(daemon: Daemon) -> None:
    from tests.e2e.test_network import BODY, WEB, fetch, serves

    docker = daemon.cli()
    port = free_port()
    docker.ok("run", "-d", "--name", "web", "-p", f"{port}:80", *WEB)
    eventually(lambda: fetch(f"http://127.0.0.1:{port}") == BODY)
    daemon.kill()
    for host in ("127.0.0.1", "[::1]"):
        eventually(partial(serves, f"http://{host}:{port}"))
    daemon.start()
    assert fetch(f"http://127.0.0.1:{port}") == BODY
    result = docker.run("run", "-d", "-p", f"{port}:80", *WEB)
    assert "port is already allocated" in result.err
    docker.ok("rm", "-f", "web")
    with pytest.raises(OSError, match="refused"):
        fetch(f"http://127.0.0.1:{port}")


def test_address_is_not_given_twice(daemon: Daemon) -> None:
    docker = daemon.cli()
    docker.ok("run", "-d", "--name", "first", "busybox", "sleep", "600")
    daemon.kill()
    daemon.start()
    for n in range(5):
        docker.ok("run", "-d", "--name", f"next-{n}", "busybox", "sleep", "600")
    names = ["first", *(f"next-{n}" for n in range(5))]
    addresses = [docker.inspect(n)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
                 for n in names]  # fmt: skip
    assert len(set(addresses)) == 6


def test_attached_session_survives(daemon: Daemon) -> None:
    docker = daemon.cli()
    with docker.terminal("run", "-it", "--name", "shell", "busybox") as terminal:
        terminal.expect(PROMPT)
        # The prompt can be quicker than the start's reply, which the command line still needs.
        eventually(lambda: docker.inspect("shell")["State"]["Running"])
        daemon.kill()
        terminal.type("echo alive $((40+2))\n")
        terminal.expect("\nalive 42")
        daemon.start()
        terminal.type("echo again\n")
        terminal.expect("\nagain")
        terminal.type("exit 0\n")
        terminal.wait()
    eventually(lambda: docker.inspect("shell")["State"]["Status"] == "exited")


def test_auto_remove_is_made_up_for(daemon: Daemon) -> None:
    docker = daemon.cli()
    docker.ok("run", "-d", "--rm", "--name", "gone", "busybox", "sleep", "600")
    pid = docker.inspect("gone")["State"]["Pid"]
    daemon.kill()
    subprocess.run(["kill", "-9", str(pid)], check=True)
    eventually(lambda: not _alive(pid))
    daemon.start()
    eventually(lambda: "gone" not in docker.ok("ps", "-a", "--format", "{{.Names}}"))


def test_restart_policies_at_daemon_start(daemon: Daemon) -> None:
    docker = daemon.cli()
    for policy in ("always", "unless-stopped", "no"):
        docker.ok("run", "-d", "--init", "--name", f"p-{policy}", "--restart", policy, "busybox",
                  "sleep", "600")  # fmt: skip
    docker.ok("run", "-d", "--init", "--name", "p-stopped", "--restart", "unless-stopped", "busybox",
              "sleep", "600")  # fmt: skip
    docker.ok("stop", "p-stopped")
    pids = [docker.inspect(f"p-{p}")["State"]["Pid"] for p in ("always", "unless-stopped", "no")]
    daemon.kill()
    for pid in pids:
        subprocess.run(["kill", "-9", str(pid)], check=True)
    eventually(lambda: not any(_alive(pid) for pid in pids))
    daemon.start()
    for policy in ("always", "unless-stopped"):
        eventually(partial(_runs, docker, f"p-{policy}"))
    assert not docker.inspect("p-no")["State"]["Running"]
    steady(lambda: not docker.inspect("p-stopped")["State"]["Running"])


def test_kill_under_load_leaves_nothing_half_made(daemon: Daemon) -> None:
    """Kill the daemon while it creates, starts and removes; the next one must agree with the host."""
    docker = daemon.cli()
    for _ in range(3):
        running = [
            docker.start("run", "--rm", "busybox", "true", stdin=subprocess.DEVNULL)
            for _ in range(8)
        ]
        began = docker.start("run", "-d", "busybox", "sleep", "600", stdin=subprocess.DEVNULL)
        assert began.stdout
        began.stdout.readline()
        daemon.kill()
        docker.end_started()
        assert running
        daemon.start()
        eventually(lambda: _settled(daemon), timeout_s=20)
        daemon.purge_containers()
        assert docker.ok("ps", "-a", "-q") == ""


def _settled(daemon: Daemon) -> bool:
    """No container is in between, and those that are called running are."""
    rows = daemon.api.get("/containers/json?all=1")
    for row in rows:
        state = daemon.api.get(f"/containers/{row['Id']}/json")["State"]
        if state["Running"] and not _alive(state["Pid"]):
            return False
        if state["Status"] not in ("created", "running", "exited"):
            return False
    return True


def test_clean_stop_keeps_containers(daemon: Daemon) -> None:
    docker = daemon.cli()
    docker.ok("run", "-d", "--name", "counter", "busybox", "sh", "-c", COUNT)
    assert daemon.stop() == 0
    assert not daemon.socket.exists()
    daemon.start()
    state = docker.inspect("counter")["State"]
    assert state["Running"]


def test_second_daemon_on_the_same_roots_is_refused(daemon: Daemon) -> None:
    argv = [word if word != daemon.host else f"unix://{daemon.top}/other.sock"
            for word in daemon.argv()]  # fmt: skip
    done = subprocess.run(argv, env=daemon.environment(), capture_output=True, text=True,
                          timeout=20, check=False)  # fmt: skip
    assert done.returncode != 0
    assert done.stderr
    assert daemon.api.call("GET", "/_ping").status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it(daemon: Daemon, number: signal.Signals) -> None:
    daemon.signal(number)
    assert daemon.process
    assert daemon.process.wait(15) == 0
    daemon.process = None


def test_starts_quickly(daemon: Daemon) -> None:
    """In half a second of a processor's time: what else the machine does meanwhile is not the daemon's."""
    daemon.stop()
    assert min(_restarted(daemon) for _ in range(3)) < 0.5


def _restarted(daemon: Daemon) -> float:
    daemon.start()
    assert daemon.process is not None
    seconds = _processor_seconds(daemon.process.pid)
    daemon.stop()
    return seconds


def _processor_seconds(pid: int) -> float:
    """Of a process, of its children, and of those that they have waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = [word for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()]
    own = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return own + sum(_processor_seconds(int(child)) for child in children)
