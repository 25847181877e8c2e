"""Images: import, list, inspect, tag, remove, and what containers hold on to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.scratch import TreeTar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")


def small_tar(content: str) -> bytes:
    tree = TreeTar()
    tree.file("content", content)
    return tree.finish()


@pytest.fixture
def image(docker: DockerCli, name: str) -> Iterator[str]:
    """An image that only this test has."""
    full = docker.ok("import", "-m", "by a test", "-c", 'CMD ["/content"]', "-", f"{name}:one",
                     stdin=small_tar(name))  # fmt: skip
    yield full
    for row in docker.ok(
        "images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}"
    ).splitlines():
        if row.startswith(full) or name in row:
            docker.run("rmi", "-f", row.split()[0])


def tags(docker: DockerCli, name: str) -> set[str]:
    out = docker.ok("images", "--format", "{{.Repository}}:{{.Tag}}")
    return {line for line in out.split() if line.startswith(name)}


def test_import_and_inspect(docker: DockerCli, image: str, name: str) -> None:
    data = json.loads(docker.ok("image", "inspect", f"{name}:one"))[0]
    assert data["Id"] == image
    assert data["RepoTags"] == [f"{name}:one"]
    assert data["Config"]["Cmd"] == ["/content"]
    assert (data["Os"], data["Architecture"]) == ("linux", "amd64")
    assert data["RootFS"]["Type"] == "layers"
    assert len(data["RootFS"]["Layers"]) == 1
    assert data["Size"] == len(name)


def test_list_columns(docker: DockerCli, image: str, name: str) -> None:
    header, *rows = docker.ok("images").splitlines()
    assert header.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    row = next(line.split() for line in rows if line.startswith(name))
    assert row[:3] == [name, "one", image.removeprefix("sha256:")[:12]]


def test_filters(docker: DockerCli, image: str, name: str) -> None:
    del image
    assert docker.ok("images", "-q", "--filter", f"reference={name}:*")
    assert not docker.ok("images", "-q", "--filter", f"reference={name}:two")
    assert not docker.ok("images", "-q", name, "--filter", "dangling=true")
    assert docker.run("images", "--filter", "nope=1").code == 1


def test_tag_and_untag(docker: DockerCli, image: str, name: str) -> None:
    docker.ok("tag", f"{name}:one", f"{name}:two")
    assert tags(docker, name) == {f"{name}:one", f"{name}:two"}
    assert docker.ok("rmi", f"{name}:one") == f"Untagged: {name}:one"
    assert tags(docker, name) == {f"{name}:two"}
    out = docker.ok("rmi", f"{name}:two").splitlines()
    assert out[0] == f"Untagged: {name}:two"
    assert f"Deleted: {image}" in out
    assert docker.run("inspect", image).code == 1


def test_remove_by_id_with_several_names(docker: DockerCli, image: str, name: str) -> None:
    docker.ok("tag", image, f"{name}-b:x")
    result = docker.run("rmi", image)
    assert result.code == 1
    assert "must be forced" in result.err
    docker.ok("rmi", "-f", image)
    assert not tags(docker, name)


def test_tag_moves_and_leaves_the_old_one_dangling(
    docker: DockerCli, image: str, name: str
) -> None:
    second = docker.ok("import", "-", f"{name}:one", stdin=small_tar("second"))
    dangling = docker.ok("images", "--no-trunc", "-q", "--filter", "dangling=true").split()
    assert image in dangling
    assert docker.ok("inspect", "-f", "{{.Id}}", f"{name}:one") == second
    docker.ok("rmi", second, image)


def test_short_ids(docker: DockerCli, image: str) -> None:
    short = image.removeprefix("sha256:")[:10]
    assert docker.ok("inspect", "-f", "{{.Id}}", short) == image
    assert docker.ok("inspect", "-f", "{{.Id}}", f"sha256:{short}") == image


def test_used_by_a_stopped_container(docker: DockerCli, name: str, image: str) -> None:
    del image
    docker.ok("create", "--name", name, f"{name}:one")
    result = docker.run("rmi", f"{name}:one")
    assert result.code == 1
    assert "container" in result.err
    docker.ok("rmi", "-f", f"{name}:one")
    assert docker.inspect(name)["Config"]["Image"] == f"{name}:one"


def test_used_by_a_running_container(docker: DockerCli, name: str) -> None:
    docker.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    image = docker.ok("inspect", "-f", "{{.Id}}", "busybox")
    result = docker.run("rmi", "-f", image)
    assert result.code == 1
    assert "cannot be forced" in result.err


def test_missing(docker: DockerCli) -> None:
    result = docker.run("rmi", "nope")
    assert result.code == 1
    assert "No such image: nope:latest" in result.err
    result = docker.run("image", "inspect", "nope")
    assert result.code == 1
    assert "No such image: nope" in result.err


def test_history(docker: DockerCli, image: str) -> None:
    rows = docker.ok("history", "--no-trunc", "--format", "{{json .}}", image).splitlines()
    assert json.loads(rows[-1])["Comment"] == "by a test"


def test_events_of_images(engine: Daemon, docker: DockerCli, image: str, name: str) -> None:
    del engine, image
    docker.ok("tag", f"{name}:one", f"{name}:two")
    docker.ok("rmi", f"{name}:two")
    actions = docker.events("type=image")
    assert actions[-2:] == ["tag", "untag"]
    assert "import" in actions
