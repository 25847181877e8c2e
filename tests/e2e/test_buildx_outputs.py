"""What ``docker buildx build``, ``bake`` and ``compose build`` bring out of palletd."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest

from tests.root.test_build_sources import serving
from tests.support.plugins import steps

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.dockercli import DockerCli
    from tests.support.registry import Registry

pytestmark = pytest.mark.needs("root", "overlay", "buildx", "docker_cli")

FILES = "FROM scratch\nCOPY a /x/a\nCOPY a /b\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A directory with a file ``a`` and a Dockerfile that takes it."""
    place = tmp_path / "context"
    place.mkdir()
    (place / "a").write_text("hello\n")
    (place / "a").chmod(0o640)
    (place / "Dockerfile").write_text(FILES)
    return place


def test_files_come_out_as_directory_tar_and_archives_at_once(buildx: DockerCli, context: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    result = buildx.run(
        "buildx", "build", "--progress", "plain", "-o", f"type=local,dest={out}/dir", "-o", f"type=tar,dest={out}/tar",
        "-o", f"type=oci,dest={out}/oci", "-o", f"type=docker,name=bx-out,dest={out}/docker", str(context), check=True)
    assert {"exporting to client directory", "exporting to client tarball", "exporting to oci image format",
            "exporting to docker image format"} <= set(steps(result.err))
    assert (out / "dir/x/a").read_text() == "hello\n"
    assert (out / "dir/b").stat().st_mode & 0o777 == 0o640
    with tarfile.open(out / "tar") as archive:
        assert {"x/a", "b"} <= {name.removeprefix("./") for name in archive.getnames()}
    with tarfile.open(out / "oci") as archive:
        index = json.load(archive.extractfile("index.json"))  # type: ignore[arg-type]
        assert index["manifests"][0]["digest"].startswith("sha256:")
    assert "bx-out" in buildx.ok("load", "-i", f"{out}/docker")
    buildx.ok("rmi", "-f", "bx-out")


def test_source_date_epoch_is_the_time_of_every_file_that_comes_out(
        buildx: DockerCli, context: Path, tmp_path: Path) -> None:
    """Older files, too, and the directories of platforms; archives say it in their index."""
    os.utime(context / "a", (1_000_000, 1_000_000))
    epoch = 1_600_000_000
    buildx.env["SOURCE_DATE_EPOCH"] = str(epoch)
    buildx.ok("buildx", "build", "--platform", "linux/amd64,linux/arm64", "-o", f"type=local,dest={tmp_path}/dir",
              "-o", f"type=tar,dest={tmp_path}/tar", "-o", f"type=oci,dest={tmp_path}/oci", str(context))
    found = {path: int(path.stat().st_mtime) for path in (tmp_path / "dir").rglob("*")}
    assert len(found) == 8
    assert set(found.values()) == {epoch}
    with tarfile.open(tmp_path / "tar") as archive:
        assert {member.mtime for member in archive} == {epoch}
    with tarfile.open(tmp_path / "oci") as archive:
        index = json.load(archive.extractfile("index.json"))  # type: ignore[arg-type]
        assert index["manifests"][0]["annotations"]["org.opencontainers.image.created"] == "2020-09-13T12:26:40Z"


def test_attestations_come_as_files_where_they_are_asked_for(
        buildx: DockerCli, context: Path, tmp_path: Path) -> None:
    """Names, owners' rights and times as BuildKit has them; those that are for images alone are left out."""
    buildx.ok("buildx", "build", "-o", f"type=local,dest={tmp_path}/plain", str(context))
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {"x", "b"}
    buildx.env["SOURCE_DATE_EPOCH"] = "1600000000"
    platforms = ("--platform", "linux/amd64,linux/arm64")
    buildx.ok("buildx", "build", *platforms, "--provenance=mode=min", "-o", f"type=local,dest={tmp_path}/dir", "-o",
              f"type=tar,dest={tmp_path}/tar,attestation-prefix=my-", str(context))
    with tarfile.open(tmp_path / "tar") as archive:
        names = {member.name.removeprefix("./"): member for member in archive}
    for platform in ("linux_amd64", "linux_arm64"):
        path = tmp_path / "dir" / platform / "provenance.json"
        assert (path.stat().st_mode & 0o777, int(path.stat().st_mtime)) == (0o600, 1_600_000_000)
        statement = json.loads(path.read_text())
        assert [one["name"] for one in statement["subject"]] == ["b", "x/a"]
        assert names[f"{platform}/my-provenance.json"].mode == 0o600
    (context / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\n")
    buildx.ok("buildx", "build", *platforms, "--provenance=mode=min", "-o",
              f"type=local,dest={tmp_path}/flat,platform-split=false", str(context))
    assert {path.name for path in (tmp_path / "flat").iterdir()} == {
        "amd64", "arm64", "provenance.linux_amd64.json", "provenance.linux_arm64.json"}
    statement = json.loads((tmp_path / "flat/provenance.linux_arm64.json").read_text())
    assert [one["name"] for one in statement["subject"]] == ["arm64"]


def test_a_tar_goes_to_standard_output(buildx: DockerCli, context: Path, tmp_path: Path) -> None:
    process = buildx.start("buildx", "build", "-o", "-", str(context), text=False)
    data, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    (tmp_path / "piped").write_bytes(data)
    with tarfile.open(tmp_path / "piped") as archive:
        assert {"x/a", "b"} <= {name.removeprefix("./") for name in archive.getnames()}


def test_an_output_directory_keeps_what_was_there(buildx: DockerCli, context: Path, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/mine").write_text("kept")
    buildx.ok("buildx", "build", "-o", str(tmp_path / "dir"), str(context))
    assert sorted(path.name for path in (tmp_path / "dir").iterdir()) == ["b", "mine", "x"]


def test_ids_and_metadata(buildx: DockerCli, context: Path, tmp_path: Path) -> None:
    buildx.ok("buildx", "build", "-t", "bx-meta", "--iidfile", str(tmp_path / "iid"),
              "--metadata-file", str(tmp_path / "meta"), str(context))
    metadata = json.loads((tmp_path / "meta").read_text())
    assert metadata["containerimage.digest"].startswith("sha256:")
    assert metadata["image.name"].startswith("docker.io/library/bx-meta")
    assert metadata["buildx.build.ref"].startswith("default/default/")
    image = buildx.inspect("bx-meta")
    assert (tmp_path / "iid").read_text().strip() in {
        image["Id"], metadata["containerimage.config.digest"], metadata["containerimage.digest"]}


def test_layouts_and_caches_on_the_clients_side(buildx: DockerCli, context: Path, tmp_path: Path) -> None:
    """The content store of the client's session: written by an output and a cache, read as a context and a cache."""
    layout, cache = tmp_path / "layout", tmp_path / "cache"
    buildx.ok("buildx", "build", "-o", f"type=oci,tar=false,name=bx-layout:1,dest={layout}", str(context))
    (context / "Dockerfile").write_text("FROM base\nCOPY a /z\n")
    buildx.ok("buildx", "build", "--build-context", f"base=oci-layout://{layout}:1", "-o", str(tmp_path / "out"),
              "--cache-to", f"type=local,dest={cache},mode=max", str(context))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b", "x", "z"]
    buildx.ok("buildx", "prune", "-af")
    again = buildx.run("buildx", "build", "--progress", "plain", "--build-context", f"base=oci-layout://{layout}:1",
                       "--cache-from", f"type=local,src={cache}", str(context), check=True)
    assert ["CACHED"] in [lines for name, lines in steps(again.err).items() if "COPY a /z" in name]


def test_an_image_is_pushed(buildx: DockerCli, context: Path, registry: Registry) -> None:
    name = f"{registry.address}/bx/pushed:1"
    buildx.ok("buildx", "build", "--push", "-t", name, str(context))
    assert json.loads(buildx.ok("buildx", "imagetools", "inspect", "--raw", name))["schemaVersion"] == 2


def test_bake_builds_targets_that_build_on_one_another(buildx: DockerCli, context: Path) -> None:
    (context / "docker-bake.hcl").write_text("""
group "default" { targets = ["app", "tool"] }
target "base" { dockerfile-inline = "FROM busybox\\nCOPY a /from-base\\n" }
target "app" {
  dockerfile-inline = "FROM base\\nRUN cp /from-base /from-app\\n"
  contexts = { base = "target:base" }
  tags = ["bx-app"]
  labels = { t = "x" }
}
target "tool" {
  dockerfile-inline = "FROM busybox\\nCOPY --from=app /from-app /tool\\n"
  contexts = { app = "target:app" }
  tags = ["bx-tool"]
  labels = { t = "x" }
}
""")
    buildx.ok("buildx", "bake", "--allow", f"fs.read={context}", "-f", str(context / "docker-bake.hcl"), "--set",
              f"*.context={context}")
    for image, path in (("bx-app", "/from-app"), ("bx-tool", "/tool")):
        assert buildx.ok("run", "--rm", "--network=none", image, "cat", path) == "hello"
    history = buildx.ok("history", "--no-trunc", "--format", "{{.CreatedBy}}", "bx-app").splitlines()
    assert [line for line in history if "COPY" in line or "RUN" in line] == [
        "RUN /bin/sh -c cp /from-base /from-app # buildkit", "COPY a /from-base # buildkit"]


@pytest.mark.needs("compose")
@pytest.mark.parametrize("bake", ["true", "false"])
def test_compose_builds_and_runs(buildx: DockerCli, context: Path, bake: str) -> None:
    (context / "Dockerfile").write_text(
        "FROM busybox\nARG W=none\nRUN echo built $W > /built\nCMD [\"cat\", \"/built\"]\n")
    (context / "compose.yaml").write_text(f"""
name: bxcompose{bake}
services:
  one:
    build: {{context: ., args: {{W: one}}}}
    network_mode: none
  two:
    build: {{context: ., args: {{W: two}}}}
    network_mode: none
""")
    buildx.env["COMPOSE_BAKE"] = bake
    files = ["compose", "-f", str(context / "compose.yaml")]
    try:
        shown = buildx.run(*files, "up", "--build", "--no-color", check=True)
        assert "one-1  | built one\n" in shown.out
        assert "two-1  | built two\n" in shown.out
        again = buildx.run(*files, "build", "--progress", "plain", check=True)
        assert "CACHED" in again.err + again.out
    finally:
        buildx.run(*files, "down", "--rmi", "local")


def test_owners_by_name(buildx: DockerCli, context: Path, tmp_path: Path) -> None:
    """With ``--link``, too, in WORKDIR, and where nobody has the name: as dockerd 28.5.2 has them."""
    (context / "Dockerfile").write_text("""FROM scratch AS users
COPY <<E /etc/passwd
user:x:7:8::/:/bin/sh
E
FROM users
COPY --link --chown=user a /linked
COPY --chown=nobody:nobody a /nobody
COPY --link --chown=root:root a /root
USER user
WORKDIR /home
""")
    buildx.ok("buildx", "build", "-o", f"type=tar,dest={tmp_path / 'tar'}", str(context))
    with tarfile.open(tmp_path / "tar") as archive:
        owners = {entry.name.strip("./"): (entry.uid, entry.gid) for entry in archive}
    assert {name: owners[name] for name in ("linked", "nobody", "root", "home")} == {
        "linked": (7, 8), "nobody": (0, 0), "root": (0, 0), "home": (7, 8)}


def test_bake_files_and_contexts_in_a_repository(buildx: DockerCli, tmp_path: Path) -> None:
    """``bake URL``: the client reads its file out of a source that it solves, and gives that as the context."""
    work, served, out = tmp_path / "work", tmp_path / "served", tmp_path / "out"
    work.mkdir()
    (work / "a").write_text("from the repository")
    (work / "Dockerfile").write_text("FROM scratch\nCOPY a /a\n")
    (work / "docker-bake.hcl").write_text(f'target "default" {{ output = ["{out}"] }}\n')
    for words in (["init", "-q", "-b", "main", "."], ["add", "."], ["commit", "-q", "-m", "one"],
                  ["clone", "-q", "--bare", ".", f"{served}/r.git"], ["-C", f"{served}/r.git", "update-server-info"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=work, check=True)
    with serving(partial(SimpleHTTPRequestHandler, directory=str(served))) as url:
        buildx.ok("buildx", "bake", f"--allow=fs={tmp_path}", f"{url}/r.git#main")
    assert (out / "a").read_text() == "from the repository"
