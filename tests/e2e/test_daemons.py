"""Daemons side by side, listeners, TLS with client certificates, configuration files."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.dockercli import DockerCli, docker_binaries
from tests.support.registry import free_port
from tests.support.terminal import PROMPT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")


@pytest.fixture
def make(fresh_palletd: Callable[..., Daemon]) -> Callable[..., Daemon]:
    """Daemons of the test's own; these tests are about palletd's own start."""
    from tests.support.engines import ENGINE

    if ENGINE == "dockerd":
        pytest.skip("about palletd itself")
    return fresh_palletd


def test_two_daemons_know_nothing_of_each_other(make: Callable[..., Daemon]) -> None:
    one, two = make(), make()
    one.cli().ok("run", "-d", "--name", "same", "busybox", "sleep", "600")
    two.cli().ok("run", "-d", "--name", "same", "busybox", "sleep", "600")
    ids = {daemon.cli().ok("ps", "-q", "--no-trunc") for daemon in (one, two)}
    assert len(ids) == 2
    networks = "NetworkSettings", "Networks", "bridge", "IPAddress"
    addresses = []
    for daemon in (one, two):
        value = daemon.cli().inspect("same")
        for key in networks:
            value = value[key]
        addresses.append(value)
    assert [address.rsplit(".", 1)[0] for address in addresses] == [
        daemon.bip.split("/")[0].rsplit(".", 1)[0] for daemon in (one, two)
    ]
    one.cli().ok("rm", "-f", "same")
    assert two.cli().inspect("same")["State"]["Running"]
    one.stop()
    assert two.cli().ok("run", "--rm", "busybox", "echo", "fine") == "fine"


def test_ports_of_two_daemons(make: Callable[..., Daemon]) -> None:
    from tests.e2e.test_network import BODY, WEB, fetch, serves

    one, two = make(), make()
    ports = [free_port(), free_port()]
    for daemon, port in zip((one, two), ports, strict=True):
        daemon.cli().ok("run", "-d", "--name", "web", "-p", f"{port}:80", *WEB)
    for port in ports:
        eventually(partial(serves, f"http://127.0.0.1:{port}"))
    result = two.cli().run("run", "-d", "-p", f"{ports[0]}:80", *WEB)
    assert result.code == 125
    one.cli().ok("rm", "-f", "web")
    assert fetch(f"http://127.0.0.1:{ports[1]}") == BODY


def test_socket_is_private(make: Callable[..., Daemon]) -> None:
    daemon = make(images=False)
    mode = os.stat(daemon.socket).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


def test_stale_socket_is_replaced(make: Callable[..., Daemon]) -> None:
    daemon = make(images=False)
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.api.call("GET", "/_ping").status == 200


def test_plain_tcp_on_loopback(make: Callable[..., Daemon]) -> None:
    port = free_port()
    daemon = make("--host", f"tcp://127.0.0.1:{port}")
    docker = DockerCli([docker_binaries()[0]], f"tcp://127.0.0.1:{port}", daemon.top / "tcp")
    assert docker.run("run", "--rm", "-i", "busybox", "cat", stdin="over tcp").out == "over tcp"


def certificates(directory: Path) -> None:
    """A CA, a server certificate for 127.0.0.1 and a client certificate."""
    directory.mkdir()

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=directory)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=test ca", "-days",
            "2")  # fmt: skip
    for name, extension in (
        ("server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"),
        ("client", "extendedKeyUsage=clientAuth\n"),
    ):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                f"{name}-key.pem", "-out", f"{name}.csr", "-subj", f"/CN={name}")  # fmt: skip
        (directory / f"{name}.ext").write_text(extension)
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem",
                "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile",
                f"{name}.ext")  # fmt: skip


@pytest.mark.needs("openssl")
def test_tls_demands_a_client_certificate(make: Callable[..., Daemon], tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certificates(certs)
    port = free_port()
    daemon = make(
        "--host", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", f"{certs}/ca.pem",
        "--tlscert", f"{certs}/server.pem", "--tlskey", f"{certs}/server-key.pem",
    )  # fmt: skip
    base = [docker_binaries()[0], "--tlsverify", "--tlscacert", f"{certs}/ca.pem"]
    host = f"tcp://127.0.0.1:{port}"
    known = DockerCli([*base, "--tlscert", f"{certs}/client.pem", "--tlskey",
                       f"{certs}/client-key.pem"], host, daemon.top / "tls")  # fmt: skip
    result = known.run(
        "run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo end", stdin="over tls "
    )
    assert (result.code, result.out) == (0, "over tls end\n")
    with known.terminal("run", "--rm", "-it", "busybox") as terminal:
        terminal.expect(PROMPT)
        terminal.type("exit 5\n")
        assert terminal.wait() == 5
    stranger = DockerCli(base, host, daemon.top / "stranger")
    assert stranger.run("ps").code == 1


def test_configuration_file(make: Callable[..., Daemon]) -> None:
    daemon = make(start=False)
    daemon.config_file.write_text(json.dumps({"debug": True, "labels": ["zone=test"]}))
    daemon.start()
    info = daemon.api.get("/info")
    assert info["Labels"] == ["zone=test"]
    assert info["DockerRootDir"] == str(daemon.data_root)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"nope": 1}', "nope"),
        ('{"log-level": "info"}', "specified both as a flag and in the configuration file"),
        ("{", ""),
    ],
)
def test_bad_configuration_is_refused(
    make: Callable[..., Daemon], content: str, words: str
) -> None:
    daemon = make(start=False)
    daemon.config_file.write_text(content)
    done = subprocess.run(daemon.argv(), env=daemon.environment(), capture_output=True, text=True,
                          timeout=20, check=False)  # fmt: skip
    assert done.returncode == 1
    assert words in done.stderr


def test_version_and_info(make: Callable[..., Daemon]) -> None:
    daemon = make()
    version = daemon.api.get("/version")
    assert version["Os"] == "linux"
    assert version["MinAPIVersion"] <= "1.41"
    info = daemon.api.get("/info")
    assert info["Driver"] in ("overlay2", "overlayfs", "overlay")
    assert info["Images"] == 1
    out = daemon.cli().ok("version", "--format", "{{.Server.APIVersion}}")
    assert out == version["ApiVersion"]
    assert "Server" in daemon.cli().ok("info")


def test_fifty_containers_at_once(make: Callable[..., Daemon]) -> None:
    daemon = make()
    docker = daemon.cli()
    started = [
        docker.start("run", "-d", "--name", f"many-{n}", "busybox", "sh", "-c",
                     f"echo {n}; exec sleep 600", stdin=subprocess.DEVNULL)
        for n in range(50)
    ]  # fmt: skip
    results = [(process.communicate(timeout=90), process.returncode) for process in started]
    assert {code for _, code in results} == {0}, [text for (_, text), code in results if code]
    assert len(docker.ok("ps", "-q").split()) == 50
    assert {docker.ok("logs", f"many-{n}") for n in range(0, 50, 7)} == {
        str(n) for n in range(0, 50, 7)
    }
    addresses = docker.ok("inspect", "-f",
                          "{{.NetworkSettings.Networks.bridge.IPAddress}}",
                          *(f"many-{n}" for n in range(50))).split()  # fmt: skip
    assert len(set(addresses)) == 50


@pytest.mark.parametrize("runtime", [pytest.param("runc", marks=pytest.mark.needs("runc")),
                                     pytest.param("crun", marks=pytest.mark.needs("crun"))])  # fmt: skip
def test_other_runtimes(make: Callable[..., Daemon], runtime: str) -> None:
    from tests.support.probes import which

    daemon = make("--add-runtime", f"other={which(runtime)}")
    docker = daemon.cli()
    result = docker.run("run", "--rm", "-i", "--runtime", "other", "busybox", "cat", stdin="x")
    assert (result.code, result.out) == (0, "x"), result.err
    assert (
        docker.run("run", "--rm", "--runtime", "other", "busybox", "sh", "-c", "exit 9").code == 9
    )
    result = docker.run("run", "--rm", "--runtime", "other", "busybox", "no-such")
    assert result.code == 127
    with docker.terminal("run", "--rm", "-it", "--runtime", "other", "busybox") as terminal:
        terminal.expect(PROMPT)
        terminal.type("exit 4\n")
        assert terminal.wait() == 4


def test_unknown_runtime(make: Callable[..., Daemon]) -> None:
    result = make().cli().run("run", "--rm", "--runtime", "nope", "busybox", "true")
    assert result.code == 125
    assert "unknown or invalid runtime name: nope" in result.err
