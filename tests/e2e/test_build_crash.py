"""Builds whose daemon, zygote or disk goes away: nothing is left, secrets least of all, and the next build works."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import leaks
from tests.support.daemon import pallet_command
from tests.support.dockercli import docker_binaries
from tests.support.plugins import with_plugins
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli")

SECRET = "secret-8861-of-nobody"
SLEEP = ("sleep", leaks.seconds(5))
DOCKERFILE = f"""FROM busybox
COPY f /f
RUN echo one
RUN --mount=type=secret,id=s --mount=type=cache,target=/c cat /run/secrets/s > /dev/null; touch /c/x; echo at-$((40+2)); {" ".join(SLEEP)}
"""


def left(daemon: Daemon) -> list[str]:
    """What builds in flight own, wherever they keep it."""
    data = daemon.data_root
    places = [data / "snapshots/c", data / "snapshots/draft", data / "build/scratch", daemon.exec_root / "shims"]
    found = [str(path) for place in places if place.is_dir() for path in place.iterdir()]
    found += [str(path) for path in Path("/dev/shm").glob("pallet-step-*")]
    found += [str(path) for path in (data / "build/contexts").glob("once-*")]
    return found + sorted(leaks.running(*SLEEP))


def _children(pid: int) -> list[int]:
    return [int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()]


def _holds(place: Path, word: str) -> str:
    return subprocess.run(["grep", "-rl", word, str(place)], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("whom", ["daemon", "zygote"])
def test_a_kill_leaves_nothing_of_a_step(fresh_palletd: Callable[..., Daemon], tmp_path: Path, whom: str) -> None:
    """Also where the run directory is on a disk, as here: secrets are in memory and go."""
    daemon = fresh_palletd()
    cli = daemon.cli(pallet_command())
    context = tmp_path / "context"
    context.mkdir()
    (context / "f").write_text("f")
    (context / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "secret").write_text(SECRET)
    process = cli.start("build", "--secret", f"id=s,src={tmp_path / 'secret'}", str(context))
    assert process.stderr is not None
    assert any("at-42" in line for line in process.stderr)
    assert left(daemon)
    if whom == "daemon":
        daemon.kill()
        cli.end_started()
        daemon.start()
    else:
        assert daemon.process is not None
        for pid in _children(daemon.process.pid):
            os.kill(pid, signal.SIGKILL)
        process.send_signal(signal.SIGKILL)
        cli.end_started()
    eventually(lambda: not left(daemon), what="nothing is left")
    for place in (daemon.data_root, daemon.exec_root, daemon.log):
        assert not _holds(place, SECRET)
    (context / "Dockerfile").write_text(DOCKERFILE.replace(f"; {' '.join(SLEEP)}", ""))
    done = cli.run("build", "--secret", f"id=s,src={tmp_path / 'secret'}", "-t", "crash:1", str(context))
    assert done.code == 0, done.err
    assert done.err.count("CACHED") >= 2, done.err
    assert not _holds(daemon.data_root, SECRET)
    checked = cli.run("system", "check")
    assert checked.code == 0, checked.out


@pytest.mark.needs("buildx")
@pytest.mark.parametrize("door", ["own", "buildkit", "classic"])
def test_the_daemons_end_ends_a_build(fresh_palletd: Callable[..., Daemon], tmp_path: Path, door: str) -> None:
    """Its client hears why, nothing of its step is left, and what was done before is cached."""
    daemon = fresh_palletd()
    cli = {"own": lambda: daemon.cli(pallet_command()), "buildkit": lambda: with_plugins(daemon),
           "classic": lambda: daemon.cli([docker_binaries()[0]])}[door]()
    words = ["buildx", "build", "--progress", "plain"] if door == "buildkit" else ["build"]
    if door == "classic":
        cli.env["DOCKER_BUILDKIT"] = "0"
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN echo one > /one\nRUN echo at-$((40+2)); {' '.join(SLEEP)}\n")
    process = cli.start(*words, str(tmp_path), stderr=subprocess.STDOUT)
    assert process.stdout is not None
    assert any("at-42" in line for line in process.stdout)
    assert daemon.stop() == 0
    assert "the daemon is shutting down" in process.stdout.read()
    assert process.wait(20) == 1
    cli.end_started()
    assert not left(daemon)
    assert "Traceback" not in daemon.tail()
    daemon.start()
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo one > /one\nRUN true\n")
    done = cli.run(*words, str(tmp_path), check=True)
    assert "CACHED" in done.err or "Using cache" in done.out
