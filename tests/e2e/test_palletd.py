"""The daemon as a process: start, ready signal, locks, reload, stop, TLS, what it leaves."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay")


@pytest.fixture
def palletd(fresh_palletd: Callable[..., Daemon]) -> Callable[..., Daemon]:
    """Make palletd processes without images; skipped when the suite runs on dockerd."""
    if os.environ.get("PALLET_E2E_ENGINE", "pallet") != "pallet":
        pytest.skip("about palletd itself")
    return lambda *flags, **kw: fresh_palletd(*flags, images=False, **kw)


def test_ready_in_half_a_second_and_gone_without_a_trace(palletd: Callable[..., Daemon]) -> None:
    daemon = palletd(start=False)
    took = min(_start_and_stop(daemon) for _ in range(3))
    assert took < 0.5
    assert not daemon.socket.exists()
    assert not (daemon.top / "pid").exists()
    assert not (daemon.exec_root / "palletd.pid").exists()


def _start_and_stop(daemon: Daemon) -> float:
    took = daemon.start()
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
    assert (daemon.exec_root / "palletd.pid").read_text() == (daemon.top / "pid").read_text()
    assert daemon.stop() == 0
    return took


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_each_stop_signal(palletd: Callable[..., Daemon], number: signal.Signals) -> None:
    daemon = palletd()
    assert daemon.process
    daemon.signal(number)
    assert daemon.process.wait(10) == 0
    daemon.process = None


@pytest.mark.needs("docker_cli", "busybox")
def test_containers_have_their_own_time_to_end(fresh_palletd: Callable[..., Daemon]) -> None:
    """``--stop-timeout`` counts at the daemon's end too; ``--shutdown-timeout`` is for the others."""
    daemon = fresh_palletd("--live-restore=false", "--shutdown-timeout", "1")
    docker = daemon.cli()
    for name, flags in (("patient", ("--stop-timeout", "60")), ("plain", ())):
        docker.ok("run", "-d", "--name", name, *flags, "busybox", "sh", "-c",
                  "trap 'sleep 3; exit 7' TERM; touch /ready; while :; do sleep 0.1; done")
        eventually(lambda name=name: docker.run("exec", name, "test", "-e", "/ready").code == 0,  # type: ignore[misc]
                   what="the trap is set")
    daemon.stop()
    daemon.start()
    assert docker.inspect("patient")["State"]["ExitCode"] == 7
    assert docker.inspect("plain")["State"]["ExitCode"] == 137


def test_second_daemon_on_the_same_roots_is_refused(palletd: Callable[..., Daemon]) -> None:
    daemon = palletd()
    assert daemon.process
    second = subprocess.run(
        [*daemon.argv(), "--host", f"unix://{daemon.top}/second", "--pidfile",
         str(daemon.top / "pid2")],
        env=daemon.environment(), capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 1
    assert f"another palletd uses {daemon.data_root} (pid {daemon.process.pid})" in second.stderr
    assert daemon.api.call("GET", "/_ping").status == 200


def test_killed_daemon_does_not_block_the_next(palletd: Callable[..., Daemon]) -> None:
    daemon = palletd()
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.api.call("GET", "/_ping").status == 200


def test_reload_takes_the_log_level_and_names_the_rest(palletd: Callable[..., Daemon]) -> None:
    daemon = palletd()
    daemon.config_file.write_text('{"debug": true, "labels": ["a=b"]}')
    daemon.signal(signal.SIGHUP)
    eventually(lambda: "Reloaded the log level: debug" in daemon.tail())
    assert "need a restart: labels" in daemon.tail()
    daemon.config_file.write_text("{bad")
    daemon.signal(signal.SIGHUP)
    eventually(lambda: "settings not reloaded" in daemon.tail())
    assert daemon.api.call("GET", "/_ping").status == 200


def test_bad_settings_start_nothing(palletd: Callable[..., Daemon]) -> None:
    daemon = palletd(start=False)
    daemon.config_file.write_text('{"no-such-key": 1}')
    run = subprocess.run(daemon.argv(), env=daemon.environment(), capture_output=True, text=True,
                         timeout=20, check=False)
    assert run.returncode == 1
    assert "don't match any configuration option: no-such-key" in run.stderr
    assert not daemon.data_root.exists()


def _certificates(top: Path) -> None:
    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=top, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=ca",
            "-days", "2", "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign")
    for name, extra in (("server-", "subjectAltName=IP:127.0.0.1"),
                        ("", "extendedKeyUsage=clientAuth")):
        openssl("req", *key, "-keyout", f"{name}key.pem", "-out", "csr", "-subj", "/CN=x")
        (top / "ext").write_text(extra + "\n")
        openssl("x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem",
                "-CAcreateserial", "-out", f"{name}cert.pem", "-days", "2", "-extfile", "ext")


@pytest.mark.needs("docker_cli", "busybox")
def test_docker_over_tls_with_half_close(
    fresh_palletd: Callable[..., Daemon], palletd: Callable[..., Daemon], tmp_path: Path
) -> None:
    """``docker run -i`` ends its input with close_notify and still gets the output."""
    del palletd
    _certificates(tmp_path)
    daemon = fresh_palletd(
        "--host", "tcp://127.0.0.1:23976", "--tlsverify", "--tlscacert", f"{tmp_path}/ca.pem",
        "--tlscert", f"{tmp_path}/server-cert.pem", "--tlskey", f"{tmp_path}/server-key.pem")
    docker = ["docker", "-H", "tcp://127.0.0.1:23976", "--tlsverify", "--tlscacert",
              f"{tmp_path}/ca.pem", "--tlscert", f"{tmp_path}/cert.pem", "--tlskey",
              f"{tmp_path}/key.pem"]
    text = b"line\n" * 50_000
    run = subprocess.run(
        [*docker, "run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo end; exit 3"],
        input=text, env=daemon.environment(), capture_output=True, timeout=30, check=False)
    assert run.stderr.decode() == ""
    assert (run.returncode, run.stdout) == (3, text + b"end\n")
    stranger = subprocess.run(
        ["docker", "-H", "tcp://127.0.0.1:23976", "--tls", "ps"], env=daemon.environment(),
        capture_output=True, timeout=30, check=False)
    assert stranger.returncode != 0
