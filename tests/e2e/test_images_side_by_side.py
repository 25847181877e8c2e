"""The same requests to palletd and to dockerd: pulls, pushes and image documents agree."""

from __future__ import annotations

import base64
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.networkless import beside
from tests.support.registry import BuiltImage, Registry, build_image
from tests.support.scratch import TreeTar
from tests.support.transfers import layer_tar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon
    from tests.support.unixhttp import Reply

pytestmark = pytest.mark.needs("root", "overlay", "dockerd", "registry")

VERSION = "/v1.41"
INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE = build_image(
    [layer_tar({"a": b"a" * 200_000}), layer_tar({"b": b"bb"})], Cmd=["sh"], Env=["A=b"],
    Entrypoint=["/x"], Labels={"k": "v"}, ExposedPorts={"80/tcp": {}}, Volumes={"/v": {}},
    WorkingDir="/w", User="1:2", StopSignal="SIGINT", OnBuild=["RUN x"], Shell=["/bin/sh", "-c"],
    Healthcheck={"Test": ["CMD", "true"], "Interval": 5_000_000_000, "Retries": 3})
PLAIN = build_image([layer_tar({"c": b"c"})])
PASSWORD = base64.urlsafe_b64encode(b'{"username":"tester","password":"wrong"}').decode()


@pytest.fixture(scope="module")
def pair(engine: Daemon) -> Iterator[tuple[Daemon, Daemon]]:
    """palletd and dockerd."""
    with beside(engine) as both:
        yield both


@pytest.fixture
def reference(registry: Registry, pair: tuple[Daemon, Daemon]) -> Iterator[str]:
    """``IMAGE`` in the registry, pulled by both."""
    name = registry.push("side/by", "1", IMAGE)
    for daemon in pair:
        stream(daemon, "POST", f"/images/create?fromImage={name}")
    yield name
    for daemon in pair:
        daemon.api.call("DELETE", f"/images/{name}?force=1")


def stream(daemon: Daemon, method: str, path: str, auth: str = "e30=") -> list[dict[str, Any]]:
    """The messages of a progress stream without byte counts and those that dockerd may skip."""
    reply = daemon.api.call(method, VERSION + path, headers={"X-Registry-Auth": auth})
    if reply.status != 200:
        return [{"status": reply.status, **reply.json}]
    found = [json.loads(line) for line in reply.body.splitlines()]
    return [message for message in found if "progress" not in message
            and message.get("status") not in ("Waiting", "Verifying Checksum")]


def ordered(messages: list[dict[str, Any]]) -> tuple[Any, ...]:
    """Per layer in order, since layers overtake each other; the rest in order."""
    ids = sorted({message["id"] for message in messages if len(message.get("id", "")) == 12})
    rest = [message for message in messages if message.get("id") not in ids]
    return [[m for m in messages if m.get("id") == one] for one in ids], rest


def test_pull_streams(pair: tuple[Daemon, Daemon], registry: Registry) -> None:
    """First pull, second pull, all tags, a shared layer, by digest."""
    name = registry.push("side/pull", "1", IMAGE)
    registry.push("side/pull", "2", PLAIN)
    repository = name.removesuffix(":1")
    try:
        for path in (f"fromImage={name}", f"fromImage={repository}&tag=1", f"fromImage={repository}",
                     f"fromImage={repository}&tag={IMAGE.digest}",
                     f"fromImage={repository}:1&platform=linux/arm64"):
            ours, theirs = (stream(daemon, "POST", f"/images/create?{path}") for daemon in pair)
            assert ordered(ours) == ordered(theirs), path
    finally:
        for daemon in pair:
            for tag in ("1", "2"):
                daemon.api.call("DELETE", f"/images/{repository}:{tag}?force=1")


@pytest.mark.parametrize("path", [
    "fromImage={0}/side/none&tag=1", "fromImage={0}/side/by&tag=none", "fromImage=127.0.0.1:1/x&tag=1",
    "fromImage={0}/side/by&tag=x:y", "fromImage={0}/side/by:a+b", "fromImage={0}/side/by&tag=sha256:12",
    "fromImage={0}/side/by&tag=1&platform=a/b/c/d"])
def test_pull_refusals(pair: tuple[Daemon, Daemon], registry: Registry, path: str) -> None:
    """Status and text."""
    registry.push("side/by", "1", IMAGE)
    ours, theirs = (stream(daemon, "POST", "/images/create?" + path.format(registry.address))
                    for daemon in pair)
    assert ours == theirs


def test_push_streams(pair: tuple[Daemon, Daemon], reference: str) -> None:
    """Existing layers, unknown repositories and tags.

    What is pushed anew differs: dockerd packs the layers again, Pallet sends what it got.
    """
    repository = reference.removesuffix(":1")
    for path in (f"/images/{repository}/push?tag=9", f"/images/{repository}x/push?tag=1",
                 f"/images/{repository}x/push"):
        ours, theirs = (stream(daemon, "POST", path) for daemon in pair)
        assert ours == theirs, path
    ours, theirs = (stream(daemon, "POST", f"/images/{repository}/push?tag=1") for daemon in pair)
    layers = {message["id"] for message in theirs if "id" in message}
    assert {message["id"] for message in ours if "id" in message} == layers
    assert {message["status"] for message in ours if "id" in message} == {
        "Preparing", "Layer already exists"}
    assert list(ours[-1]) == list(theirs[-1])


def test_inspect(pair: tuple[Daemon, Daemon], reference: str) -> None:
    """All but where the driver keeps the layers, and what Pallet adds under its own name."""
    ours, theirs = (daemon.api.get(f"{VERSION}/images/{reference}/json") for daemon in pair)
    for document in (ours, theirs):
        assert document.pop("GraphDriver")["Name"] == "overlay2"
        document.pop("Metadata")
    assert set(ours.pop("Pallet")) == {"UniqueSize", "SharedSize", "Pinned"}
    assert ours == theirs


def test_history_and_list(pair: tuple[Daemon, Daemon], reference: str) -> None:
    """History as it is; the list's row by filters."""
    ours, theirs = (daemon.api.get(f"{VERSION}/images/{reference}/history") for daemon in pair)
    assert ours == theirs
    repository = reference.removesuffix(":1")
    for wanted in ({"reference": [reference]}, {"label": ["k=v"]}, {"reference": [repository]},
                   {"reference": ["*/*/*"]}, {"label": ["k=x"]}):
        query = json.dumps(wanted).replace('"', "%22").replace(" ", "")
        ours, theirs = (daemon.api.get(f"{VERSION}/images/json?filters={query}") for daemon in pair)
        rows = [[row for row in found if reference in row["RepoTags"]] for found in (ours, theirs)]
        assert rows[0] == rows[1], wanted


def test_distribution(pair: tuple[Daemon, Daemon], registry: Registry) -> None:
    """An image, an index, by digest; what is refused."""
    name = registry.push("side/dist", "1", IMAGE)
    repository = name.removesuffix(":1")
    entry = {"mediaType": IMAGE.media_type, "digest": IMAGE.digest, "size": len(IMAGE.manifest),
             "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    registry.push("side/dist", "all", BuiltImage(manifest=raw, blobs={}, media_type=INDEX))
    for reference in (name, f"{repository}:all", f"{repository}@{IMAGE.digest}",
                      f"{repository}:none", f"{registry.address}/side/none:1", "Bad",
                      f"{repository}@sha256:{'0' * 64}"):
        ours, theirs = (daemon.api.call("GET", f"{VERSION}/distribution/{reference}/json")
                        for daemon in pair)
        if theirs.status == 200:
            # 20.10 does not look into the configuration of an OCI manifest.
            platforms = theirs.json["Platforms"] or [{"architecture": "amd64", "os": "linux"}]
            assert ours.json == {**theirs.json, "Platforms": platforms}, reference
        else:
            assert refusal(ours) == refusal(theirs), reference


def test_tag_refusals(pair: tuple[Daemon, Daemon], reference: str) -> None:
    """Status and text."""
    for path in (f"/images/{reference}/tag?repo=Upper&tag=1", f"/images/{reference}/tag?repo=a&tag=b:c",
                 f"/images/{reference}/tag?repo=", "/images/nothing/tag?repo=a",
                 f"/images/{reference}/tag?repo={'a' * 64}"):
        ours, theirs = (refusal(daemon.api.call("POST", VERSION + path)) for daemon in pair)
        assert ours == theirs, path


def refusal(reply: Reply) -> tuple[int, str]:
    """Status and text; newer dockerds answer bad names and times with 400 and name the repository."""
    if "must be lowercase" in reply.message:
        return 400, "invalid reference format: repository name must be lowercase"
    return 400 if reply.message.startswith(("invalid ", "failed to parse", "more than")) else reply.status, reply.message


def test_disk_usage_and_prune(pair: tuple[Daemon, Daemon], registry: Registry) -> None:
    """Symlinks and hard links in sizes; what is shared; what a prune removes and wins."""
    tree = TreeTar()
    tree.file("a", "x" * 1000)
    tree.symlink("link", "some/where")
    link = tarfile.TarInfo("again")
    link.type, link.linkname = tarfile.LNKTYPE, "a"
    tree.add(link)
    base = tree.finish()
    images = [build_image([base, layer_tar({name: b"y" * 10 * size})], Labels={"prune": "yes"})
              for name, size in (("one", 1), ("two", 2))]
    names = [registry.push(f"side/df{number}", "1", image) for number, image in enumerate(images)]
    found = []
    for daemon in pair:
        for name in names:
            stream(daemon, "POST", f"/images/create?fromImage={name}")
        rows = daemon.api.get(f"{VERSION}/system/df")["Images"]
        sizes = sorted((row["RepoTags"][0], row["Size"], row["SharedSize"], row["Containers"])
                       for row in rows if set(row["RepoTags"] or ()) & set(names))
        chosen = '/images/prune?filters={"dangling":["false"],"label":["prune=yes"]}'
        reply = daemon.api.call("POST", VERSION + chosen).json
        removed = sorted(json.dumps(item) for item in reply["ImagesDeleted"])
        found.append((sizes, removed, reply["SpaceReclaimed"]))
    ours, theirs = found
    assert ours == theirs


def test_prune_until(pair: tuple[Daemon, Daemon], registry: Registry) -> None:
    """Every form of time: dates, seconds, ages; the very moment counts as before; what is refused."""
    image = build_image([layer_tar({"u": b"u"})], Labels={"prune": "until"})
    name = registry.push("side/until", "1", image)
    outcomes = []
    for until in ('"2024-01-02T03:04:04Z"', '"2024-01-02T03:04:05Z"', '"2024-01-02T03:04:05"', '"2024-01-02"',
                  '"2024-01-03"', '"1704164644"', '"1704164645"', '"1704164644.9"', '"1h"', '"876000h"', '"0s"',
                  '"1h30m"', '"2024-01-02T05:04:05+02:00"', '"2024-01-02T05:04:04+02:00"', '"bad"', '""', '"1"',
                  '"1h","2h"', '"-1h"', '"1us"', '"1.5h"', '"h"', '"1x"'):
        query = f'{{"dangling":["false"],"label":["prune=until"],"until":[{until}]}}'
        found = []
        for daemon in pair:
            if not outcomes or outcomes[-1][1]:
                stream(daemon, "POST", f"/images/create?fromImage={name}")
            path = f"{VERSION}/images/prune?filters={query.replace('+', '%2B')}"
            reply = daemon.api.call("POST", path)
            gone = sorted(json.dumps(item) for item in reply.json.get("ImagesDeleted") or ())
            found.append((*refusal(reply), gone) if reply.status != 200 else (200, "", gone))
        assert found[0] == found[1], until
        outcomes.append((found[0][0], bool(found[0][2])))
    assert {(200, True), (200, False), (400, False)} <= set(outcomes)
