"""Images made by Buildah and umoci: their archives and layouts load, run, save and push."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.probes import which
from tests.support.registry import MANIFEST, Registry, digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A directory of a short name: Buildah takes no run root of more than 50 characters."""
    with tempfile.TemporaryDirectory(prefix="t-bud-") as found:
        yield Path(found)


@pytest.fixture
def loaded(docker: DockerCli) -> Iterator[set[str]]:
    """Ids of images that go at the end."""
    found: set[str] = set()
    yield found
    for image in found:
        docker.run("rmi", "-f", image)


def image_ids(docker: DockerCli) -> set[str]:
    return set(docker.ok("images", "-aq", "--no-trunc").split())


def load(docker: DockerCli, loaded: set[str], archive: Path | bytes) -> list[str]:
    """Load, note what came, and return what was said."""
    before = image_ids(docker)
    data = archive if isinstance(archive, bytes) else archive.read_bytes()
    said = docker.ok("load", "-q", stdin=data).splitlines()
    loaded |= image_ids(docker) - before
    return said


def packed(layout: Path) -> bytes:
    """A layout's directory as ``tar -C layout -c .`` makes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(layout, arcname=".")
    return buffer.getvalue()


def index(layout: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((layout / "index.json").read_bytes())["manifests"]
    return found


def blobs(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {item.name.rpartition("/")[2]: tar.extractfile(item).read()  # type: ignore[union-attr]
                for item in tar if item.isfile() and "blobs/sha256/" in item.name}


def saved(docker: DockerCli, tmp_path: Path, image: str) -> dict[str, bytes]:
    docker.ok("save", "-o", str(tmp_path / "saved.tar"), image)
    return blobs((tmp_path / "saved.tar").read_bytes())


def manifest(registry: Registry, repository: str, tag: str) -> bytes:
    status, _, raw = registry.request("GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": MANIFEST})
    assert status == 200
    return raw


@pytest.fixture(scope="module")
def buildah(scratch: Path) -> Iterator[tuple[str, ...]]:
    """Its command line on a store of its own with the images ``img:oci`` and ``img:docker``."""
    command = ("buildah", "--root", str(scratch / "root"), "--runroot", str(scratch / "run"), "--storage-driver", "vfs")
    container = run(*command, "from", "scratch")
    busybox = which("busybox")
    assert busybox
    run(*command, "copy", "-q", container, busybox, "/bin/busybox")
    run(*command, "config", "--cmd", json.dumps(["/bin/busybox", "echo", "by buildah"]), "--label", "maker=buildah",
        "--annotation", "note=x", "--env", "A=b", container)
    for form in ("oci", "docker"):
        run(*command, "commit", "-q", "--format", form, container, f"img:{form}")
    yield command
    run(*command, "rm", "-a")
    run(*command, "rmi", "-a", "-f")


@pytest.mark.needs("buildah")
@pytest.mark.parametrize("form", ["oci-archive", "docker-archive", "zstd"])
def test_buildah_archive(buildah: tuple[str, ...], docker: DockerCli, loaded: set[str], tmp_path: Path, name: str,
                         form: str) -> None:
    """The image keeps its id, runs, and is saved with the very blobs it came with."""
    kind, flags = ("oci", ("--compression-format", "zstd")) if form == "zstd" else (form.removesuffix("-archive"), ())
    archive = tmp_path / "a.tar"
    run(*buildah, "push", "-q", *flags, f"img:{kind}", f"{kind}-archive:{archive}:docker.io/library/{name}:1")
    assert f"Loaded image: {name}:1" in load(docker, loaded, archive)
    assert docker.ok("run", "--rm", f"{name}:1") == "by buildah"
    found = json.loads(docker.ok("inspect", f"{name}:1"))[0]
    assert found["Id"].removeprefix("sha256:") == run(*buildah, "inspect", "--type", "image", "--format",
                                                     "{{.FromImageID}}", f"img:{kind}")
    assert (found["Config"]["Labels"]["maker"], found["Config"]["Env"]) == ("buildah", ["A=b"])
    if kind == "oci":
        came = blobs(archive.read_bytes())
        assert came.items() <= saved(docker, tmp_path, f"{name}:1").items()
        if form == "zstd":
            assert any(data.startswith(b"\x28\xb5\x2f\xfd") for data in came.values())


@pytest.mark.needs("buildah")
def test_buildah_archive_without_a_name(buildah: tuple[str, ...], docker: DockerCli, loaded: set[str],
                                        tmp_path: Path) -> None:
    run(*buildah, "push", "-q", "img:oci", f"oci-archive:{tmp_path}/a.tar")
    said = load(docker, loaded, tmp_path / "a.tar")
    image_id = run(*buildah, "inspect", "--type", "image", "--format", "{{.FromImageID}}", "img:oci")
    assert said == [f"Loaded image ID: sha256:{image_id}"]
    assert docker.ok("run", "--rm", image_id) == "by buildah"


@pytest.mark.needs("buildah", "registry")
def test_buildah_layout_of_several(buildah: tuple[str, ...], docker: DockerCli, loaded: set[str], tmp_path: Path,
                                   registry: Registry, name: str) -> None:
    """One layout with whole names, a bare tag and the same image in two packings; all is pushed as it came."""
    layout = tmp_path / "layout"
    run(*buildah, "push", "-q", "img:oci", f"oci:{layout}:docker.io/library/{name}:gzip")
    run(*buildah, "push", "-q", "--compression-format", "zstd", "img:oci", f"oci:{layout}:localhost/{name}:zstd")
    run(*buildah, "push", "-q", "img:docker", f"oci:{layout}:bare")
    *named, bare = load(docker, loaded, packed(layout))
    assert named == [f"Loaded image: {name}:gzip", f"Loaded image: localhost/{name}:zstd"]
    assert bare.startswith("Loaded image ID: sha256:")
    by_name = {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in index(layout)}
    for local, title, tag in ((f"{name}:gzip", f"docker.io/library/{name}:gzip", "gzip"),
                              (f"localhost/{name}:zstd", f"localhost/{name}:zstd", "zstd")):
        stored = saved(docker, tmp_path, local)
        assert by_name[title].removeprefix("sha256:") in stored
        parts = json.loads(stored[by_name[title].removeprefix("sha256:")])["layers"]
        assert all(part["digest"].removeprefix("sha256:") in stored for part in parts)
        target = f"{registry.address}/buildah/{name}:{tag}"
        docker.ok("tag", local, target)
        docker.ok("push", "-q", target)
        assert digest(manifest(registry, f"buildah/{name}", tag)) == by_name[title]
        docker.ok("rmi", target)
    assert docker.ok("run", "--rm", bare.rpartition(" ")[2]) == "by buildah"


@pytest.mark.needs("buildah", "registry")
def test_buildah_and_a_registry(buildah: tuple[str, ...], docker: DockerCli, loaded: set[str], registry: Registry,
                                name: str) -> None:
    """What Buildah pushes is pulled, and what is pushed from here Buildah pulls."""
    theirs, ours = (f"{registry.address}/{name}:{tag}" for tag in ("theirs", "ours"))
    run(*buildah, "push", "-q", "--tls-verify=false", "img:oci", f"docker://{theirs}")
    docker.ok("pull", "-q", theirs)
    loaded.add(docker.ok("images", "-q", "--no-trunc", theirs))
    assert docker.ok("run", "--rm", theirs) == "by buildah"
    docker.ok("tag", theirs, ours)
    docker.ok("push", "-q", ours)
    run(*buildah, "pull", "-q", "--tls-verify=false", f"docker://{ours}")
    assert run(*buildah, "inspect", "--type", "image", "--format", "{{index .OCIv1.Config.Labels \"maker\"}}",
               ours) == "buildah"


@pytest.fixture(scope="module")
def umoci(scratch: Path) -> Path:
    """A layout with the tags ``v1`` and ``v2``; its layers end without padding, as umoci leaves them."""
    layout, extra = scratch / "umoci", scratch / "extra"
    busybox = which("busybox")
    assert busybox
    extra.mkdir()
    (extra / "file").write_text("seen")
    run("umoci", "init", "--layout", str(layout))
    run("umoci", "new", "--image", f"{layout}:v1")
    run("umoci", "insert", "--image", f"{layout}:v1", busybox, "/bin/busybox")
    run("umoci", "insert", "--image", f"{layout}:v1", str(extra), "/extra")
    run("umoci", "config", "--image", f"{layout}:v1", "--config.cmd", "/bin/busybox", "--config.cmd", "cat",
        "--config.cmd", "/extra/file", "--author", "someone", "--manifest.annotation", "k=v")
    run("umoci", "tag", "--image", f"{layout}:v1", "v2")
    run("umoci", "insert", "--image", f"{layout}:v2", "--whiteout", "/extra/file")
    return layout


@pytest.mark.needs("umoci", "registry")
def test_umoci_layout(umoci: Path, docker: DockerCli, loaded: set[str], tmp_path: Path, registry: Registry,
                      name: str) -> None:
    """Tags alone are no names: the images come with their ids, as Docker loads them."""
    said = load(docker, loaded, packed(umoci))
    first, second = (line.removeprefix("Loaded image ID: ") for line in said)
    assert docker.ok("run", "--rm", first) == "seen"
    gone = docker.run("run", "--rm", second)
    assert (gone.code, "No such file" in gone.err) == (1, True), gone
    found = json.loads(docker.ok("inspect", first))[0]
    assert found["Author"] == "someone"
    entry = next(entry for entry in index(umoci) if entry["annotations"]["org.opencontainers.image.ref.name"] == "v1")
    raw = (umoci / "blobs/sha256" / entry["digest"].removeprefix("sha256:")).read_bytes()
    assert json.loads(raw)["annotations"] == {"k": "v"}
    assert raw in saved(docker, tmp_path, first).values()
    target = f"{registry.address}/umoci/{name}:1"
    docker.ok("tag", first, target)
    docker.ok("push", "-q", target)
    assert manifest(registry, f"umoci/{name}", "1") == raw


@pytest.mark.needs("umoci", "skopeo")
def test_umoci_reads_ours(umoci: Path, docker: DockerCli, loaded: set[str], tmp_path: Path, name: str) -> None:
    """What is saved is a layout that umoci unpacks."""
    first = load(docker, loaded, packed(umoci))[0].rpartition(" ")[2]
    docker.ok("tag", first, f"{name}:1")
    docker.ok("save", "-o", str(tmp_path / "ours.tar"), f"{name}:1")
    (tmp_path / "ours").mkdir()
    run("tar", "-xf", str(tmp_path / "ours.tar"), "-C", str(tmp_path / "ours"))
    run("umoci", "unpack", "--image", f"{tmp_path}/ours:1", str(tmp_path / "bundle"))
    assert (tmp_path / "bundle/rootfs/extra/file").read_text() == "seen"
