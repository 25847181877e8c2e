"""``pallet bake`` with a definition from elsewhere, several platforms, pushes and agents."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest

from tests.root.test_build_sources import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.dockercli import DockerCli
    from tests.support.registry import Registry

pytestmark = pytest.mark.needs("root", "overlay", "docker_cli")

DEFINITION = """
variable "CONTEXT" { default = BAKE_CMD_CONTEXT }
target "whole" {
  output = ["whole"]
}
target "part" {
  context = "part"
  contexts = { sub = "part/sub", here = "cwd://here", all = "." }
  output = ["parts"]
}
target "top" {
  contexts = { below = "target:part" }
  dockerfile-inline = "FROM below\\nCOPY file /top\\n"
  output = ["tops"]
}
target "local" {
  context = "cwd://here"
  dockerfile = "cwd://here/Dockerfile"
  output = ["locals"]
}
target "outside" {
  contexts = { up = "cwd://.." }
  secret = ["id=s,src=/etc/hostname"]
  output = ["type=tar,dest=../o.tar"]
}
"""
FILES = {"docker-bake.hcl": DEFINITION, "Dockerfile": "FROM scratch\nCOPY file /\n", "file": "of all\n",
         "part/Dockerfile": "FROM scratch\nCOPY own /\nCOPY --from=sub deep /\nCOPY --from=here mine /\n"
                            "COPY --from=all file /\n",
         "part/own": "of the part\n", "part/sub/deep": "of the sub\n",
         "compose.yaml": "include: [part/more.yaml]\n",
         "part/more.yaml": "services: {web: {build: {context: ., dockerfile_inline: \"FROM scratch\\nCOPY own /\"}}}\n"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A repository ``r.git``, its files as ``r.tar``, and the definition alone."""
    work, served = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("served")
    with tarfile.open(served / "r.tar", "w") as archive:
        for name, text in FILES.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(text)
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    (served / "alone.hcl").write_text('target "default" {\n  dockerfile-inline = "FROM scratch\\nCOPY here/mine /\\n"\n'
                                      '  output = ["out"]\n}\n')
    for words in (["init", "-q", "-b", "main", "."], ["add", "."], ["commit", "-q", "-m", "one"], ["tag", "v1"],
                  ["clone", "-q", "--bare", ".", f"{served}/r.git"], ["-C", f"{served}/r.git", "update-server-info"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=work, check=True)
    with serving(partial(SimpleHTTPRequestHandler, directory=str(served))) as found:
        yield found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "cwd"
    (found / "here").mkdir(parents=True)
    (found / "here/mine").write_text("of here\n")
    (found / "here/Dockerfile").write_text("FROM scratch\nCOPY mine /\n")
    monkeypatch.chdir(found)
    return found


def texts(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_a_repository_and_what_is_here(pallet_cli: DockerCli, url: str, here: Path) -> None:
    done = pallet_cli.run("bake", f"{url}/r.git#v1", "whole", "part", "top", "local")
    assert done.code == 0, done.err
    assert "[internal] load remote bake definitions" in done.err
    assert texts(here / "whole") == {"file": "of all\n"}
    part = {"own": "of the part\n", "deep": "of the sub\n", "mine": "of here\n", "file": "of all\n"}
    assert texts(here / "parts") == part
    assert texts(here / "tops") == {**part, "top": "of all\n"}
    assert texts(here / "locals") == {"mine": "of here\n"}


def test_files_of_both_and_a_context_of_ones_own(pallet_cli: DockerCli, url: str, here: Path) -> None:
    (here / "more.hcl").write_text('target "whole" {\n  output = ["elsewhere"]\n  args = { C = BAKE_CMD_CONTEXT }\n}\n')
    words = ("bake", f"{url}/r.git", f"{url}/r.git#v1", "-f", "docker-bake.hcl", "-f", "cwd://more.hcl", "whole")
    shown = json.loads(pallet_cli.ok(*words, "--print"))["target"]["whole"]
    assert shown["context"] == f"{url}/r.git"
    assert shown["args"] == {"C": f"{url}/r.git#v1"}
    done = pallet_cli.run(*words)
    assert done.code == 0, done.err
    assert texts(here / "elsewhere") == {"file": "of all\n"}
    missing = pallet_cli.run("bake", f"{url}/r.git", "-f", "nope.hcl")
    assert missing.err == "ERROR: failed to solve: lstat nope.hcl: no such file or directory\n"


def test_a_compose_file_there_includes_what_is_there(pallet_cli: DockerCli, url: str, here: Path) -> None:
    done = pallet_cli.run("bake", f"{url}/r.git", "-f", "compose.yaml", "web", "--set", "web.output=web")
    assert done.code == 0, done.err
    assert texts(here / "web") == {"own": "of the part\n"}


def test_an_archive_and_a_file(pallet_cli: DockerCli, url: str, here: Path) -> None:
    done = pallet_cli.run("bake", f"{url}/r.tar", "whole")
    assert done.code == 0, done.err
    assert texts(here / "whole") == {"file": "of all\n"}
    assert "directories of an archive at a URL can not be contexts" in pallet_cli.run("bake", f"{url}/r.tar", "part").err
    done = pallet_cli.run("bake", f"{url}/alone.hcl")  # its paths are those of here
    assert done.code == 0, done.err
    assert texts(here / "out") == {"mine": "of here\n"}


def test_files_elsewhere_are_asked_for(pallet_cli: DockerCli, url: str, here: Path) -> None:
    refused = pallet_cli.run("bake", f"{url}/r.git", "outside")
    assert refused.code == 1
    assert [line for line in refused.err.splitlines() if line.startswith(" - ")] == [
        " - Read access to path ..", " - Read access to path /etc/hostname", " - Write access to path ../o.tar"]
    done = pallet_cli.run("bake", f"{url}/r.git", "outside", "--allow", "fs.read=/etc", "--allow", "fs=..")
    assert done.code == 0, done.err
    assert (here.parent / "o.tar").exists()


def test_results_of_two_platforms_as_contexts(pallet_cli: DockerCli, here: Path) -> None:
    """Each platform's result stands on that of its own."""
    (here / "docker-bake.hcl").write_text("""
target "base" {
  dockerfile-inline = "FROM scratch\\nARG TARGETARCH\\nCOPY here/${TARGETARCH} /arch\\n"
}
target "default" {
  contexts = { base = "target:base" }
  dockerfile-inline = "FROM base\\nCOPY here/mine /\\n"
  platforms = ["linux/amd64", "linux/arm64"]
  output = ["out"]
}
""".replace("${", "$${"))
    for name in ("amd64", "arm64"):
        (here / "here" / name).write_text(f"for {name}\n")
    done = pallet_cli.run("bake", "--set", "base.platform=linux/amd64,linux/arm64")
    assert done.code == 0, done.err
    for name in ("amd64", "arm64"):
        assert texts(here / f"out/linux_{name}") == {"arch": f"for {name}\n", "mine": "of here\n"}


@pytest.mark.needs("registry")
def test_pushes(pallet_cli: DockerCli, registry: Registry, here: Path, name: str) -> None:
    references = {kind: f"{registry.address}/{name}-{kind}:1" for kind in ("one", "two")}
    (here / "docker-bake.hcl").write_text("".join(
        f'target "{kind}" {{\n  dockerfile-inline = "FROM busybox\\nCOPY here/mine /{kind}\\n"\n  tags = ["{reference}"]\n}}\n'
        for kind, reference in references.items()) + 'group "default" {\n  targets = ["one", "two"]\n}\n')
    done = pallet_cli.run("bake", "--push", "--metadata-file", "meta.json")
    assert done.code == 0, done.err
    meta = json.loads((here / "meta.json").read_text())
    for kind in references:
        _, headers, _ = registry.request("HEAD", f"/v2/{name}-{kind}/manifests/1", headers={
            "Accept": "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"})
        assert meta[kind]["containerimage.digest"] == headers["docker-content-digest"]


def test_an_agent_through_a_definition(pallet_cli: DockerCli, here: Path) -> None:
    (here / "docker-bake.hcl").write_text("""
target "default" {
  dockerfile-inline = "FROM busybox\\nRUN --mount=type=ssh,id=mine,required test -S $SSH_AUTH_SOCK && echo agent > /agent\\n"
  ssh = ["mine=agent"]
  output = ["type=tar,dest=o.tar"]
}
""")
    assert "unset ssh forward key mine" in pallet_cli.run("bake", "--set", "*.ssh=other=agent").err
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(here / "agent"))
        agent.listen()
        done = pallet_cli.run("bake")
        assert done.code == 0, done.err
    with tarfile.open(here / "o.tar") as archive:
        assert "agent" in archive.getnames()
