"""Pull and push: Debian's registry and Pallet's own, with and without a password."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.registry import BuiltImage, Registry, build_image, digest
from tests.support.scratch import TreeTar, busybox_tar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox", "registry")

INDEX = "application/vnd.oci.image.index.v1+json"


def layered() -> BuiltImage:
    """Three layers: a base, a change, and whiteouts of a file and of a whole directory."""
    change = TreeTar()
    change.directory("data")
    change.file("data/one", "1")
    change.file("data/two", "2")
    change.directory("gone")
    change.file("gone/x", "x")
    removal = TreeTar()
    removal.directory("data")
    removal.whiteout("data/one")
    removal.directory("gone")
    removal.file("gone/.wh..wh..opq", b"")
    removal.file("gone/y", "y")
    return build_image(
        [busybox_tar(), change.finish(), removal.finish()],
        Cmd=["sh", "-c", "ls /data /gone"], Env=["FROM=registry"], Labels={"kind": "layered"},
        WorkingDir="/srv", User="app", StopSignal="SIGINT",
    )  # fmt: skip


@pytest.fixture(scope="module", params=["debian", "pallet"])
def server(request: pytest.FixtureRequest) -> Registry:
    """Each registry server in turn."""
    kind = "registry" if request.param == "debian" else "pallet_registry"
    server: Registry = request.getfixturevalue(kind)
    return server


@pytest.fixture
def reference(server: Registry, docker: DockerCli, name: str) -> Iterator[str]:
    """``layered`` in the registry; removed from the daemon afterwards."""
    repository = name.lower().replace("--", "-")
    reference = server.push(f"test/{repository}", "v1", layered())
    yield reference
    docker.run("rmi", "-f", reference)


def test_pull_and_run(docker: DockerCli, reference: str) -> None:
    out = docker.ok("pull", reference).splitlines()
    repository = reference.split("/", 1)[1].rsplit(":", 1)[0]
    assert out[0] == f"v1: Pulling from {repository}"
    assert out[-3] == f"Digest: {layered().digest}"
    assert out[-2] == f"Status: Downloaded newer image for {reference}"
    assert out[-1] == reference
    assert docker.ok("run", "--rm", reference).split() == ["/data:", "two", "/gone:", "y"]


def test_pull_again_is_up_to_date(docker: DockerCli, reference: str) -> None:
    docker.ok("pull", reference)
    assert f"Status: Image is up to date for {reference}" in docker.ok("pull", reference)


def test_run_pulls_what_is_missing(docker: DockerCli, reference: str) -> None:
    result = docker.run("run", "--rm", reference, "cat", "/data/two")
    assert (result.code, result.out) == (0, "2")
    assert f"Unable to find image '{reference}' locally" in result.err
    assert f"Status: Downloaded newer image for {reference}" in result.err


def test_config_is_the_image_s(docker: DockerCli, reference: str) -> None:
    docker.ok("pull", reference)
    data = docker.inspect(reference)
    assert data["Config"]["User"] == "app"
    assert data["Config"]["WorkingDir"] == "/srv"
    assert data["Config"]["Labels"] == {"kind": "layered"}
    assert data["RepoTags"] == [reference]
    assert data["RepoDigests"] == [f"{reference.rsplit(':', 1)[0]}@{layered().digest}"]
    assert len(data["RootFS"]["Layers"]) == 3
    out = docker.ok("run", "--rm", reference, "sh", "-c", "id -un; pwd; echo $FROM")
    assert out.split() == ["app", "/srv", "registry"]


def test_pull_by_digest(docker: DockerCli, reference: str) -> None:
    pinned = f"{reference.rsplit(':', 1)[0]}@{layered().digest}"
    docker.ok("pull", pinned)
    assert docker.inspect(pinned)["RepoDigests"] == [pinned]
    docker.ok("rmi", pinned)


def test_missing_tag_and_repository(docker: DockerCli, server: Registry, reference: str) -> None:
    other = reference.rsplit(":", 1)[0] + ":v2"
    result = docker.run("pull", other)
    assert result.code == 1
    assert f"manifest for {other} not found" in result.err
    result = docker.run("pull", f"{server.address}/no/such")
    assert result.code == 1
    assert "not found" in result.err


def test_push_and_pull_back(docker: DockerCli, server: Registry, name: str) -> None:
    target = f"{server.address}/pushed/{name.lower().replace('--', '-')}:x"
    docker.ok("tag", "busybox", target)
    out = docker.ok("push", target)
    last = out.splitlines()[-1].split()
    assert last[:2] == ["x:", "digest:"]
    code, _, body = server.request(
        "GET", f"/v2/{target.split('/', 1)[1].rsplit(':', 1)[0]}/manifests/x",
        headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json, "
                 "application/vnd.oci.image.manifest.v1+json"},
    )  # fmt: skip
    assert (code, digest(body)) == (200, last[2])
    assert int(last[-1]) == len(body)
    image = docker.inspect(target)["Id"]
    docker.ok("rmi", target)
    docker.ok("pull", target)
    assert docker.inspect(target)["Id"] == image
    assert docker.ok("run", "--rm", target, "echo", "back") == "back"
    docker.ok("rmi", target)


def test_platform_of_an_index(docker: DockerCli, server: Registry, name: str) -> None:
    repository = f"multi/{name.lower().replace('--', '-')}"
    entries = []
    for architecture in ("arm64", "amd64"):
        tree = TreeTar()
        tree.file("which", architecture)
        image = build_image([busybox_tar(), tree.finish()], architecture=architecture,
                            Cmd=["cat", "/which"])  # fmt: skip
        server.push(repository, architecture, image)
        entries.append({
            "mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest),
            "platform": {"architecture": architecture, "os": "linux"},
        })  # fmt: skip
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    index = BuiltImage(manifest=json.dumps(document).encode(), blobs={}, media_type=INDEX)
    reference = server.push(repository, "all", index)
    assert docker.ok("run", "--rm", reference) == "amd64"
    docker.ok("rmi", reference)
    docker.ok("pull", "--platform", "linux/arm64", reference)
    assert docker.inspect(reference)["Architecture"] == "arm64"
    docker.ok("rmi", reference)
    result = docker.run("pull", "--platform", "linux/s390x", reference)
    assert result.code == 1
    assert "no matching manifest for linux/s390x" in result.err


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_layer_compressions(
    docker: DockerCli, registry: Registry, name: str, compression: str
) -> None:
    image = build_image([busybox_tar()], compression=compression, Cmd=["echo", compression])
    reference = registry.push("compression", compression, image)
    assert docker.ok("run", "--rm", reference) == compression
    docker.ok("rmi", reference)
    del name


def test_layers_are_shared(engine: Daemon, docker: DockerCli, registry: Registry) -> None:
    base = build_image([busybox_tar()], Cmd=["true"])
    tree = TreeTar()
    tree.file("extra", "e")
    more = build_image([busybox_tar(), tree.finish()], Cmd=["cat", "/extra"])
    one, two = registry.push("shared", "one", base), registry.push("shared", "two", more)
    docker.ok("pull", one)
    assert "Already exists" in docker.ok("pull", two)
    docker.ok("rmi", one)
    assert docker.ok("run", "--rm", two) == "e"
    docker.ok("rmi", two)
    del engine


def test_password(docker: DockerCli, auth_registry: Registry) -> None:
    image = build_image([busybox_tar()], Cmd=["echo", "private"])
    reference = auth_registry.push("private/image", "v1", image)
    result = docker.run("pull", reference)
    assert result.code == 1
    assert "no basic auth credentials" in result.err or "authentication required" in result.err
    wrong = docker.run("login", "-u", "user", "-p", "wrong", auth_registry.address)
    assert wrong.code == 1
    assert "unauthorized" in wrong.err.lower()
    out = docker.run("login", "-u", "user", "--password-stdin", auth_registry.address,
                     stdin="secret")  # fmt: skip
    assert "Login Succeeded" in out.out + out.err
    try:
        assert docker.ok("run", "--rm", reference) == "private"
        docker.ok("tag", reference, f"{auth_registry.address}/private/again:v1")
        docker.ok("push", f"{auth_registry.address}/private/again:v1")
    finally:
        docker.run("logout", auth_registry.address)
        docker.run("rmi", reference, f"{auth_registry.address}/private/again:v1")


def test_all_tags(docker: DockerCli, registry: Registry) -> None:
    for tag in ("a", "b"):
        registry.push("alltags", tag, build_image([busybox_tar()], Cmd=["echo", tag]))
    repository = f"{registry.address}/alltags"
    docker.ok("pull", "-a", repository)
    assert docker.ok("run", "--rm", f"{repository}:b") == "b"
    docker.ok("rmi", f"{repository}:a", f"{repository}:b")
