"""Memory, pids, cpu, ulimits: set in the kernel and enforced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import leaks
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox", "limits")


def cgroup_value(container_id: str, *names: str) -> str:
    """The first of ``names`` (v1 and v2 call a file differently) in the container's cgroups."""
    for directory in sorted(leaks.cgroups(container_id)):
        for name in names:
            path = Path(directory, name)
            if path.exists():
                return path.read_text().strip()
    raise AssertionError(f"no {names} for {container_id}")


def test_out_of_memory(any_docker: DockerCli, name: str) -> None:
    result = any_docker.run("run", "--name", name, "-m", "32m", "--memory-swap", "32m", "busybox",
                            "tail", "/dev/zero")  # fmt: skip
    assert result.code == 137
    state = any_docker.inspect(name)["State"]
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 137)
    assert "oom" in any_docker.events(f"container={name}")


def test_an_ordinary_end_is_not_out_of_memory(docker: DockerCli, name: str) -> None:
    docker.run("run", "--name", name, "-m", "32m", "busybox", "sh", "-c", "kill -9 $$")
    assert docker.inspect(name)["State"]["OOMKilled"] is False


def test_pids_limit(docker: DockerCli) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; wait"
    result = docker.run("run", "--rm", "--pids-limit", "5", "busybox", "sh", "-c", script)
    assert "can't fork" in result.err


def test_values_reach_the_kernel(docker: DockerCli, name: str) -> None:
    flags = ("--memory", "96m", "--memory-reservation", "48m", "--cpus", "0.5", "--cpu-shares",
             "512", "--pids-limit", "77", "--cpuset-cpus", "0")  # fmt: skip
    container = docker.ok("run", "-d", "--name", name, *flags, "busybox", "sleep", "600")
    assert cgroup_value(container, "memory.limit_in_bytes", "memory.max") == str(96 << 20)
    assert cgroup_value(container, "memory.soft_limit_in_bytes", "memory.low") == str(48 << 20)
    assert cgroup_value(container, "pids.max") == "77"
    assert cgroup_value(container, "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert cgroup_value(container, "cpu.shares", "cpu.weight") in ("512", "20", "59")  # v1, and two scales of v2
    assert cgroup_value(container, "cpuset.cpus") == "0"


def test_cgroup_of_its_own(docker: DockerCli, name: str) -> None:
    container = docker.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    assert leaks.cgroups(container)
    docker.ok("rm", "-f", name)
    eventually(lambda: not leaks.cgroups(container))  # nobody waits for the tear-down

def test_children_left_behind_are_killed(docker: DockerCli, name: str) -> None:
    script = "(setsid sleep 7654321 &) ; sleep 0.1; exit 0"
    docker.ok("run", "--name", name, "busybox", "sh", "-c", script)
    left = [
        path for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"7654321" in _bytes(path)
    ]  # fmt: skip
    assert not left


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_ulimits(docker: DockerCli) -> None:
    flags = ("--ulimit", "nofile=100:200", "--ulimit", "core=0")
    script = "ulimit -Sn; ulimit -Hn; ulimit -c"
    assert docker.ok("run", "--rm", *flags, "busybox", "sh", "-c", script).split() == [
        "100", "200", "0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-m", "1m"), "inimum memory limit allowed is 6MB"),
        (("--cpus", "1000"), "ange of CPUs is from 0.01 to"),
        (("--cpuset-cpus", "99"), "equested CPUs are not available"),
        (("-m", "64m", "--memory-swap", "32m"), "should be larger than"),
        (("--memory-swap", "32m"), "ou should always set the Memory limit when using Memoryswap"),
    ],
)
def test_bad_values_are_refused(docker: DockerCli, flags: tuple[str, ...], words: str) -> None:
    result = docker.run("run", "--rm", *flags, "busybox", "true")
    assert result.code == 125
    assert words in result.err


def test_oom_score(docker: DockerCli) -> None:
    out = docker.ok("run", "--rm", "--oom-score-adj", "321", "busybox", "cat",
                    "/proc/self/oom_score_adj")  # fmt: skip
    assert out == "321"
