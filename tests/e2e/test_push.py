"""``push`` from the command lines: indexes, platforms, every tag, what is refused."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.registry import BuiltImage, Registry, build_image
from tests.support.transfers import layer_tar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "registry")

INDEX = "application/vnd.oci.image.index.v1+json"
COLOURS = re.compile(r"\x1b\[\d+m")
IMAGES = {name: build_image([layer_tar({"platform": name.encode()})], architecture=name)
          for name in ("amd64", "arm64")}
WHOLE = BuiltImage(media_type=INDEX, blobs={}, manifest=json.dumps({
    "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest),
         "platform": {"os": "linux", "architecture": name}}
        for name, image in IMAGES.items()]}).encode())


@pytest.fixture
def source(pallet_registry: Registry, docker: DockerCli) -> Iterator[str]:
    """An index of two platforms in Pallet's registry; one of them is pulled."""
    for name, image in IMAGES.items():
        pallet_registry.push("push/source", name, image)
    reference = pallet_registry.push("push/source", "all", WHOLE)
    docker.ok("pull", reference)
    yield reference
    for line in docker.ok("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines():
        if "/push/" in line:
            docker.run("rmi", "-f", line)
    docker.run("rmi", "-f", reference)


def manifest(registry: Registry, repository: str, tag: str) -> bytes:
    """What the registry has under a tag."""
    accept = ", ".join((INDEX, IMAGES["amd64"].media_type))
    status, _, body = registry.request("GET", f"/v2/{repository}/manifests/{tag}",
                                       headers={"Accept": accept})
    assert status == 200
    return body


def test_part_and_whole_of_an_index(
    docker: DockerCli, pallet_cli: DockerCli, source: str, registry: Registry
) -> None:
    """One platform with a note as docker prints it; both once both are here, byte for byte."""
    target = f"{registry.address}/push/index:1"
    docker.ok("tag", source, target)
    docker.ok("push", target)
    theirs, ours = (cli.run("push", target, check=True) for cli in (docker, pallet_cli))
    assert "only the available single-platform image was pushed" in ours.out
    assert COLOURS.sub("", theirs.out) == ours.out
    assert manifest(registry, "push/index", "1") == IMAGES["amd64"].manifest
    docker.ok("pull", "--platform", "linux/arm64", source)
    docker.ok("tag", source, target)
    pallet_cli.ok("push", target)
    assert manifest(registry, "push/index", "1") == WHOLE.manifest
    pallet_cli.ok("push", "--platform", "linux/arm64", target)
    assert manifest(registry, "push/index", "1") == IMAGES["arm64"].manifest
    results = [cli.run("push", "--platform", "linux/s390x", target)
               for cli in (docker, pallet_cli)]
    assert results[0].err == results[1].err
    assert "does not provide the specified platform (linux/s390x)" in results[1].err


def test_every_tag(docker: DockerCli, pallet_cli: DockerCli, source: str,
                   registry: Registry) -> None:
    """``-a`` in the order of the tags; ``-q`` says the name alone."""
    repository = f"{registry.address}/push/tags"
    for tag in ("b", "a", "c"):
        docker.ok("tag", source, f"{repository}:{tag}")
    out = pallet_cli.ok("push", "-a", repository)
    assert re.findall(r"^(\w): digest:", out, re.MULTILINE) == ["a", "b", "c"]
    assert pallet_cli.ok("push", "-q", f"{repository}:a") == f"{repository}:a"
    for words in (["push", "-a", f"{repository}:a"], ["push", f"{repository}:none"],
                  ["push", "never/heard:1"], ["push", "never/heard"]):
        theirs, ours = (cli.run(*words) for cli in (docker, pallet_cli))
        assert (ours.code, ours.out, ours.err) == (theirs.code, theirs.out, theirs.err), words
