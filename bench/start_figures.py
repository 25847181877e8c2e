"""Starting containers: through the API, as a whole command, and the command line's own start."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.engines import KeepAlive, command_line, settle
from bench.model import Figure
from tests.support.daemon import pallet_command
from tests.support.dockercli import docker_binaries
from tests.support.probes import lacking, which
from tests.support.scratch import busybox_tar, unpack_busybox

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon

CREATE = json.dumps({"Image": "busybox", "Cmd": ["true"]}).encode()


def timed_ms(action: Callable[[], object]) -> float:
    """Milliseconds that ``action`` takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def api_cycle(daemon: Daemon) -> tuple[float, float]:
    """Create, start, wait, remove one container: milliseconds in all, and until it had ended."""
    connection = KeepAlive(str(daemon.socket))
    began = time.perf_counter()
    status, body = connection.call("POST", "/containers/create", CREATE)
    assert status == 201, body
    path = "/containers/" + json.loads(body)["Id"]
    status, body = connection.call("POST", f"{path}/start")
    assert status == 204, body
    status, body = connection.call("POST", f"{path}/wait")
    assert json.loads(body)["StatusCode"] == 0, body
    ended = time.perf_counter()
    status, body = connection.call("DELETE", path)
    assert status == 204, body
    done = time.perf_counter()
    connection.close()
    return (done - began) * 1000, (ended - began) * 1000


def through_the_api(engines: dict[str, Daemon], count: int) -> list[Figure]:
    """Raw HTTP over the unix socket, one container after another, on the bridge."""
    whole = Figure(name="API: create + start + wait + remove of `true`, bridge", unit="ms", goal=8)
    part = Figure(name="API: create + start + wait of it", unit="ms")
    apart = Figure(name="API: all four calls, containers 50 ms apart", unit="ms", goal=8)
    for name, daemon in engines.items():
        settle()
        rounds = count if name == "pallet" else max(5, count // 5)
        for number in range(rounds + 3):
            total, until_end = api_cycle(daemon)
            if number >= 3:
                whole.add(name, total)
                part.add(name, until_end)
        for number in range(rounds + 3):
            time.sleep(0.05)
            total, _ = api_cycle(daemon)
            if number >= 3:
                apart.add(name, total)
    return [whole, part, apart]


def whole_command(engines: dict[str, Daemon], count: int) -> list[Figure]:
    """``run --rm busybox true`` as a process: engines' own command lines, podman and bare runc."""
    figure = Figure(name="`run --rm busybox true`, whole process, bridge", unit="ms", goal=30,
                    factor=8)  # fmt: skip
    actions: dict[str, Callable[[], object]] = {}
    for name, daemon in engines.items():
        cli = daemon.cli(command_line(name))
        actions[name] = partial(cli.run, "run", "--rm", "busybox", "true", check=True)
    with tempfile.TemporaryDirectory(prefix="t-bench-") as scratch:
        actions |= _without_daemon(Path(scratch))
        try:
            for action in actions.values():
                action()
            for number in range(count):
                for name, action in actions.items():
                    if number < count // 3 or name == "pallet":
                        figure.add(name, timed_ms(action))
        finally:
            _remove_podman(Path(scratch))
    figure.note = "runc and crun are a bare `run` of a prepared bundle, without a network"
    return [figure]


def _without_daemon(scratch: Path) -> dict[str, Callable[[], object]]:
    actions: dict[str, Callable[[], object]] = {}
    for runtime in ("runc", "crun"):
        if lacking(runtime):
            continue
        bundle = scratch / runtime
        unpack_busybox(bundle / "rootfs")
        _write_spec(bundle)
        argv = [which(runtime) or runtime, "--root", str(scratch / f"{runtime}-state"), "run",
                "--bundle", str(bundle), f"bench-{runtime}"]  # fmt: skip
        actions[runtime] = partial(_quiet, argv)
    if which("podman"):
        base = _podman(scratch)
        done = subprocess.run([*base, "import", "-", "localhost/busybox"], input=busybox_tar(),
                              capture_output=True, check=False)  # fmt: skip
        if done.returncode == 0:
            # Its own defaults are above what a host without CAP_SYS_RESOURCE may set.
            limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
            argv = [*base, "run", "--rm", *limits, "localhost/busybox", "true"]
            if subprocess.run(argv, capture_output=True, check=False).returncode == 0:
                actions["podman"] = partial(_quiet, argv)
    return actions


def _podman(scratch: Path) -> list[str]:
    return [which("podman") or "podman", "--root", str(scratch / "podman"), "--runroot",
            str(scratch / "podman-run"), "--tmpdir", str(scratch / "podman-tmp"),
            "--cgroup-manager", "cgroupfs", "--storage-driver", "overlay", "--runtime", "runc"]  # fmt: skip


def _remove_podman(scratch: Path) -> None:
    if which("podman") and (scratch / "podman").exists():
        subprocess.run([*_podman(scratch), "system", "reset", "--force"], capture_output=True,
                       check=False)  # fmt: skip
        shutil.rmtree(scratch / "podman", ignore_errors=True)


def _quiet(argv: list[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True, stdin=subprocess.DEVNULL)


def _write_spec(bundle: Path) -> None:
    """A configuration as ``runc spec`` makes it, without a terminal, running ``true``."""
    subprocess.run([which("runc") or "runc", "spec", "--bundle", str(bundle)], check=True,
                   capture_output=True)  # fmt: skip
    path = bundle / "config.json"
    spec = json.loads(path.read_text())
    spec["process"]["terminal"] = False
    spec["process"]["args"] = ["true"]
    path.write_text(json.dumps(spec))


def command_line_start(count: int) -> list[Figure]:
    """``version --help``, which talks to no daemon."""
    figure = Figure(name="command line alone (`run --help`)", unit="ms", goal=15)
    commands = {"pallet": pallet_command(), "dockerd": [docker_binaries()[0]]}
    if which("podman"):
        commands["podman"] = ["podman"]
    for _ in range(count):
        for name, argv in commands.items():
            figure.add(name, timed_ms(partial(_quiet, [*argv, "run", "--help"])))
    figure.note = "the dockerd column is the docker command line's"
    return [figure]
