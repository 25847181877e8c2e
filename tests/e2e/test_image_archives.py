"""``docker save`` and ``docker load``: round trips, archives of other tools, hostile archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.layers import COMPRESSORS, Member, build, directory, hardlink, symlink
from tests.support.networkless import NetworklessDockerd
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def config(*layers: bytes, **rest: Any) -> bytes:
    return json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/a"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}" for layer in layers]},
        **rest}).encode()


def docker_archive(name: str, *layers: bytes, order: str = "layers first") -> bytes:
    """As Docker before 25 wrote it; the last layer is a link to the first one's twin."""
    raw = config(*layers)
    files = [Member(f"{index:064x}/layer.tar", layer) for index, layer in enumerate(layers)]
    listed = [Member(f"{digest(raw)}.json", raw), Member("manifest.json", json.dumps([{
        "Config": f"{digest(raw)}.json", "RepoTags": [name] if name else None,
        "Layers": [file.name for file in files]}]).encode())]
    return build(*files, *listed) if order == "layers first" else build(*listed, *files)


def oci_archive(name: str, *layers: bytes, blobs: dict[str, bytes] | None = None) -> bytes:
    """An OCI layout with gzip layers; ``blobs`` replaces contents by digest."""
    packed = [gzip.compress(layer, mtime=0) for layer in layers]
    raw = config(*layers)
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": len(raw),
                   "digest": f"sha256:{digest(raw)}"},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": len(one),
                    "digest": f"sha256:{digest(one)}"} for one in packed]}).encode()
    index = json.dumps({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": len(manifest),
        "digest": f"sha256:{digest(manifest)}",
        "annotations": {"io.containerd.image.name": name}}]}).encode()
    found = {digest(item): item for item in (*packed, raw, manifest)}
    found.update(blobs or {})
    return build(
        *(Member(f"blobs/sha256/{key}", item) for key, item in found.items() if item),
        Member("index.json", index), Member("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'))


A = build(Member("a", b"first" * 1000), directory("d"), Member("d/x", b"x"))
B = build(Member("b", b"second"), Member("d/.wh.x", b""))


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar if item.isfile()}  # type: ignore[union-attr]


def load(docker: DockerCli, archive: bytes, *flags: str) -> str:
    return docker.ok("load", *flags, stdin=archive)


def inspect(docker: DockerCli, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker.ok("image", "inspect", name))[0]
    return found


@pytest.fixture
def clean(docker: DockerCli, name: str) -> Iterator[str]:
    """A repository whose images go at the end."""
    yield name
    for row in set(docker.ok("images", "-q", "--no-trunc", name).split()):
        docker.run("rmi", "-f", row)


def files_below(engine: Daemon) -> set[str]:
    top = engine.data_root
    return {str(path.relative_to(top)) for base in ("content/blobs", "content/ingest",
                                                    "snapshots/draft")
            for path in (top / base).rglob("*") if path.is_file()}


@pytest.mark.parametrize("order", ["layers first", "documents first"])
def test_docker_archive(docker: DockerCli, engine: Daemon, clean: str, order: str) -> None:
    assert load(docker, docker_archive(f"{clean}:1", A, B, order=order)) == f"Loaded image: {clean}:1"
    found = inspect(docker, f"{clean}:1")
    assert found["Id"] == f"sha256:{digest(config(A, B))}"
    assert found["Size"] == 5006 + 1
    top = Path(found["GraphDriver"]["Data"]["UpperDir"])
    assert top.is_relative_to(engine.data_root)
    assert (top / "b").read_bytes() == b"second"
    assert stat.S_ISCHR((top / "d/x").lstat().st_mode)


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_compressed_archives_and_layers(docker: DockerCli, clean: str, kind: str) -> None:
    raw = config(A)
    inner = build(Member("x.layer", COMPRESSORS[kind](A)), Member("c.json", raw),
                  Member("manifest.json", json.dumps([{
                      "Config": "c.json", "RepoTags": [f"{clean}:1"], "Layers": ["x.layer"]}]).encode()))
    assert load(docker, COMPRESSORS[kind](inner)) == f"Loaded image: {clean}:1"
    assert inspect(docker, f"{clean}:1")["Id"] == f"sha256:{digest(raw)}"


def test_links_between_layers_and_dangling_image(docker: DockerCli, clean: str) -> None:
    below, above = build(Member("one", b"1")), build(hardlink("two", "one"))
    raw = config(below, above, below)
    archive = build(
        Member("x/layer.tar", above), symlink("z/layer.tar", "../y/layer.tar"),
        Member("y/layer.tar", below), Member("c.json", raw),
        Member("manifest.json", json.dumps([{
            "Config": "c.json", "Layers": ["y/layer.tar", "x/layer.tar", "z/layer.tar"]}]).encode()))
    out = load(docker, archive)
    assert out == f"Loaded image ID: sha256:{digest(raw)}"
    docker.ok("rmi", digest(raw))


def test_archive_from_before_manifests(docker: DockerCli, clean: str) -> None:
    base, top = "1" * 64, "2" * 64
    archive = build(
        Member(f"{base}/layer.tar", A), Member(f"{base}/json", json.dumps({"id": base}).encode()),
        Member(f"{top}/layer.tar", B), Member(f"{top}/VERSION", b"1.0"),
        Member(f"{top}/json", json.dumps({
            "id": top, "parent": base, "os": "linux", "architecture": "amd64",
            "config": {"Cmd": ["/old"]}}).encode()),
        Member("repositories", json.dumps({clean: {"old": top}}).encode()))
    assert load(docker, archive) == f"Loaded image: {clean}:old"
    assert inspect(docker, f"{clean}:old")["Config"]["Cmd"] == ["/old"]


def test_round_trip_keeps_every_byte(docker: DockerCli, engine: Daemon, clean: str,
                                     tmp_path: Path) -> None:
    load(docker, oci_archive(f"{clean}:1", A, B))
    docker.ok("tag", f"{clean}:1", f"{clean}:2")
    load(docker, oci_archive(f"{clean}:other", B))
    first, second = tmp_path / "1.tar", tmp_path / "2.tar"
    docker.ok("save", "-o", str(first), clean)
    found = members(first)
    for key, data in found.items():
        if key.startswith("blobs/sha256/"):
            assert key == f"blobs/sha256/{digest(data)}"
    assert digest(gzip.compress(A, mtime=0)) in " ".join(found)
    listed = json.loads(found["manifest.json"])
    assert sorted(tag for item in listed for tag in item["RepoTags"]) == [
        f"{clean}:1", f"{clean}:2", f"{clean}:other"]
    assert json.loads(found["repositories"])[clean].keys() == {"1", "2", "other"}
    names = [item["annotations"]["io.containerd.image.name"]
             for item in json.loads(found["index.json"])["manifests"]]
    assert sorted(names) == [f"docker.io/library/{clean}:{tag}" for tag in ("1", "2", "other")]
    before = inspect(docker, f"{clean}:1")["RepoDigests"]
    docker.ok("rmi", f"{clean}:1", f"{clean}:2", f"{clean}:other")
    assert not docker.ok("images", "-q", clean)
    out = docker.ok("load", "-q", "-i", str(first)).splitlines()
    assert sorted(out) == [f"Loaded image: {clean}:{tag}" for tag in ("1", "2", "other")]
    assert inspect(docker, f"{clean}:1")["RepoDigests"] == before
    docker.ok("save", "-o", str(second), clean)
    assert second.read_bytes() == first.read_bytes()


def test_name_moves_to_the_loaded_image(docker: DockerCli, clean: str) -> None:
    load(docker, docker_archive(f"{clean}:1", A))
    out = load(docker, docker_archive(f"{clean}:1", B)).splitlines()
    assert out == [
        f"The image {clean}:1 already exists, renaming the old one with ID "
        f"sha256:{digest(config(A))} to empty string", f"Loaded image: {clean}:1"]
    docker.ok("rmi", digest(config(A)))


def manifest_of(archive: bytes) -> str:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found: str = json.load(tar.extractfile("index.json"))["manifests"][0]["digest"]  # type: ignore[arg-type]
    return found.partition(":")[2]


HOSTILE = {
    "leaves the archive": (build(Member("../../etc/x", b"x")), "outside"),
    "link leaves the archive": (build(symlink("a/layer.tar", "../../../x")), "outside"),
    "no image": (build(Member("hello", b"x")), "invalid archive: does not contain a Docker image"),
    "no tar": (b"hello" * 1000, "invalid tar header"),
    "damaged gzip": (gzip.compress(docker_archive("h:1", A))[:-40], "unexpected EOF"),
    "truncated": (docker_archive("h:1", A)[:2000], "unexpected EOF"),
    "layer missing": (build(Member("c.json", config(A)), Member("manifest.json", json.dumps([{
        "Config": "c.json", "RepoTags": ["h:1"], "Layers": ["l.tar"]}]).encode())),
        "open l.tar: no such file or directory"),
    "configuration missing": (build(Member("l.tar", A), Member("manifest.json", json.dumps([{
        "Config": "c.json", "RepoTags": ["h:1"], "Layers": ["l.tar"]}]).encode())),
        "open c.json: no such file or directory"),
    "another layer": (build(Member("l.tar", B), Member("c.json", config(A)), Member(
        "manifest.json", json.dumps([{
            "Config": "c.json", "RepoTags": ["h:1"], "Layers": ["l.tar"]}]).encode())),
        "invalid diffID for layer 0"),
    "too few layers": (build(Member("l.tar", A), Member("c.json", config(A, B)), Member(
        "manifest.json", json.dumps([{
            "Config": "c.json", "RepoTags": ["h:1"], "Layers": ["l.tar"]}]).encode())),
        "layers length mismatch: expected 2, got 1"),
    "bad name": (docker_archive("UPPER:1", A), "must be lowercase"),
    "layer leaves its root": (docker_archive("h:1", build(Member("../../x", b"x"))), "outside of the layer"),
    "links in a circle": (build(symlink("a.tar", "b.tar"), symlink("b.tar", "a.tar"),
                                Member("c.json", config(A)), Member("manifest.json", json.dumps([{
                                    "Config": "c.json", "Layers": ["a.tar"]}]).encode())),
                          "no such file"),
    "blob of another digest": (oci_archive("h:1", A, blobs={
        digest(gzip.compress(A, mtime=0)): gzip.compress(B, mtime=0)}), "verification failed"),
    "blob missing": (oci_archive("h:1", A, blobs={digest(gzip.compress(A, mtime=0)): b""}),
                     "not found"),
    "manifest missing": (oci_archive("h:1", A, blobs={manifest_of(oci_archive("h:1", A)): b""}),
                         "not found"),
    "empty": (b"", "invalid archive: does not contain a Docker image"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_bad_archives_leave_nothing(docker: DockerCli, engine: Daemon, case: str) -> None:
    archive, text = HOSTILE[case]
    before, images = files_below(engine), docker.ok("images", "-aq")
    result = docker.run("load", stdin=archive)
    assert result.code == 1
    assert text in result.err
    assert files_below(engine) == before
    assert docker.ok("images", "-aq") == images


def test_save_of_what_is_not_there(docker: DockerCli, tmp_path: Path) -> None:
    result = docker.run("save", "-o", str(tmp_path / "x.tar"), "nope:1")
    assert result.code == 1
    assert "No such image: nope:1" in result.err
    assert not list(tmp_path.iterdir())


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs("skopeo")
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo(docker: DockerCli, clean: str, tmp_path: Path, form: str) -> None:
    load(docker, oci_archive(f"{clean}:1", A, B))
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    docker.ok("save", "-o", str(ours), f"{clean}:1")
    run("skopeo", "--insecure-policy", "copy", "-q", f"{form}:{ours}",
        f"{form}:{theirs}:docker.io/library/{clean}:2")
    image_id = inspect(docker, f"{clean}:1")["Id"]
    docker.ok("rmi", f"{clean}:1")
    assert load(docker, theirs.read_bytes()) == f"Loaded image: {clean}:2"
    assert inspect(docker, f"{clean}:2")["Id"] == image_id


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """podman takes no run root of more than 50 characters."""
    with tempfile.TemporaryDirectory(prefix="t-pod-") as found:
        yield Path(found)


@pytest.mark.needs("podman")
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_podman(docker: DockerCli, clean: str, tmp_path: Path, short_dir: Path, form: str) -> None:
    load(docker, oci_archive(f"{clean}:1", A, B))
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    docker.ok("save", "-o", str(ours), f"{clean}:1")
    podman = ("podman", "--root", str(short_dir / "root"), "--runroot", str(short_dir / "run"),
              "--storage-driver", "vfs")
    assert f"{clean}:1" in run(*podman, "load", "-q", "-i", str(ours))
    run(*podman, "save", "-q", "--format", form, "-o", str(theirs), f"docker.io/library/{clean}:1")
    run(*podman, "rmi", "-f", f"docker.io/library/{clean}:1")
    image_id = inspect(docker, f"{clean}:1")["Id"]
    docker.ok("rmi", f"{clean}:1")
    assert load(docker, theirs.read_bytes()) == f"Loaded image: {clean}:1"
    assert inspect(docker, f"{clean}:1")["Id"] == image_id


@pytest.mark.needs("dockerd")
def test_dockerd_reads_ours(docker: DockerCli, clean: str, tmp_path: Path) -> None:
    load(docker, oci_archive(f"{clean}:1", A, B))
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    docker.ok("save", "-o", str(ours), f"{clean}:1")
    image_id = inspect(docker, f"{clean}:1")["Id"]
    dockerd = NetworklessDockerd()
    try:
        dockerd.start()
        other = dockerd.cli()
        assert other.ok("load", "-i", str(ours)) == f"Loaded image: {clean}:1"
        assert inspect(other, f"{clean}:1")["Id"] == image_id
        other.ok("save", "-o", str(theirs), f"{clean}:1")
    finally:
        dockerd.remove()
    docker.ok("rmi", f"{clean}:1")
    assert load(docker, theirs.read_bytes()) == f"Loaded image: {clean}:1"
    assert inspect(docker, f"{clean}:1")["Id"] == image_id


def test_client_that_goes_away_leaves_nothing(docker: DockerCli, engine: Daemon) -> None:
    before = files_below(engine)
    archive = docker_archive("h:1", build(Member("big", bytes(3_000_000))))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(engine.socket))
        client.sendall(b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\n"
                       b"Content-Length: %d\r\n\r\n" % len(archive) + archive[:2_000_000])
        eventually(lambda: files_below(engine) != before, what="the layer arrives")
    eventually(lambda: files_below(engine) == before, what="nothing is left")


def test_pallet_command_line(engine: Daemon, docker: DockerCli, clean: str, tmp_path: Path) -> None:
    pallet = engine.cli([str(Path(sys.executable).with_name("pallet"))])
    source, target = tmp_path / "in.tar", tmp_path / "out.tar"
    source.write_bytes(oci_archive(f"{clean}:1", A))
    assert pallet.ok("load", "-i", str(source)) == f"Loaded image: {clean}:1"
    pallet.ok("save", "-o", str(target), f"{clean}:1")
    assert "index.json" in members(target)
    assert pallet.ok("image", "load", "-q", stdin=target.read_bytes()) == f"Loaded image: {clean}:1"
    bad = pallet.run("save", "-o", str(tmp_path / "no" / "x.tar"), f"{clean}:1")
    assert "does not exist" in bad.err
    assert "no such file or directory" in pallet.run("load", "-i", str(tmp_path / "no")).err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tar", "out.tar"]
