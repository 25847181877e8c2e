"""Attach, detach keys, several clients, and the hijacked connection's raw bytes."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import not_on_dockerd
from tests.support.terminal import PROMPT
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")

LOOP = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.05; done"


def running(docker: DockerCli, name: str) -> bool:
    return bool(docker.inspect(name)["State"]["Running"])


def test_detach_keys_leave_it_running_and_attach_returns(any_docker: DockerCli, name: str) -> None:
    with any_docker.terminal("run", "-it", "--name", name, "busybox") as terminal:
        terminal.expect(PROMPT)
        terminal.type("mine=kept\n")
        terminal.expect(PROMPT)
        terminal.type("\x10\x11")
        terminal.wait()
    assert running(any_docker, name)
    with any_docker.terminal("attach", name) as terminal:
        terminal.type("echo $mine\n")
        terminal.expect("\nkept")
        terminal.type("exit 3\n")
        assert terminal.wait() == 3
    assert not running(any_docker, name)


def test_own_detach_keys(docker: DockerCli, name: str) -> None:
    with docker.terminal("run", "-it", "--detach-keys", "ctrl-x,q", "--name", name,
                         "busybox") as terminal:  # fmt: skip
        terminal.expect(PROMPT)
        terminal.type("\x18q")
        terminal.wait()
    assert running(docker, name)


def test_half_of_the_detach_keys_is_passed_on(docker: DockerCli, name: str) -> None:
    script = "stty raw -echo; echo go; head -c 3 | xxd -p"
    with docker.terminal("run", "-it", "--rm", "--name", name, "busybox", "sh", "-c",
                         script) as terminal:  # fmt: skip
        terminal.expect("go")
        terminal.type("\x10ab")
        terminal.expect("106162")
        terminal.wait()


def test_start_attach_interactive_keeps_the_layer(any_docker: DockerCli, name: str) -> None:
    with any_docker.terminal("run", "-it", "--name", name, "busybox") as terminal:
        terminal.expect(PROMPT)
        terminal.type("echo data > /root/file; exit\n")
        terminal.wait()
    with any_docker.terminal("start", "-ai", name) as terminal:
        terminal.type("cat /root/file\n")
        terminal.expect("\ndata")
        terminal.type("exit 4\n")
        assert terminal.wait() == 4


def test_two_clients_see_the_same_output(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "busybox", "sh", "-c", LOOP)
    one, two = (
        docker.start("attach", "--sig-proxy=false", name),
        docker.start("attach", "--sig-proxy=false", name),
    )
    assert one.stdout and two.stdout
    seen = [{stream.readline() for _ in range(20)} for stream in (one.stdout, two.stdout)]
    assert len(seen[0] & seen[1]) > 10
    docker.ok("kill", name)
    for process in (one, two):
        process.communicate(timeout=15)
        assert process.returncode == 137


def test_stdin_reaches_an_attached_container(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "-i", "--name", name, "busybox", "cat")
    process = docker.start("attach", name, bufsize=1)
    assert process.stdin
    assert process.stdout
    process.stdin.write("through attach\n")
    assert process.stdout.readline() == "through attach\n"
    process.stdin.close()
    assert running(docker, name), "a detached run does not make stdin end with one client"


def test_stdin_once_ends_with_its_client(docker: DockerCli, name: str) -> None:
    docker.ok("create", "-i", "--name", name, "busybox", "sh", "-c", "cat; echo end")
    assert docker.run("start", "-ai", name, stdin="typed\n").out == "typed\nend\n"


def test_attach_to_a_stopped_container(docker: DockerCli, name: str) -> None:
    docker.ok("create", "--name", name, "busybox", "true")
    docker.ok("start", "-a", name)
    result = docker.run("attach", name)
    assert result.code == 1
    assert "cannot attach to a stopped container, start it first" in result.err


def created(engine: Daemon, **config: object) -> str:
    body = {"Image": "busybox", "AttachStdout": True, "AttachStderr": True, **config}
    reply = engine.api.call("POST", "/containers/create", body)
    assert reply.status == 201, reply.body
    return str(reply.json["Id"])


@pytest.mark.parametrize("upgrade", [True, False])
def test_raw_stream_is_multiplexed(engine: Daemon, docker: DockerCli, *, upgrade: bool) -> None:
    del docker
    container = created(engine, Cmd=["sh", "-c", "echo out; echo err >&2"])
    stream = engine.api.hijack(f"/containers/{container}/attach?stream=1&stdout=1&stderr=1",
                               upgrade=upgrade)  # fmt: skip
    assert stream.status == (101 if upgrade else 200)
    assert "application/vnd.docker." in stream.head
    engine.api.call("POST", f"/containers/{container}/start")
    assert stream.frames() == {1: b"out\n", 2: b"err\n"}
    stream.close()


def test_bytes_sent_with_the_request_are_not_lost(engine: Daemon, docker: DockerCli) -> None:
    del docker
    not_on_dockerd(engine, "drops what its HTTP server has read ahead")
    container = created(engine, Cmd=["cat"], OpenStdin=True, StdinOnce=True, AttachStdin=True)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(15)
    sock.connect(str(engine.socket))
    sock.sendall(
        f"POST /containers/{container}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n"
        "Upgrade: tcp\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\nearly bytes".encode()
    )
    assert sock.recv(4096).startswith(b"HTTP/1.1 101")
    engine.api.call("POST", f"/containers/{container}/start")
    sock.shutdown(socket.SHUT_WR)
    data = b""
    while chunk := sock.recv(4096):
        data += chunk
    sock.close()
    assert data == b"\x01\0\0\0\0\0\0\x0bearly bytes"


def test_attach_replays_logs_first(engine: Daemon, docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "busybox", "sh", "-c", "echo before; sleep 60")
    eventually(lambda: docker.ok("logs", name) == "before")
    stream = engine.api.hijack(f"/containers/{name}/attach?logs=1&stdout=1&stderr=1")
    assert stream.frames()[1] == b"before\n"
    stream.close()


def test_attach_needs_an_existing_container(engine: Daemon) -> None:
    reply = engine.api.call("POST", "/containers/nope/attach?stream=1&stdout=1")
    assert reply.status == 404
    assert b"No such container: nope" in reply.body


def test_detach_keys_are_heeded_by_the_daemon(
    engine: Daemon, docker: DockerCli, name: str
) -> None:
    """docker's command line looks for the keys itself; other clients leave it to the daemon."""
    docker.ok("run", "-d", "-it", "--name", name, "busybox", "cat")
    stream = engine.api.hijack(f"/containers/{name}/attach?stream=1&stdin=1&stdout=1")
    stream.sock.sendall(b"typed\n")
    assert stream.sock.recv(100).startswith(b"typed")
    stream.sock.sendall(b"\x10\x11")
    assert b"\x10" not in stream.read_all()
    stream.close()
    assert running(docker, name)
    eventually(lambda: "detach" in docker.events(f"container={name}"))
    assert engine.api.call("POST", f"/containers/{name}/resize?h=10&w=20").status == 200
