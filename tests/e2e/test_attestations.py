"""Attestations (provenance, bills of materials) stay with their image: pull, list, save, load, push, remove."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.registry import BuiltImage, Registry, build_image, digest
from tests.support.transfers import layer_tar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "registry")

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NOWHERE = {"os": "unknown", "architecture": "unknown"}
IMAGES = {architecture: build_image([layer_tar({architecture: architecture.encode()})], architecture=architecture,
                                    Cmd=["/x"]) for architecture in ("amd64", "arm64")}


def attestation(subject: str) -> BuiltImage:
    """As BuildKit makes it: one in-toto statement a layer, and a configuration for no platform."""
    statements = [json.dumps({"_type": "https://in-toto.io/Statement/v0.1", "predicateType": kind, "subject": subject})
                  .encode() for kind in ("https://slsa.dev/provenance/v0.2", "https://spdx.dev/Document")]
    config = json.dumps({**NOWHERE, "config": {}, "rootfs": {
        "type": "layers", "diff_ids": [digest(data) for data in statements]}}).encode()
    blobs = {digest(data): data for data in (config, *statements)}
    raw = json.dumps({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config),
                   "size": len(config)},
        "layers": [{"mediaType": "application/vnd.in-toto+json", "digest": digest(data), "size": len(data),
                    "annotations": {"in-toto.io/predicate-type": json.loads(data)["predicateType"]}}
                   for data in statements]}).encode()
    return BuiltImage(manifest=raw, blobs=blobs)


ATTESTATIONS = {architecture: attestation(image.digest) for architecture, image in IMAGES.items()}


def index(attestations: dict[str, BuiltImage]) -> bytes:
    """Attestations first, so that whoever takes the first entry takes a wrong one."""
    entries: list[dict[str, Any]] = [
        {"mediaType": MANIFEST, "digest": made.digest, "size": len(made.manifest), "platform": NOWHERE, "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": IMAGES[architecture].digest}}
        for architecture, made in attestations.items()]
    entries += [{"mediaType": MANIFEST, "digest": image.digest, "size": len(image.manifest),
                 "platform": {"os": "linux", "architecture": architecture}} for architecture, image in IMAGES.items()]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


WHOLE = index(ATTESTATIONS)


@pytest.fixture
def reference(registry: Registry, docker: DockerCli, name: str) -> Iterator[str]:
    """The index with everything it lists, in the registry."""
    for number, image in enumerate([*IMAGES.values(), *ATTESTATIONS.values()]):
        registry.push(name, f"part{number}", image)
    yield registry.push(name, "v1", BuiltImage(manifest=WHOLE, blobs={}, media_type=INDEX))
    for row in set(docker.ok("images", "-aq", "--no-trunc", "--filter", f"reference=*/{name}*").split()):
        docker.run("rmi", "-f", row)


def blobs_of(made: BuiltImage) -> set[str]:
    return {key.removeprefix("sha256:") for key in (made.digest, *made.blobs)}


def stored(engine: Daemon) -> set[str]:
    return {path.name for path in (engine.data_root / "content/blobs/sha256").iterdir()}


def manifests(engine: Daemon, reference: str) -> dict[str, dict[str, Any]]:
    rows = engine.api.call("GET", "/v1.47/images/json?manifests=1").json
    row = next(item for item in rows if reference in item["RepoTags"])
    return {item["ID"]: item for item in row["Manifests"]}


def test_pull_and_list(docker: DockerCli, engine: Daemon, reference: str) -> None:
    """Those of the platform that was pulled come along; no platform is ever taken to be one."""
    docker.ok("pull", "-q", "--platform", "linux/amd64", reference)
    assert blobs_of(ATTESTATIONS["amd64"]) <= stored(engine)
    assert not blobs_of(ATTESTATIONS["arm64"]) & stored(engine)
    found = manifests(engine, reference)
    for architecture, here in (("amd64", True), ("arm64", False)):
        item = found[ATTESTATIONS[architecture].digest]
        assert (item["Kind"], item["Available"]) == ("attestation", here)
        assert item["AttestationData"]["For"] == IMAGES[architecture].digest
        assert item["Descriptor"]["platform"] == NOWHERE
        assert not item.get("ImageData")
    size = sum(map(len, (ATTESTATIONS["amd64"].manifest, *ATTESTATIONS["amd64"].blobs.values())))
    assert found[ATTESTATIONS["amd64"].digest]["Size"] == {"Content": size, "Total": size}
    inspected = engine.api.call("GET", f"/v1.48/images/{reference}/json?manifests=1").json["Manifests"]
    assert {item["ID"]: item["Kind"] for item in inspected} == {key: item["Kind"] for key, item in found.items()}
    refused = docker.run("pull", "--platform", "unknown/unknown", reference)
    assert refused.code == 1
    assert docker.ok("inspect", "-f", "{{.Architecture}}", reference) == "amd64"
    shown = docker.ok("images", "--tree", reference)
    assert "unknown" not in shown


def test_save_load_push_remove(docker: DockerCli, engine: Daemon, reference: str, registry: Registry, name: str,
                               tmp_path: Path) -> None:
    """Byte for byte through an archive and into another repository; the last name takes them along."""
    for architecture in IMAGES:
        docker.ok("pull", "-q", "--platform", f"linux/{architecture}", reference)
    everything = set().union(*(blobs_of(made) for made in (*IMAGES.values(), *ATTESTATIONS.values())))
    assert everything <= stored(engine)
    docker.ok("save", "-o", str(tmp_path / "a.tar"), reference)
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = {item.name.rpartition("/")[2]: item for item in tar if item.name.startswith("blobs/sha256/")}
    assert {*everything, digest(WHOLE).removeprefix("sha256:")} <= members.keys()
    docker.ok("rmi", reference)
    assert not everything & stored(engine)
    assert docker.ok("load", "-q", "-i", str(tmp_path / "a.tar")) == f"Loaded image: {reference}"
    assert everything <= stored(engine)
    target = f"{registry.address}/{name}/copy:v1"
    docker.ok("tag", reference, target)
    docker.ok("push", "-q", target)
    status, _, raw = registry.request("GET", f"/v2/{name}/copy/manifests/v1", headers={"Accept": INDEX})
    assert (status, raw) == (200, WHOLE)
    for made in ATTESTATIONS.values():
        status, _, raw = registry.request("GET", f"/v2/{name}/copy/manifests/{made.digest}",
                                          headers={"Accept": MANIFEST})
        assert (status, raw) == (200, made.manifest)
        assert all(registry.status("HEAD", f"/v2/{name}/copy/blobs/{key}") == 200 for key in made.blobs)
    docker.ok("rmi", target)
    docker.ok("rmi", reference)
    assert not everything & stored(engine)


def test_attestation_that_cannot_be_had(docker: DockerCli, engine: Daemon, registry: Registry, name: str) -> None:
    """The image comes all the same, and the log says what is missing."""
    lost = attestation("nobody has this")
    for number, image in enumerate(IMAGES.values()):
        registry.push(name, f"part{number}", image)
    registry.push(name, "lost", lost)
    reference = registry.push(name, "v1", BuiltImage(manifest=index({"amd64": lost}), blobs={}, media_type=INDEX))
    assert registry.status("DELETE", f"/v2/{name}/manifests/{lost.digest}") == 202
    docker.ok("pull", "-q", "--platform", "linux/amd64", reference)
    assert f"attestation {lost.digest} of {IMAGES['amd64'].digest} is left out" in engine.log.read_text()
    assert not manifests(engine, reference)[lost.digest]["Available"]
    docker.ok("rmi", reference)


def test_layout_whose_attestations_are_not_marked(docker: DockerCli, engine: Daemon, name: str) -> None:
    """An entry for unknown/unknown is no image, whether it says what it is or not."""
    made, image = ATTESTATIONS["amd64"], IMAGES["amd64"]
    entries = [{"mediaType": MANIFEST, "digest": one.digest, "size": len(one.manifest), "platform": platform,
                **({"annotations": {"io.containerd.image.name": f"docker.io/library/{name}:1"}} if one is image else {})}
               for one, platform in ((made, NOWHERE), (image, {"os": "linux", "architecture": "amd64"}))]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in {
                "index.json": json.dumps({"schemaVersion": 2, "manifests": entries}).encode(),
                **{f"blobs/sha256/{digest(data).removeprefix('sha256:')}": data for data in (
                    made.manifest, image.manifest, *made.blobs.values(), *image.blobs.values())}}.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    before = docker.ok("images", "-aq")
    assert docker.ok("load", "-q", stdin=buffer.getvalue()) == f"Loaded image: {name}:1"
    assert len(docker.ok("images", "-aq").split()) == len(before.split()) + 1
    docker.ok("rmi", f"{name}:1")
