"""Images for several platforms under one name: pull, list, inspect, create, save, load, remove."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import pallet_command
from tests.support.registry import Registry, build_image, digest
from tests.support.transfers import layer_tar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "registry")

INDEX = "application/vnd.oci.image.index.v1+json"
IMAGES = {architecture: build_image([layer_tar({architecture: architecture.encode()})],
                                    architecture=architecture, Cmd=["/x"])
          for architecture in ("amd64", "arm64", "s390x")}
DOCUMENT = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
    {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest),
     "platform": {"os": "linux", "architecture": architecture}}
    for architecture, image in IMAGES.items()]}).encode()
IDS = {architecture: json.loads(image.manifest)["config"]["digest"]
       for architecture, image in IMAGES.items()}


@pytest.fixture
def reference(registry: Registry, docker: DockerCli, name: str) -> Iterator[str]:
    """An index of three platforms in the registry."""
    full = ""
    for architecture, image in IMAGES.items():
        full = registry.push(name, architecture, image).removesuffix(architecture) + "v1"
    registry.request("PUT", f"/v2/{name}/manifests/v1", DOCUMENT, {"Content-Type": INDEX})
    yield full
    for row in set(docker.ok("images", "-aq", "--no-trunc").split()):
        if row in IDS.values():
            docker.run("rmi", "-f", row)


def inspect(docker: DockerCli, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker.ok("image", "inspect", *args))[0]
    return found


def pull(docker: DockerCli, reference: str, *architectures: str) -> None:
    for architecture in architectures:
        docker.ok("pull", "-q", "--platform", f"linux/{architecture}", reference)


def blobs(engine: Daemon) -> set[str]:
    return {path.name for path in (engine.data_root / "content/blobs/sha256").iterdir()}


def test_pull_adds_a_platform(docker: DockerCli, engine: Daemon, reference: str) -> None:
    pull(docker, reference, "arm64")
    assert inspect(docker, reference)["Id"] == IDS["arm64"]
    pull(docker, reference, "amd64", "s390x")
    found = inspect(docker, reference)
    assert found["Id"] == IDS["amd64"], "the host's platform is what the name runs"
    assert found["RepoDigests"] == [f"{reference.rpartition(':')[0]}@{digest(DOCUMENT)}"]
    other = inspect(docker, "--platform", "linux/arm64", reference)
    assert (other["Id"], other["Architecture"]) == (IDS["arm64"], "arm64")
    assert other["RepoTags"] == [reference]
    rows = docker.ok("images", "-a", "--no-trunc", "--format", "{{.ID}} {{.Repository}}").splitlines()
    assert sum(row.split()[0] in IDS.values() for row in rows) == 1
    assert not docker.ok("images", "-q", "--filter", "dangling=true")
    assert digest(DOCUMENT).partition(":")[2] in blobs(engine)
    docker.ok("image", "prune", "-f")
    assert inspect(docker, "--platform", "linux/s390x", reference)["Id"] == IDS["s390x"]


def test_create_takes_the_platform_asked_for(docker: DockerCli, reference: str) -> None:
    pull(docker, reference, "amd64", "arm64")
    made = {}
    for architecture in ("amd64", "arm64"):
        container = docker.ok("create", "--platform", f"linux/{architecture}", reference)
        made[architecture] = docker.inspect(container)["Image"]
        docker.ok("rm", container)
    assert made == {key: IDS[key] for key in made}


def test_manifests_of_a_list(docker: DockerCli, engine: Daemon, reference: str) -> None:
    pull(docker, reference, "amd64", "arm64")
    reply = engine.api.call("GET", "/v1.47/images/json?manifests=1")
    row = next(item for item in reply.json if reference in item["RepoTags"])
    found = {item["Descriptor"]["platform"]["architecture"]: item for item in row["Manifests"]}
    assert {key: item["Available"] for key, item in found.items()} == {
        "amd64": True, "arm64": True, "s390x": False}
    assert all(item["Kind"] == "image" for item in found.values())
    assert found["arm64"]["ID"] == IMAGES["arm64"].digest
    assert found["arm64"]["ImageData"]["Size"]["Unpacked"] == len("arm64")


def test_tree_of_images(docker: DockerCli, engine: Daemon, reference: str, name: str) -> None:
    """``images --tree``, of Docker's command line and the same of Pallet's."""
    pallet = engine.cli(pallet_command())
    pull(docker, reference, "amd64", "arm64")
    docker.ok("tag", reference, f"{name}:short")
    container = docker.ok("create", "--platform", "linux/arm64", reference)
    try:
        for words in ((), ("-a",), (reference,), ("-f", "dangling=true"), ("nothing",), ("-q",), ("--digests",),
                      ("--no-trunc",), ("--format", "x")):
            theirs, ours = docker.run("images", "--tree", *words), pallet.run("images", "--tree", *words)
            lines = re.sub("\033\\[[0-9;]*m", "", theirs.out).splitlines(keepends=True)
            plain = "".join(line for line in lines if not line.startswith("WARNING: This is an experimental"))
            assert (ours.code, ours.out, ours.err) == (theirs.code, plain, theirs.err), words
        tree = pallet.ok("images", "--tree", reference)
        rows = [line.split() for line in tree.splitlines() if "linux/" in line]
        assert [(row[1], row[-1] == "U") for row in rows] == [
            ("linux/amd64", False), ("linux/arm64", True), ("linux/s390x", False)]
    finally:
        docker.ok("rm", container)


def test_remove_one_platform(docker: DockerCli, engine: Daemon, reference: str) -> None:
    pull(docker, reference, "amd64", "arm64")
    before = blobs(engine)
    out = docker.ok("rmi", "--platform", "linux/arm64", reference)
    assert f"Deleted: {IDS['arm64']}" in out
    gone = {item.partition(":")[2] for item in IMAGES["arm64"].blobs} | {
        IMAGES["arm64"].digest.partition(":")[2]}
    assert gone & before and not gone & blobs(engine)
    assert inspect(docker, reference)["Id"] == IDS["amd64"]
    result = docker.run("image", "inspect", "--platform", "linux/arm64", reference)
    assert "was found but does not provide the specified platform (linux/arm64)" in result.err
    pull(docker, reference, "arm64")
    docker.ok("rmi", "--platform", "linux/amd64", reference)
    assert inspect(docker, reference)["Id"] == IDS["arm64"]
    docker.ok("rmi", "--platform", "linux/arm64", reference)
    assert docker.run("image", "inspect", reference).code == 1


def test_the_last_name_takes_every_platform(docker: DockerCli, engine: Daemon,
                                            reference: str) -> None:
    before = blobs(engine)
    pull(docker, reference, "amd64", "arm64")
    docker.ok("tag", reference, "t-platforms:2")
    docker.ok("rmi", reference)
    assert inspect(docker, "--platform", "linux/arm64", "t-platforms:2")["Id"] == IDS["arm64"]
    docker.ok("rmi", "t-platforms:2")
    assert blobs(engine) == before


def test_save_and_load_keep_the_index(docker: DockerCli, reference: str, tmp_path: Path) -> None:
    pull(docker, reference, "amd64", "arm64")
    whole, single = tmp_path / "whole.tar", tmp_path / "single.tar"
    docker.ok("save", "-o", str(whole), reference)
    docker.ok("save", "--platform", "linux/arm64", "-o", str(single), reference)
    digests = inspect(docker, reference)["RepoDigests"]
    docker.ok("rmi", reference)
    assert docker.ok("load", "-i", str(whole)) == f"Loaded image: {reference}"
    assert inspect(docker, reference)["RepoDigests"] == digests
    assert inspect(docker, "--platform", "linux/arm64", reference)["Id"] == IDS["arm64"]
    docker.ok("rmi", reference)
    docker.ok("load", "-i", str(single))
    assert inspect(docker, reference)["Id"] == IDS["arm64"]
    docker.ok("rmi", reference)
    docker.ok("load", "--platform", "linux/arm64", "-i", str(whole))
    assert inspect(docker, reference)["Id"] == IDS["arm64"]
    result = docker.run("load", "--platform", "linux/s390x", "-i", str(whole))
    assert result.code == 1
