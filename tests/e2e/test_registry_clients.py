"""Pallet's registry, and mirrors of it, as users of other people's clients see them."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import pallet_command
from tests.support.networkless import NetworklessDockerd
from tests.support.probes import which
from tests.support.registry import BuiltImage, PalletRegistry, Registry, build_image, digest
from tests.support.registryserver import Server
from tests.support.scratch import TreeTar, busybox_tar
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli", "busybox")

INDEX = "application/vnd.oci.image.index.v1+json"
PLAIN = "--tls-verify=false"


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def image(*words: str) -> BuiltImage:
    """Two layers; says ``words``."""
    top = TreeTar()
    top.directory("data")
    top.file("data/file", "content")
    return build_image([busybox_tar(), top.finish()], Cmd=["echo", *words])


@pytest.fixture
def repository(pallet_registry: Registry, name: str) -> str:
    """A name of its own in the registry, with its host."""
    return f"{pallet_registry.address}/{name.lower().replace('--', '-')}"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory of a short name: podman takes no run root of more than 50 characters."""
    with tempfile.TemporaryDirectory(prefix="t-cli-") as found:
        yield Path(found)


@pytest.fixture
def own(docker: DockerCli) -> Iterator[list[str]]:
    """Names of images that go at the end."""
    names: list[str] = []
    yield names
    for one in names:
        docker.run("rmi", "-f", one)


def manifest(registry: Registry, reference: str) -> bytes:
    path, _, tag = reference.partition("/")[2].rpartition(":")
    status, _, raw = registry.request("GET", f"/v2/{path}/manifests/{tag}")
    assert status == 200, raw
    return raw


def test_docker(docker: DockerCli, pallet_registry: Registry, repository: str, own: list[str]) -> None:
    """Push, remove, pull by tag and digest, all tags, a copy under another repository."""
    own += [f"{repository}:1", f"{repository}:2", f"{repository}/copy:1"]
    docker.ok("tag", "busybox", f"{repository}:1")
    docker.ok("tag", "busybox", f"{repository}:2")
    out = docker.ok("push", "--all-tags", repository)
    pushed = digest(manifest(pallet_registry, f"{repository}:1"))
    assert f"1: digest: {pushed} size: " in out
    docker.ok("tag", "busybox", f"{repository}/copy:1")
    assert f"Mounted from {repository.partition('/')[2]}" in docker.ok("push", f"{repository}/copy:1")
    docker.ok("rmi", *own)
    assert f"Digest: {pushed}" in docker.ok("pull", f"{repository}@{pushed}")
    docker.ok("pull", "--all-tags", repository)
    assert docker.ok("run", "--rm", f"{repository}:2", "echo", "ran") == "ran"
    own.append(f"{repository}@{pushed}")


@pytest.mark.needs("skopeo")
def test_skopeo(
    docker: DockerCli, engine: Daemon, pallet_registry: Registry, repository: str, own: list[str], tmp_path: Path
) -> None:
    """docker-daemon: of our daemon to the registry, inspect, oci: and back, sync both ways, delete."""
    def skopeo(command: str, *words: str | Path) -> str:
        return run("skopeo", "--insecure-policy", command, *words)

    own += [f"{repository}:1", f"{repository}:back"]
    docker.ok("tag", "busybox", f"{repository}:1")
    daemon, there = f"docker-daemon:{repository}", f"docker://{repository}"
    skopeo("copy", "-q", "--src-daemon-host", engine.host, "--dest-tls-verify=false", f"{daemon}:1", f"{there}:1")
    found = json.loads(skopeo("inspect", PLAIN, f"{there}:1"))
    assert found["Digest"] == digest(manifest(pallet_registry, f"{repository}:1"))
    assert "IMAGE_VAR=yes" in found["Env"]
    skopeo("copy", "-q", "--src-tls-verify=false", f"{there}:1", f"oci:{tmp_path}/layout:1")
    skopeo("copy", "-q", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:1", f"{there}:2")
    assert json.loads(skopeo("list-tags", PLAIN, there))["Tags"] == ["1", "2"]
    skopeo("copy", "-q", "--dest-daemon-host", engine.host, "--src-tls-verify=false", f"{there}:2", f"{daemon}:back")
    assert docker.ok("run", "--rm", f"{repository}:back", "echo", "back") == "back"
    skopeo("sync", "--src", "docker", "--dest", "dir", "--src-tls-verify=false", repository, f"{tmp_path}/synced")
    base = repository.rpartition("/")[2]
    assert {path.name for path in (tmp_path / "synced").iterdir()} == {f"{base}:1", f"{base}:2"}
    target = f"{pallet_registry.address}/synced"
    skopeo("sync", "--src", "dir", "--dest", "docker", "--dest-tls-verify=false", f"{tmp_path}/synced", target)
    synced = f"docker://{target}/{base}"
    assert json.loads(skopeo("list-tags", PLAIN, synced))["Tags"] == ["1", "2"]
    skopeo("delete", PLAIN, f"{there}:2")
    assert "2" not in json.loads(skopeo("list-tags", PLAIN, there))["Tags"]


@pytest.mark.needs("podman")
def test_podman(
    docker: DockerCli, pallet_registry: Registry, repository: str, own: list[str], scratch: Path
) -> None:
    """Pull what was pushed here, push it under two names, and pull that with docker."""
    podman = ("podman", "--root", scratch / "root", "--runroot", scratch / "run", "--storage-driver", "vfs")
    made = image("podman")
    pallet_registry.push(repository.partition("/")[2], "1", made)
    run(*podman, "pull", "-q", PLAIN, f"{repository}:1")
    assert made.digest in run(*podman, "image", "inspect", "--format", "{{.RepoDigests}}", f"{repository}:1")
    for form in ("oci", "v2s2"):
        run(*podman, "push", "-q", PLAIN, "--format", form, f"{repository}:1", f"{repository}:{form}")
        own.append(f"{repository}:{form}")
        assert docker.ok("run", "--rm", f"{repository}:{form}") == "podman"
    assert json.loads(manifest(pallet_registry, f"{repository}:v2s2"))["mediaType"].startswith(
        "application/vnd.docker.")
    run(*podman, "manifest", "create", "both")
    run(*podman, "manifest", "add", PLAIN, "both", f"docker://{repository}:oci")
    run(*podman, "manifest", "push", "-q", PLAIN, "--all", "both", f"docker://{repository}:both")
    assert len(json.loads(manifest(pallet_registry, f"{repository}:both"))["manifests"]) == 1
    run(*podman, "rmi", "-a", "-f")
    run(*podman, "pull", "-q", PLAIN, f"{repository}:both")
    run(*podman, "rmi", "-a", "-f")


@pytest.mark.needs("buildah")
def test_buildah(
    docker: DockerCli, pallet_registry: Registry, repository: str, own: list[str], scratch: Path
) -> None:
    """A container from an image of the registry, committed straight into it."""
    buildah = ("buildah", "--root", scratch / "root", "--runroot", scratch / "run", "--storage-driver", "vfs")
    pallet_registry.push(repository.partition("/")[2], "base", image("base"))
    container = run(*buildah, "from", "-q", PLAIN, f"{repository}:base")
    (scratch / "added").write_text("added")
    run(*buildah, "copy", "-q", container, scratch / "added", "/data/added")
    run(*buildah, "config", "--cmd", json.dumps(["cat", "/data/file", "/data/added"]), container)
    run(*buildah, "commit", "-q", PLAIN, container, f"docker://{repository}:made")
    own.append(f"{repository}:made")
    assert docker.ok("run", "--rm", f"{repository}:made") == "contentadded"
    run(*buildah, "commit", "-q", container, "local")
    run(*buildah, "push", "-q", PLAIN, "local", f"docker://{repository}:pushed")
    layers = [entry["digest"] for entry in json.loads(manifest(pallet_registry, f"{repository}:pushed"))["layers"]]
    assert layers[:2] == [entry["digest"] for entry in
                          json.loads(manifest(pallet_registry, f"{repository}:base"))["layers"]]
    run(*buildah, "rm", "-a")
    run(*buildah, "rmi", "-a", "-f")


@pytest.mark.needs("docker_py")
def test_docker_py(
    engine: Daemon, docker: DockerCli, pallet_registry: Registry, repository: str, own: list[str]
) -> None:
    import docker as docker_py

    del docker
    own.append(f"{repository}:py")
    with contextlib.closing(docker_py.DockerClient(base_url=engine.host)) as client:
        assert client.images.get("busybox").tag(repository, "py")
        lines = [line for line in client.images.push(repository, "py", stream=True, decode=True) if "aux" in line]
        assert lines[-1]["aux"]["Digest"] == digest(manifest(pallet_registry, f"{repository}:py"))
        client.images.remove(f"{repository}:py")
        pulled = client.images.pull(repository, "py")
        assert client.images.get_registry_data(f"{repository}:py").id in pulled.attrs["RepoDigests"][0]
        assert client.containers.run(pulled, ["echo", "py"], remove=True) == b"py\n"


@pytest.mark.needs("oras")
def test_oras(pallet_registry: Registry, repository: str, tmp_path: Path) -> None:
    """Artifacts of any type, attached to one another, found as referrers and pulled."""
    import oras.client
    import oras.oci

    client = oras.client.OrasClient(insecure=True)
    (tmp_path / "report.txt").write_text("all is well")
    (tmp_path / "sbom.json").write_text('{"parts": []}')
    target = f"{repository}:artifact"
    client.push(target=target, files=[f"{tmp_path}/report.txt:text/plain"], disable_path_validation=True,
                manifest_annotations={"note": "x"}, quiet=True)
    raw = manifest(pallet_registry, target)
    document = json.loads(raw)
    assert document["layers"][0]["mediaType"] == "text/plain"
    subject = oras.oci.Subject(mediaType=document["mediaType"], digest=digest(raw), size=len(raw))
    client.push(target=f"{repository}:sbom", files=[f"{tmp_path}/sbom.json:application/vnd.example.sbom+json"],
                disable_path_validation=True, do_chunked=True, chunk_size=5, subject=subject, quiet=True)
    path = repository.partition("/")[2]
    reply = client.do_request(f"http://{pallet_registry.address}/v2/{path}/referrers/{digest(raw)}")
    assert reply.headers["Content-Type"] == INDEX
    (found,) = reply.json()["manifests"]
    assert found["digest"] == digest(manifest(pallet_registry, f"{repository}:sbom"))
    pulled = client.pull(target=f"{repository}@{found['digest']}", outdir=str(tmp_path / "out"))
    assert [Path(file).read_text() for file in pulled] == ['{"parts": []}']
    assert sorted(client.get_tags(repository)) == ["artifact", "sbom"]
    client.delete_tag(repository, "sbom")
    assert client.get_tags(repository) == ["artifact"]


# Mirrors


@pytest.fixture
def mirror(pallet_registry: Registry, tmp_path: Path) -> Iterator[Server]:
    """A mirror of every registry, in two workers; ``docker.io`` is the session's registry."""
    config = tmp_path / "mirror.toml"
    config.write_text(f"""
        [storage]
        root = "{tmp_path}/mirror"
        [http]
        workers = 2
        [mirror]
        default = "docker.io"
        ttl_s = 0
        retry_s = 0
        [[mirror.upstream]]
        host = "docker.io"
        url = "http://{pallet_registry.address}"
        [[mirror.upstream]]
        host = "*"
        """)
    server = Server(config)
    yield server
    server.stop()


def fetched(server: Server) -> list[str]:
    return list(json.loads(server.request("GET", "/v2/_catalog")[2])["repositories"])


def test_daemon_with_a_mirror_of_everything(
    fresh_palletd: Callable[..., Daemon], mirror: Server, tmp_path: Path
) -> None:
    """Images of any host come through it; when the host is gone they are there all the same."""
    at = f"127.0.0.1:{mirror.port}"
    daemon = fresh_palletd("--registry-mirror", f"*=http://{at}", images=False)
    docker = daemon.cli()
    with PalletRegistry(tmp_path / "origin", workers=1) as origin:
        reference = origin.push("team/app", "1", image("from anywhere"))
        assert docker.ok("run", "--rm", reference).endswith("from anywhere")
        assert fetched(mirror) == [f"{origin.address.replace(':', '.')}/team/app"]
        docker.ok("rmi", reference)
    assert docker.ok("run", "--rm", reference).endswith("from anywhere")
    assert docker.run("pull", f"{origin.address}/team/other:1").code != 0
    info = daemon.api.call("GET", "/info").json["RegistryConfig"]
    assert info["Mirrors"] == [f"http://{at}/"]
    assert f"Registry Mirrors:\n  http://{at}/" in docker.ok("info")


def test_mirror_of_docker_hub(
    fresh_palletd: Callable[..., Daemon], pallet_registry: Registry, mirror: Server
) -> None:
    """As dockerd is configured: a URL, for docker.io alone; nothing can be pushed to it."""
    pallet_registry.push("library/hubapp", "1", image("from the hub"))
    docker = fresh_palletd("--registry-mirror", f"http://127.0.0.1:{mirror.port}", images=False).cli()
    assert docker.ok("run", "--rm", "hubapp:1").endswith("from the hub")
    assert fetched(mirror) == ["docker.io/library/hubapp"]
    name = f"127.0.0.1:{mirror.port}/docker.io/library/hubapp:1"
    docker.ok("tag", "hubapp:1", name)
    refused = docker.run("push", name)
    assert refused.code == 1
    assert "unsupported: The operation is unsupported." in refused.err


@pytest.mark.needs("dockerd")
def test_dockerd_with_a_mirror_of_docker_hub(pallet_registry: Registry, mirror: Server) -> None:
    made = image("from the hub")
    pallet_registry.push("library/hubapp", "2", made)
    daemon = NetworklessDockerd(flags=["--registry-mirror", f"http://127.0.0.1:{mirror.port}"])
    try:
        daemon.start()
        assert f"Digest: {made.digest}" in daemon.cli().ok("pull", "hubapp:2")
        assert fetched(mirror) == ["docker.io/library/hubapp"]
    finally:
        daemon.remove()


@pytest.mark.needs("skopeo")
def test_skopeo_reads_a_mirror_by_prefix(pallet_registry: Registry, mirror: Server, tmp_path: Path) -> None:
    made = image("prefix")
    pallet_registry.push("team/prefixed", "1", made)
    run("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false",
        f"docker://127.0.0.1:{mirror.port}/docker.io/team/prefixed:1", f"oci:{tmp_path}/layout:1")
    index: dict[str, Any] = json.loads((tmp_path / "layout/index.json").read_bytes())
    assert index["manifests"][0]["digest"] == made.digest


def test_mirror_killed_while_it_fetches(pallet_registry: Registry, mirror: Server) -> None:
    """Nothing half-made is served afterwards, and the check finds nothing wrong."""
    made = build_image([Path(which("busybox") or "").read_bytes() * 4], compression="none")
    pallet_registry.push("team/large", "1", made)
    layer = json.loads(made.manifest)["layers"][0]["digest"]
    path = f"/v2/docker.io/team/large/blobs/{layer}"
    parts = mirror.config.parent / "mirror/mirror"
    with socket.create_connection(("127.0.0.1", mirror.port)) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        eventually(lambda: any(parts.glob("*.lock")) or bool(fetched(mirror)), what="a fetch has begun")
        mirror.kill()
    again = Server(mirror.config)
    try:
        assert digest(again.request("GET", path)[2]) == layer
        assert list(parts.glob("*.part")) == []
    finally:
        again.stop()
    run(*pallet_command(), "registry", "check", "--config", mirror.config)
