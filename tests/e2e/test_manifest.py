"""``pallet manifest`` beside ``docker manifest``: same words, same files, same lists."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import pallet_command
from tests.support.dockercli import DockerCli, docker_binaries
from tests.support.registry import build_image
from tests.support.transfers import layer_tar

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.registry import Registry

pytestmark = pytest.mark.needs("docker_cli", "registry")

AMD = build_image([layer_tar({"a": b"a"})], Cmd=["x<y"])
ARM = build_image([layer_tar({"b": b"b"})], architecture="arm64")

# In order; {0} is the registry. What the registry or the store has come to is part of the test.
LINES = """
inspect --insecure {0}/m/a:1
inspect --insecure -v {0}/m/a:1
inspect --insecure {0}/no:1
inspect --insecure 127.0.0.1:1/no:1
inspect BAD!
create --insecure {0}/m/l:all {0}/m/a:1 {0}/m/b:1
create --insecure {0}/m/l:all {0}/m/a:1
create --insecure --amend {0}/m/l:all {0}/m/a:1 {0}/m/l:arm
create --insecure {0}/m/none:1 {0}/no:1
annotate {0}/m/l:all {0}/m/b:1 --variant v8 --os-features x,y --os-version 1
annotate {0}/m/l:all {0}/m/b:1 --arch bogus
annotate {0}/m/l:all nope --arch arm
annotate {0}/m/lx nope --arch arm
inspect {0}/m/l:all
inspect -v {0}/m/l:all
inspect {0}/m/l:all {0}/m/a:1
inspect {0}/m/l:all nope
push --insecure {0}/m/l:all
push --insecure --purge {0}/m/l:all
push --insecure {0}/m/l:all
inspect --insecure {0}/m/l:all
inspect --insecure -v {0}/m/l:all
create --insecure {0}/m/z:1 {0}/m/l:all
create --insecure other.invalid/m/z:1 {0}/m/a:1
push --insecure other.invalid/m/z:1
rm {0}/m/l:all
rm other.invalid/m/z:1 x
""".strip().splitlines()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[DockerCli, DockerCli]:
    """``docker`` and ``pallet``, each with a configuration of its own."""
    return (DockerCli([docker_binaries()[0]], "", tmp_path / "docker"),
            DockerCli(pallet_command(), "", tmp_path / "pallet"))


def files(cli: DockerCli) -> dict[str, bytes]:
    """Every file of the local store, by its path in it."""
    root = cli.config / "manifests"
    return {str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*") if path.is_file()}


def test_side_by_side(pair: tuple[DockerCli, DockerCli], registry: Registry) -> None:
    """Output, exit codes and files agree line by line."""
    for repository, tag, image in (("m/a", "1", AMD), ("m/b", "1", ARM), ("m/l", "arm", ARM)):
        registry.push(repository, tag, image)
    for line in LINES:
        args = ["manifest", *line.format(registry.address).split()]
        theirs, ours = (cli.run(*args) for cli in pair)
        assert ours == theirs, line
        assert files(pair[1]) == files(pair[0]), line


def test_one_begins_the_other_ends(pair: tuple[DockerCli, DockerCli], registry: Registry) -> None:
    """The store is shared: each reads what the other wrote."""
    docker, pallet = pair
    ours = DockerCli(pallet.argv, "", docker.config)
    first, second = registry.push("n/a", "1", AMD), registry.push("n/b", "1", ARM)
    target = f"{registry.address}/n/both:1"
    docker.run("manifest", "create", "--insecure", target, first, check=True)
    ours.run("manifest", "create", "--insecure", "--amend", target, second, check=True)
    listed = docker.run("manifest", "inspect", target, check=True).out
    assert AMD.digest in listed
    assert ARM.digest in listed
    pushed = ours.run("manifest", "push", "--insecure", "-p", target, check=True).text.split()[-1]
    status, _, _ = registry.request("GET", f"/v2/n/both/manifests/{pushed}",
                                    headers={"Accept": "application/vnd.oci.image.index.v1+json"})
    assert status == 200
    assert files(docker) == {}


def test_credentials(pair: tuple[DockerCli, DockerCli], auth_registry: Registry) -> None:
    """Those of config.json are used; without them there is no such manifest."""
    _, pallet = pair
    reference = auth_registry.push("p/a", "1", AMD)
    assert pallet.run("manifest", "inspect", "--insecure", reference).code == 1
    (pallet.config / "config.json").write_text(
        json.dumps({"auths": {auth_registry.address: {"auth": "dXNlcjpzZWNyZXQ="}}}))
    pallet.run("manifest", "inspect", "--insecure", reference, check=True)
