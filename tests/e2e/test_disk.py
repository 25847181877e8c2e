"""Disk budget, integrity checks and the explorer, as a user meets them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import pallet_command
from tests.support.registry import DebianRegistry, Registry, build_image
from tests.support.scratch import TreeTar, busybox_tar, tar_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")


def upper_layer() -> bytes:
    """Changes one file of the layer below, deletes another and adds a third."""
    tree = TreeTar()
    tree.directory("data")
    tree.file("data/kept", "n" * 700)
    tree.whiteout("data/gone")
    tree.file("data/new", "x" * 30)
    return tree.finish()


def lower_layer() -> bytes:
    tree = TreeTar()
    tree.directory("data")
    tree.file("data/kept", "o" * 1000)
    tree.file("data/gone", "g" * 5000)
    return tree.finish()


@pytest.fixture
def daemon(fresh_palletd: Callable[..., Daemon]) -> Daemon:
    return fresh_palletd()


@pytest.fixture
def pallet(daemon: Daemon) -> DockerCli:
    return daemon.cli(pallet_command())


def layered(registry: Registry, name: str) -> str:
    image = build_image([busybox_tar(), lower_layer(), upper_layer()], Cmd=["sh"])
    return registry.push(f"disk/{name}", "v1", image)


def tree_file(daemon: Daemon, name: str, size: int) -> Path:
    """A file of an unpacked layer."""
    return next(path for path in daemon.data_root.glob(f"snapshots/l/*/fs/{name}") if path.stat().st_size == size)


def blob(daemon: Daemon, digest: str) -> Path:
    return daemon.data_root / "content" / "blobs" / "sha256" / digest.removeprefix("sha256:")


def layers_of(pallet: DockerCli, name: str) -> list[dict[str, Any]]:
    return json.loads(pallet.ok("image", "explore", "--json", name))["Layers"]


def damage(path: Path) -> None:
    """Turn one byte in the middle around, and keep length and times."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.needs("registry")
def test_explore(daemon: Daemon, pallet: DockerCli, registry: Registry) -> None:
    reference = layered(registry, "explore")
    pallet.ok("pull", reference)
    found = json.loads(pallet.ok("image", "explore", "--json", reference))
    top = found["Layers"][2]
    assert (top["Added"], top["Changed"], top["Deleted"]) == (1, 1, 1)
    assert [layer["HiddenBytes"] for layer in found["Layers"]] == [0, 6000, 0]
    assert found["HiddenBytes"] == 6000
    assert found["Size"] == found["VisibleBytes"] + 6000
    assert [(row["Path"], row["Bytes"]) for row in found["Hidden"]] == [("/data/gone", 5000), ("/data/kept", 1000)]
    kept = next(entry for entry in found["Entries"] if entry["Path"] == "/data/kept")
    assert (kept["Size"], [(c["Layer"], c["Kind"]) for c in kept["History"]]) == (
        700, [(1, "added"), (2, "changed")])
    text = pallet.ok("image", "explore", reference)
    assert "hidden 6kB" in text
    assert "/data/gone" in text
    rows = daemon.api.call("GET", "/pallet/disk").json["Images"]
    assert {row["RepoTags"][0]: row["HiddenSize"] for row in rows} == {reference: 6000, "busybox:latest": 0}
    base = json.loads(pallet.ok("image", "inspect", "busybox"))[0]["Size"]
    facts = json.loads(pallet.ok("image", "inspect", reference))[0]["Pallet"]
    assert facts == {"UniqueSize": 6730, "SharedSize": base, "HiddenSize": 6000, "Pinned": False}
    assert f"{reference}" in pallet.ok("system", "df", "-v").rpartition("Hidden by later layers")[2]
    pallet.ok("rmi", reference)
    daemon.stop()
    daemon.start()
    assert len(list((daemon.data_root / "indexes").iterdir())) <= 1
    missing = pallet.run("image", "explore", "nope")
    assert (missing.code, missing.err.strip()) == (1, "Error response from daemon: No such image: nope:latest")


@pytest.mark.needs("registry")
def test_check_repairs(daemon: Daemon, pallet: DockerCli, registry: Registry) -> None:
    """Layers come back from their blobs, blobs from their registry, and running containers are spared."""
    reference = layered(registry, "check")
    pallet.ok("pull", reference)
    pallet.ok("run", "-d", "--name", "user", reference, "sleep", "600")
    layers = layers_of(pallet, reference)
    assert "all is well" in pallet.ok("system", "check")

    damage(tree_file(daemon, "data/kept", 700))
    (tree_file(daemon, "data/new", 30)).chmod(0o600)
    found = pallet.run("system", "check")
    assert found.code == 1
    assert f"layers: {layers[2]['DiffId']} is damaged in 2 places: /data/kept has other content; "\
           "/data/new has mode 0600 instead of 0644" in found.out
    user = daemon.cli().ok("ps", "-q")
    assert f"container {user} uses it" in found.out
    found = pallet.run("system", "check", "--repair")
    assert found.code == 1
    assert f"stop {user} first" in found.out
    pallet.ok("stop", "-t", "0", "user")
    found = pallet.run("system", "check", "--repair")
    assert (found.code, "- repaired" in found.out) == (0, True), found
    assert pallet.run("system", "check", "-q").text == ""
    pallet.ok("start", "user")
    assert pallet.ok("exec", "user", "cat", "/data/kept") == "n" * 700

    damage(blob(daemon, layers[0]["Blob"]))
    blob(daemon, layers[1]["Blob"]).unlink()
    found = pallet.run("system", "check")
    assert found.code == 1
    assert f"blobs: {layers[0]['Blob']} is damaged" in found.out
    assert f"blobs: {layers[1]['Blob']} is missing" in found.out
    assert pallet.run("system", "check", "--repair").code == 0
    for layer in layers:
        data = blob(daemon, layer["Blob"]).read_bytes()
        assert "sha256:" + hashlib.sha256(data).hexdigest() == layer["Blob"]
    reply = daemon.api.call("GET", f"/events?since=0&until={time.time():.9f}")
    actions = [event["Action"] for event in map(json.loads, reply.body.splitlines())]
    assert actions.count("layer-damaged") == 2
    assert actions.count("layer-repaired") == 1


@pytest.mark.needs("registry")
@pytest.mark.parametrize("keeper", ["file", "helper"])
def test_check_of_a_private_registry(daemon: Daemon, pallet: DockerCli, tmp_path: Path, keeper: str) -> None:
    """``--repair`` uses the login of whoever asks for it, and nobody's without one."""
    config = daemon.top / "config" / "config.json"
    with DebianRegistry(tmp_path / "registry", user="tester", password="secret") as registry:
        reference = layered(registry, "private")
        if keeper == "helper":
            helper = tmp_path / "docker-credential-kept"
            helper.write_text("#!/bin/sh\n[ $1 = list ] && echo '{\"%s\":\"tester\"}' && exit\n"  # noqa: UP031
                              "echo '{\"Username\":\"tester\",\"Secret\":\"secret\"}'\n" % registry.address)
            helper.chmod(0o755)
            pallet.env["PATH"] = f"{tmp_path}:{pallet.env['PATH']}"
            config.parent.mkdir(exist_ok=True)
            config.write_text('{"credsStore": "kept"}')
        else:
            pallet.ok("login", "-u", "tester", "--password-stdin", registry.address, stdin="secret")
        pallet.ok("pull", reference)
        layers = layers_of(pallet, reference)
        damage(blob(daemon, layers[0]["Blob"]))
        blob(daemon, layers[1]["Blob"]).unlink()
        known = config.read_bytes()
        config.unlink()
        found = pallet.run("system", "check", "--repair")
        assert found.code == 1
        assert found.out.count("cannot be repaired") == 2
        config.write_bytes(known)
        found = pallet.run("system", "check", "--repair")
        assert (found.code, found.out.count("- repaired")) == (0, 2), found
    assert "secret" not in daemon.log.read_text()
    assert pallet.run("system", "check", "-q").text == ""


@pytest.mark.needs("registry")
def test_check_of_damaged_documents(daemon: Daemon, pallet: DockerCli, registry: Registry) -> None:
    """An image whose config was damaged is left out, not thrown away, and comes back."""
    reference = layered(registry, "config")
    pallet.ok("pull", reference)
    image_id = pallet.ok("images", "-q", "--no-trunc", reference)
    damage(blob(daemon, image_id))
    data = blob(daemon, image_id)
    data.write_bytes(b"{" + data.read_bytes()[:20])
    daemon.stop()
    daemon.start()
    assert pallet.ok("images", "-q", reference) == ""
    assert pallet.run("system", "check").code == 1
    found = pallet.run("system", "check", "--repair")
    assert found.code == 0, found
    assert pallet.ok("images", "-q", "--no-trunc", reference) == image_id
    assert pallet.ok("run", "--rm", reference, "wc", "-c", "/data/kept") == "700 /data/kept"


def test_check_without_a_source(daemon: Daemon, pallet: DockerCli) -> None:
    """What cannot be mended stays told; what nothing needs goes."""
    pallet.ok("import", "-", "local:1", stdin=tar_of(a="some content"))
    layer = layers_of(pallet, "local:1")[0]
    damage(blob(daemon, layer["Blob"]))
    found = pallet.run("system", "check", "--repair")
    assert found.code == 1
    assert f"blobs: {layer['Blob']} is damaged; cannot be repaired" in found.out
    pallet.ok("rmi", "local:1")
    stray = daemon.data_root / "snapshots" / "l" / "99999" / "fs"
    stray.mkdir(parents=True)
    orphan = b"left behind"
    name = hashlib.sha256(orphan).hexdigest()
    blob(daemon, name).write_bytes(orphan)
    found = pallet.run("system", "check")
    assert found.code == 1
    assert "records: l/99999 belongs to no layer" in found.out
    assert f"records: sha256:{name} is needed by nothing" in found.out
    assert pallet.run("system", "check", "--repair").code == 0
    assert not stray.exists()
    assert not blob(daemon, name).exists()
    lines = [json.loads(line) for line in pallet.ok("system", "check", "--json").splitlines()]
    assert lines[-1]["Stage"] == "done"
    assert not list((daemon.data_root / "snapshots" / "draft").iterdir())


def names(daemon: Daemon) -> set[str]:
    return {tag for row in daemon.api.call("GET", "/images/json").json for tag in row["RepoTags"] or ()}


def fill(docker: DockerCli, name: str, size: int = 200_000) -> None:
    docker.ok("import", "-", name, stdin=tar_of(a=os.urandom(size // 2).hex()))


def test_budget(fresh_palletd: Callable[..., Daemon]) -> None:
    """The least recently used go; the pinned, the used and the newest stay."""
    daemon = fresh_palletd("--disk-budget", "1MB", images=False)
    docker, pallet = daemon.cli(), daemon.cli(pallet_command())
    fill(docker, "pinned:1")
    assert pallet.ok("image", "pin", "pinned:1") == "pinned:1"
    assert pallet.ok("images", "--format", "{{.Repository}} {{.Pinned}}") == "pinned true"
    fill(docker, "held:1")
    docker.ok("create", "--name", "holder", "held:1", "cmd")
    fill(docker, "old:1")
    docker.ok("tag", "old:1", "again:1")
    fill(docker, "new:1")
    eventually(lambda: "old:1" not in names(daemon))
    eventually(lambda: names(daemon) == {"pinned:1", "held:1", "new:1"})
    reply = daemon.api.call("GET", f'/events?since=0&until={time.time():.9f}&filters={{"event":["evict"]}}')
    event = json.loads(reply.body.splitlines()[0])
    assert event["Actor"]["Attributes"]["name"] in {"old:1", "again:1"}
    assert "disk budget of 1048576" in event["Actor"]["Attributes"]["reason"]
    assert "is evicted: images take" in daemon.log.read_text()
    fill(docker, "newest:1")
    eventually(lambda: names(daemon) == {"pinned:1", "held:1", "newest:1"})
    rows = {row["RepoTags"][0]: row for row in daemon.api.call("GET", "/pallet/disk").json["Images"]}
    assert (rows["pinned:1"]["Pinned"], rows["held:1"]["InUse"]) == (True, True)
    daemon.stop()
    daemon.start()
    docker.ok("rm", "holder")
    assert pallet.run("image", "pin", "nope").err.strip() == "Error response from daemon: No such image: nope:latest"
    pallet.ok("image", "unpin", "pinned:1")
    fill(docker, "last:1")
    eventually(lambda: "pinned:1" not in names(daemon))


def _more_evictions(log: Path, before: int) -> bool:
    return log.read_text().count("is evicted") > before


def test_budget_and_sudden_death(fresh_palletd: Callable[..., Daemon]) -> None:
    """Killed while it evicts: the next daemon finds whole images and nothing that belongs to none."""
    daemon = fresh_palletd(images=False)
    docker = daemon.cli()
    for number in range(12):
        fill(docker, f"image:{number}", 40_000)
    for round_ in range(3):
        daemon.stop()
        before = daemon.log.read_text().count("is evicted")
        daemon.flags = ["--disk-budget", f"{500 - round_ * 150}kB"]
        daemon.start()
        eventually(partial(_more_evictions, daemon.log, before))
        daemon.kill()
        daemon.flags = []
        daemon.start()
        assert daemon.cli(pallet_command()).run("system", "check", "-q").text == ""
    left = names(daemon)
    assert "image:11" in left
    assert len(left) < 12
