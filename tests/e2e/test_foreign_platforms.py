"""Images and builds for another processor: with an emulator the kernel knows, and without one."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import binfmt
from tests.support.daemon import pallet_command
from tests.support.engines import not_on_dockerd
from tests.support.plugins import with_plugins
from tests.support.probes import FOREIGN_BUSYBOX
from tests.support.scratch import busybox_tar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli
    from tests.support.registry import Registry

pytestmark = pytest.mark.needs("root", "overlay", "buildx", "docker_cli", "binfmt", "foreign")

DOCKERFILE = """\
FROM fp-amd64 AS amd64
FROM fp-arm64 AS arm64
FROM ${TARGETARCH}
ARG TARGETPLATFORM TARGETARCH TARGETOS BUILDPLATFORM
LABEL t=x
RUN echo "$(uname -m) $TARGETPLATFORM $TARGETOS $TARGETARCH $BUILDPLATFORM" > /out && cat /out
CMD ["cat", "/out"]
"""
BOTH = "linux/amd64,linux/arm64"
SAYS = {"amd64": "x86_64 linux/amd64 linux amd64 linux/amd64",
        "arm64": "aarch64 linux/arm64 linux arm64 linux/amd64"}
NO_EMULATOR = "this host cannot run programs for linux/arm64: no emulator for them is registered"


@pytest.fixture
def cli(engine: Daemon, tmp_path: Path) -> Iterator[DockerCli]:
    """The command line with its plugins, and bases for two platforms; all of it is gone afterwards."""
    not_on_dockerd(engine, "its image store holds one platform a name")
    cli = with_plugins(engine)
    for architecture, program in (("amd64", ""), ("arm64", str(FOREIGN_BUSYBOX))):
        cli.ok("import", "--platform", f"linux/{architecture}", "-", f"fp-{architecture}", stdin=busybox_tar(program))
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    yield cli
    engine.purge_containers()
    for image in (*cli.ok("images", "-aq", "--no-trunc", "--filter", "label=t=x").split(), "fp-amd64", "fp-arm64"):
        cli.run("rmi", "-f", image)
    cli.run("buildx", "prune", "-af")


@pytest.fixture
def emulator() -> Iterator[None]:
    """arm64 runs."""
    with binfmt.arm64():
        yield


@pytest.fixture
def no_emulator() -> None:
    """arm64 does not run."""
    if binfmt.arm64_runs():
        pytest.skip("this host runs programs for arm64")


def build(cli: DockerCli, context: Path, *args: str, code: int = 0) -> str:
    """Build in ``context``; returns the progress."""
    done = cli.run("buildx", "build", "--progress", "plain", *args, str(context))
    assert done.code == code, done.err
    return done.err


def listed(cli: DockerCli) -> list[str]:
    """Platforms that buildx hears of."""
    line = next(line for line in cli.ok("buildx", "inspect").splitlines() if line.startswith("Platforms:"))
    return line.partition(":")[2].replace(" ", "").split(",")


@pytest.mark.usefixtures("emulator")
def test_one_image_for_two_platforms(cli: DockerCli, tmp_path: Path) -> None:
    build(cli, tmp_path, "--platform", BOTH, "-t", "fp-both")
    for architecture, says in SAYS.items():
        assert cli.ok("run", "--rm", "--platform", f"linux/{architecture}", "fp-both") == says
    assert cli.ok("run", "--rm", "fp-both") == SAYS["amd64"]
    assert "CACHED" in build(cli, tmp_path, "--platform", "linux/arm64", "-t", "fp-one")
    done = cli.run("run", "--rm", "fp-one")
    assert (done.code, done.text) == (0, SAYS["arm64"])
    assert "The requested image's platform (linux/arm64) does not match the detected host platform (linux/" in done.err
    assert "WARNING" not in cli.run("run", "--rm", "--platform", "linux/arm64", "fp-one").err


@pytest.mark.usefixtures("emulator")
def test_files_and_archive_of_two_platforms(cli: DockerCli, tmp_path: Path) -> None:
    build(cli, tmp_path, "--platform", BOTH, "-o", f"type=local,dest={tmp_path}/files",
          "-o", f"type=oci,dest={tmp_path}/oci")
    for architecture, says in SAYS.items():
        assert (tmp_path / f"files/linux_{architecture}/out").read_text() == f"{says}\n"
    with tarfile.open(tmp_path / "oci") as archive:
        def document(name: str) -> Any:
            member = archive.extractfile(name)
            assert member
            return json.load(member)

        [top] = document("index.json")["manifests"]
        index = document(f"blobs/sha256/{top['digest'].partition(':')[2]}")
    assert platforms(index) == ["linux/amd64", "linux/arm64"]


def platforms(index: dict[str, Any]) -> list[str]:
    """Platforms of an index, without attestations."""
    rows = [row["platform"] for row in index["manifests"]]
    return [f"{row['os']}/{row['architecture']}" for row in rows if row["os"] != "unknown"]


@pytest.mark.needs("registry")
@pytest.mark.usefixtures("emulator")
def test_both_are_pushed(cli: DockerCli, registry: Registry, tmp_path: Path, name: str) -> None:
    reference = f"{registry.address}/{name}:1"
    build(cli, tmp_path, "--platform", BOTH, "--push", "-t", reference)
    assert platforms(json.loads(cli.ok("buildx", "imagetools", "inspect", "--raw", reference))) == [
        "linux/amd64", "linux/arm64"]
    cli.run("rmi", "-f", reference)
    assert cli.ok("run", "--rm", "--platform", "linux/arm64", reference) == SAYS["arm64"]


@pytest.mark.usefixtures("emulator")
def test_the_own_and_the_classic_door(cli: DockerCli, engine: Daemon, tmp_path: Path) -> None:
    own = engine.cli(pallet_command())
    own.ok("build", "-q", "--platform", BOTH, "-t", "fp-own", str(tmp_path))
    assert own.ok("run", "--rm", "--platform", "linux/arm64", "fp-own") == SAYS["arm64"]
    cli.env["DOCKER_BUILDKIT"] = "0"
    cli.ok("build", "-q", "--platform", "linux/arm64", "-t", "fp-classic", str(tmp_path))
    assert cli.ok("run", "--rm", "--platform", "linux/arm64", "fp-classic") == SAYS["arm64"]


def test_listed_platforms_come_and_go_with_the_emulator(cli: DockerCli, no_emulator: None) -> None:
    before = listed(cli)
    assert before[0] == "linux/amd64"
    assert "linux/arm64" not in before
    with binfmt.arm64():
        assert set(listed(cli)) == {*before, "linux/arm64"}
    assert listed(cli) == before


def test_without_an_emulator_it_says_so(cli: DockerCli, engine: Daemon, tmp_path: Path, no_emulator: None) -> None:
    progress = build(cli, tmp_path, "--platform", BOTH, "-t", "fp-none", code=1)
    assert "exec /bin/sh: exec format error" in progress
    assert NO_EMULATOR in progress
    assert "[linux/arm64 " in progress
    own = engine.cli(pallet_command()).run("build", "--progress", "plain", "--platform", "linux/arm64", str(tmp_path))
    assert own.code != 0
    assert NO_EMULATOR in own.err
    assert not cli.ok("images", "-q", "fp-none")
    with binfmt.arm64():
        build(cli, tmp_path, "--platform", BOTH, "-t", "fp-none")
