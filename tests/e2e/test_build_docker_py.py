"""docker-py's ``images.build`` against palletd: the classic endpoint as programs use it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay", "docker_py", "docker_cli")

DOCKERFILE = """FROM busybox AS first
ARG WHO=nobody
RUN echo hello $WHO > /who
FROM first AS second
RUN echo second
"""


@pytest.fixture
def client(engine: Daemon) -> Iterator[Any]:
    import docker

    made = docker.DockerClient(base_url=engine.host)
    yield made
    made.close()


def test_build_of_a_directory(client: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE + "COPY kept /kept\n")
    (tmp_path / "kept").write_text("1")
    (tmp_path / "dropped").write_text("1")
    (tmp_path / ".dockerignore").write_text("dropped\n")
    image, logs = client.images.build(
        path=str(tmp_path), tag="py:built", buildargs={"WHO": "you", "UNSET": None}, labels={"a": "b"}, rm=True,
        forcerm=True, pull=False, shmsize=1 << 20, extra_hosts={"some.host": "10.0.0.1"},
        container_limits={"memory": 256 << 20, "cpushares": 512}, network_mode="none")
    assert image.tags == ["py:built"]
    assert image.labels == {"a": "b"}
    lines = [message["stream"] for message in logs if "stream" in message]
    assert lines[-1] == "Successfully tagged py:built\n"
    assert client.containers.run("py:built", "cat /who /kept", remove=True) == b"hello you\n1"


def test_build_of_a_file_object_and_a_target(client: Any) -> None:
    image, logs = client.images.build(fileobj=io.BytesIO(DOCKERFILE.encode()), target="first", nocache=True,
                                      tag="py:first", cache_from=["py:built"])
    assert image.tags == ["py:first"]
    assert not any("second" in message.get("stream", "") for message in logs)


def test_build_errors_are_docker_py_s(client: Any) -> None:
    import docker.errors

    with pytest.raises(docker.errors.BuildError, match="returned a non-zero code: 4") as caught:
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN echo out; exit 4\n"))
    assert "out\n" in [message.get("stream") for message in caught.value.build_log]
    with pytest.raises(docker.errors.APIError, match="unknown instruction: RUX"):
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUX\n"))
    with pytest.raises(docker.errors.APIError, match="Cannot locate specified Dockerfile: nope"):
        client.images.build(fileobj=io.BytesIO(_tar()), custom_context=True, dockerfile="nope")


def _tar() -> bytes:
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return out.getvalue()
