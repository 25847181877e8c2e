"""Which daemon is meant: flags, environment, contexts, the default."""

from __future__ import annotations

import hashlib
import json
import socket
from typing import TYPE_CHECKING

import pytest

from pallet.client.contexts import list_contexts
from pallet.client.endpoint import Endpoint, complete, resolve
from pallet.client.errors import ConnectionFailedError, UsageError
from pallet.client.ssh import ssh_argv

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def find(
    *, host: str = "", context: str = "", config: str = "/nowhere", verify: bool = False,
    env: Mapping[str, str] | None = None,
) -> Endpoint:
    return resolve(host=host, context=context, config=config, tls=False, verify=verify,
                   files=("", "", ""), env=env or {})


def write_context(config: Path, name: str, host: str, *, tls: bool = False) -> None:
    key = hashlib.sha256(name.encode()).hexdigest()
    folder = config / "contexts" / "meta" / key
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps(
        {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host}}}))
    if tls:
        material = config / "contexts" / "tls" / key / "docker"
        material.mkdir(parents=True)
        for part in ("ca", "cert", "key"):
            (material / f"{part}.pem").write_text("x")


def test_default_is_implicit() -> None:
    endpoint = find()
    assert (endpoint.url, endpoint.implicit) == ("unix:///run/pallet.sock", True)


def test_flag_wins_over_environment() -> None:
    endpoint = find(host="unix:///a", env={"DOCKER_HOST": "unix:///b"})
    assert (endpoint.address, endpoint.implicit) == ("/a", False)
    assert find(env={"DOCKER_HOST": "unix:///b"}).address == "/b"


def test_host_and_context_conflict() -> None:
    with pytest.raises(UsageError, match="conflicting options"):
        find(host="unix:///a", context="x")


@pytest.mark.parametrize(("given", "tls", "url"), [
    ("/x.sock", False, "unix:///x.sock"), ("host:1", False, "tcp://host:1"),
    ("tcp://host", False, "tcp://host:2375"), ("tcp://host", True, "tcp://host:2376"),
    ("tcp://[::1]", False, "tcp://[::1]:2375"), ("tcp://[::1]:9", False, "tcp://[::1]:9"),
    ("fd://", False, "unix:///run/pallet.sock"), ("ssh://u@h", False, "ssh://u@h"),
])
def test_addresses_are_completed(given: str, tls: bool, url: str) -> None:
    assert complete(given, tls=tls) == url


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="invalid bind address format: foo://x"):
        find(host="foo://x")


def test_context_by_flag_environment_and_configuration(tmp_path: Path) -> None:
    write_context(tmp_path, "far", "tcp://far:2376", tls=True)
    write_context(tmp_path, "near", "unix:///near")
    config = str(tmp_path)
    assert find(context="near", config=config).address == "/near"
    assert find(config=config, env={"DOCKER_CONTEXT": "near"}).context == "near"
    (tmp_path / "config.json").write_text('{"currentContext": "far"}')
    far = find(config=config)
    assert (far.url, far.context) == ("tcp://far:2376", "far")
    assert far.tls is not None
    assert far.tls.ca == str(tmp_path / "contexts/tls"
                             / hashlib.sha256(b"far").hexdigest() / "docker/ca.pem")
    assert find(config=config, env={"DOCKER_CONTEXT": "default"}).implicit
    assert [one["Name"] for one in list_contexts(config)] == ["far", "near"]


def test_missing_context_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='context "nope": context not found'):
        find(context="nope", config=str(tmp_path))


def test_tls_material_from_the_certificate_directory(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    endpoint = find(host="tcp://h", env={"DOCKER_TLS_VERIFY": "1",
                                         "DOCKER_CERT_PATH": str(tmp_path)})
    assert endpoint.url == "tcp://h:2375"
    assert endpoint.tls is not None
    assert (endpoint.tls.ca, endpoint.tls.cert, endpoint.tls.verify) == (
        str(tmp_path / "ca.pem"), None, True)


def test_no_tls_unless_asked_for() -> None:
    assert find(host="tcp://h:1").tls is None


def test_missing_socket_is_told_as_docker_does(tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailedError) as caught:
        Endpoint(f"unix://{tmp_path}/no.sock").connect()
    assert str(caught.value) == (f"Cannot connect to the Docker daemon at unix://{tmp_path}/no.sock."
                                 " Is the docker daemon running?")
    assert caught.value.errno == 2


def test_unix_and_tcp_streams_half_close(tmp_path: Path) -> None:
    for family, address in ((socket.AF_UNIX, str(tmp_path / "s")), (socket.AF_INET, None)):
        with socket.socket(family) as server:
            server.bind(address or ("127.0.0.1", 0))
            server.listen()
            url = f"unix://{address}" if address else f"tcp://127.0.0.1:{server.getsockname()[1]}"
            transport = Endpoint(url).connect()
            peer, _ = server.accept()
            with peer:
                transport.sendall(b"ping")
                transport.close_write()
                assert peer.recv(16) + peer.recv(16) == b"ping"
                peer.sendall(b"pong")
                assert transport.recv(16) == b"pong"
            transport.close()


def test_ssh_command() -> None:
    argv = ssh_argv("ssh://me@host:2222/run/x.sock")
    assert argv[:4] == ["ssh", "-o", "ConnectTimeout=30", "-T"]
    assert argv[4:9] == ["-l", "me", "-p", "2222", "--"]
    assert argv[9] == "host"
    assert "docker -H unix:///run/x.sock system dial-stdio" in argv[10]
