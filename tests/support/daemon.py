"""Daemons under test: a palletd or a dockerd with its own roots, socket, bridge and address range.

Both answer to one interface, so that every end-to-end test can be held against the real thing first:
``PALLET_E2E_ENGINE=dockerd`` runs the suite on dockerd, and a test that dockerd fails is suspect.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import leaks
from tests.support.dockercli import DockerCli, docker_binaries
from tests.support.probes import SYSTEM_PATH
from tests.support.unixhttp import Api
from tests.support.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
# A session that is killed takes its daemons along.
_MORTAL = ("setpriv", "--pdeathsig", "KILL")

_numbers = itertools.count(1)

# Not a daemon's: this process's own descriptors and files, and registries that the session keeps.
_OTHERS = ("^descriptors:", "^temporary:", "docker-registry", "registry serve")


class Daemon:
    """One daemon process and the directories it owns. ``start`` it, ``stop`` or ``kill`` it, ``remove`` it."""

    kind = ""

    def __init__(self, *, flags: Sequence[str] = ()) -> None:
        self.number = next(_numbers)
        self.top = Path(tempfile.mkdtemp(prefix=f"t-{self.kind}-{os.getpid()}-"))
        self.data_root = self.top / "data"
        self.exec_root = self.top / "run"
        self.socket = self.top / "d.sock"
        self.log = self.top / "log"
        self.config_file = self.top / "daemon.json"
        self.bridge = f"t{self.kind[:3]}{self.number}"
        self.bip = f"172.31.{self.number}.1/24"
        self.flags = list(flags)
        self.process: subprocess.Popen[bytes] | None = None
        self.container_ids: set[str] = set()
        self.before = leaks.Snapshot()

    @property
    def host(self) -> str:
        """The ``DOCKER_HOST`` of this daemon."""
        return f"unix://{self.socket}"

    @property
    def api(self) -> Api:
        """Raw calls."""
        return Api(str(self.socket))

    def cli(self, argv: Sequence[str] | None = None) -> DockerCli:
        """A command line that talks to this daemon: the newest docker unless ``argv`` is given."""
        return DockerCli(argv or [docker_binaries()[0]], self.host, self.top / "config")

    def argv(self) -> list[str]:
        """The whole command."""
        raise NotImplementedError

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        raise NotImplementedError

    def start(self) -> float:
        """Start and wait until it serves; returns the seconds that took."""
        assert self.process is None, "already started"
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = self._spawn(log.fileno())
        try:
            self._wait_ready(self.process)
        except AssertionError:
            self.kill()
            raise AssertionError(f"{self.kind} did not start:\n{self.tail()}") from None
        return time.monotonic() - began

    def _spawn(self, log_fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*_MORTAL, *self.argv()], stdin=subprocess.DEVNULL, stdout=log_fd, stderr=log_fd,
                                env=self.environment(), start_new_session=True)  # fmt: skip

    def environment(self) -> dict[str, str]:
        """A clean environment, without proxies or Docker settings."""
        return {"PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}", "HOME": str(self.top),
                "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT / "src"),
                "TMPDIR": tempfile.gettempdir()}  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon process alone."""
        assert self.process
        self.process.send_signal(number)

    def stop(self, *, timeout_s: float = 30.0) -> int:
        """SIGTERM, wait, return the exit code."""
        assert self.process
        self.process.terminate()
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.kind} ignored SIGTERM:\n{self.tail()}") from None
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL the daemon process alone; everything it started is left to itself."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def tail(self, lines: int = 60) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def purge_containers(self) -> None:
        """Remove every container by force, and remember their ids for the leftover check."""
        reply = self.api.call("GET", "/containers/json?all=1")
        for row in reply.json:
            self.container_ids.add(row["Id"])
            self.api.call("DELETE", f"/containers/{row['Id']}?force=1&v=1")

    def remove(self) -> None:
        """End the daemon with all its containers and delete its directories."""
        if self.process is None and self.socket.exists():
            with contextlib.suppress(AssertionError):
                self.start()
        if self.process:
            with contextlib.suppress(OSError):
                self.purge_containers()
            self.stop()
        if self.leaves_things:
            self._reap()
        shutil.rmtree(self.top, ignore_errors=True)

    def _reap(self) -> None:
        """Kill what the daemon left running: by the roots in their command lines."""
        for pid, command in leaks.processes().items():
            if str(self.top) in command:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    leaves_things = False
    """True for a daemon that keeps bridge, rules and mounts on purpose when it stops."""


class Palletd(Daemon):
    """palletd from this source tree."""

    kind = "pallet"

    def argv(self) -> list[str]:
        """Own roots, socket and bridge; dockerd's flag names."""
        return [
            *palletd_command(),
            "--data-root", str(self.data_root), "--exec-root", str(self.exec_root),
            "--host", self.host, "--pidfile", str(self.top / "pid"),
            "--bridge", self.bridge, "--bip", self.bip,
            "--config-file", str(self.config_file), "--log-level", "debug",
            *self.flags,
        ]  # fmt: skip

    def _spawn(self, log_fd: int) -> subprocess.Popen[bytes]:
        self._ready_fd, write_fd = os.pipe()
        if not self.config_file.exists():
            self.config_file.write_text("{}")
        try:
            return subprocess.Popen(
                [*_MORTAL, *self.argv(), "--ready-fd", str(write_fd)], stdin=subprocess.DEVNULL,
                stdout=log_fd, stderr=log_fd, env=self.environment(), pass_fds=[write_fd],
                start_new_session=True, cwd="/",
            )  # fmt: skip
        finally:
            os.close(write_fd)

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        try:
            ready, _, _ = select.select([self._ready_fd], [], [], 15.0 * PATIENCE)
            assert ready and os.read(self._ready_fd, 16), f"not ready; exit {process.poll()}"
        finally:
            os.close(self._ready_fd)


class Dockerd(Daemon):
    """Debian's dockerd, to compare with."""

    kind = "docker"
    leaves_things = True

    def argv(self) -> list[str]:
        """Own roots and socket; it makes docker0 in the session's network namespace."""
        return [
            "dockerd", "--data-root", str(self.data_root), "--exec-root", str(self.exec_root),
            "--host", self.host, "--pidfile", str(self.top / "pid"), "--bip", self.bip,
            "--log-level", "warn", *self.flags,
        ]  # fmt: skip

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        def answers() -> bool:
            assert process.poll() is None, f"ended with {process.poll()}"
            return self.api.call("GET", "/_ping").status == 200

        eventually(answers, timeout_s=30.0, interval_s=0.1, what="dockerd answers")


def assert_clean(daemons: Sequence[Daemon]) -> None:
    """Remove ``daemons``, the last made first, and demand that nothing of them is left."""
    for daemon in reversed(daemons):
        daemon.remove()
    if not daemons or daemons[0].leaves_things:
        return
    leaks.assert_nothing_left(daemons[0].before, timeout_s=5.0, ignore=_OTHERS)
    known = {container_id for daemon in daemons for container_id in daemon.container_ids}
    if known:
        leaks.assert_gone(lambda: leaks.cgroups(*known), "cgroups of removed containers")


def palletd_command() -> list[str]:
    """How to start palletd: the installed launcher if this tree is installed, else the module."""
    launcher = Path(sys.executable).with_name("palletd")
    if launcher.exists():
        return [str(launcher)]
    return [sys.executable, "-m", "pallet.daemon.main"]


def pallet_command() -> list[str]:
    """How to start the command line: the installed launcher, else the module."""
    launcher = Path(sys.executable).with_name("pallet")
    if launcher.exists():
        return [str(launcher)]
    return [sys.executable, "-m", "pallet.cli.main"]
