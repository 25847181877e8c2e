"""docker-py and testcontainers-python, unmodified, against the daemon."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.registry import build_image
from tests.support.scratch import busybox_tar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli
    from tests.support.registry import Registry

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox", "docker_py")


@pytest.fixture
def client(engine: Daemon, docker: DockerCli) -> Iterator[Any]:
    """A docker-py client; the test's containers are removed with the ``docker`` fixture's."""
    import docker as docker_py

    del docker
    client = docker_py.DockerClient(base_url=engine.host)
    yield client
    client.close()


def test_run_and_output(client: Any) -> None:
    assert client.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\n"


def test_failure_is_a_container_error(client: Any) -> None:
    from docker.errors import ContainerError

    with pytest.raises(ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], stderr=True)
    assert caught.value.exit_status == 3
    assert b"bad" in caught.value.stderr


def test_life_of_a_container(client: Any, name: str) -> None:
    container = client.containers.run(
        "busybox", ["sleep", "600"], detach=True, name=name, init=True
    )
    assert container.status in ("created", "running")
    assert [c.name for c in client.containers.list(filters={"name": name})] == [name]
    code, output = container.exec_run(["sh", "-c", "echo in; exit 4"])
    assert (code, output) == (4, b"in\n")
    code, (out, err) = container.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
    assert (out, err) == (b"o\n", b"e\n")
    container.rename(f"{name}-2")
    container.stop(timeout=3)
    assert container.wait()["StatusCode"] == 143
    container.start()
    container.kill()
    container.reload()
    assert container.status == "exited"
    container.remove()


def test_logs_stream(client: Any) -> None:
    container = client.containers.run("busybox", ["seq", "5"], detach=True)
    assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n4\n5\n"
    assert container.logs(tail=1) == b"5\n"
    stamped = container.logs(timestamps=True).splitlines()
    assert len(stamped[0].split()) == 2


def test_attach_socket(client: Any) -> None:
    container = client.containers.create("busybox", "cat", stdin_open=True)
    sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    container.start()
    raw = sock._sock
    raw.sendall(b"typed\n")
    assert raw.recv(100) == b"\x01\0\0\0\0\0\0\x06typed\n"
    raw.close()
    sock.close()


def test_ports_and_networks(client: Any) -> None:
    container = client.containers.run("busybox", ["sleep", "60"], detach=True,
                                      ports={"80/tcp": None})  # fmt: skip
    container.reload()
    assert int(container.ports["80/tcp"][0]["HostPort"]) > 0
    assert {network.name for network in client.networks.list()} >= {"bridge", "host", "none"}


def test_missing_things(client: Any) -> None:
    from docker.errors import APIError, ImageNotFound, NotFound

    with pytest.raises(ImageNotFound):
        client.images.get("no-such-image")
    with pytest.raises(NotFound):
        client.containers.get("no-such-container")
    container = client.containers.create("busybox", "true")
    with pytest.raises(APIError, match="is not running"):
        container.kill()


def test_images(client: Any, registry: Registry) -> None:
    reference = registry.push("docker-py", "v1", build_image([busybox_tar()], Cmd=["echo", "py"]))
    image = client.images.pull(reference)
    assert image.tags == [reference]
    assert image.attrs["Architecture"] == "amd64"
    assert client.containers.run(image, remove=True) == b"py\n"
    image.tag("renamed", "x")
    assert "renamed:x" in [tag for i in client.images.list() for tag in i.tags]
    client.images.remove("renamed:x")
    client.images.remove(reference)


def test_events(client: Any) -> None:
    stream = client.events(decode=True, filters={"type": "container"})
    client.containers.run("busybox", "true", remove=True)
    seen = []
    for event in stream:
        seen.append(event["Action"])
        if event["Action"] == "destroy":
            break
    stream.close()
    assert seen[0] == "create"
    assert "die" in seen


def test_version_ping_info(client: Any) -> None:
    assert client.ping() is True
    assert client.version()["Os"] == "linux"
    assert client.info()["OSType"] == "linux"


@pytest.mark.needs("testcontainers")
def test_testcontainers(engine: Daemon, docker: DockerCli, monkeypatch: pytest.MonkeyPatch) -> None:
    del docker
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
    container = (
        DockerContainer("busybox")
        .with_command(["sh", "-c", "echo ready; exec httpd -f -p 80 -h /srv"])
        .with_exposed_ports(80)
        .with_env("A", "b")
        .waiting_for(LogMessageWaitStrategy("ready"))
    )
    with container:
        assert int(container.get_exposed_port(80)) > 0
        result = container.exec(["sh", "-c", "echo $A"])
        assert (result.exit_code, result.output) == (0, b"b\n")
        out, _ = container.get_logs()
        assert out == b"ready\n"


def test_import_of_a_tar(client: Any, name: str) -> None:
    client.api.import_image(src=io.BytesIO(busybox_tar()), repository=name, tag="x")
    assert client.containers.run(f"{name}:x", ["echo", "imported"], remove=True) == b"imported\n"
    client.images.remove(f"{name}:x")
