"""Dockerfiles and their images, entry by entry, against what BuildKit made of the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.buildcases import case_of, cases, image_of, lay_out
from tests.support.engines import not_on_dockerd
from tests.support.plugins import with_plugins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "buildx", "docker_cli")

TAG = "bx-language"


@pytest.fixture(scope="module")
def buildx(engine: Daemon) -> Iterator[DockerCli]:
    """The command line with its plugins; what it built is gone afterwards."""
    not_on_dockerd(engine, "20.10 has no BuildKit of today")
    cli = with_plugins(engine)
    yield cli
    cli.run("rmi", "-f", TAG)
    cli.run("buildx", "prune", "-af")


@pytest.mark.parametrize("name", cases(failing=False))
def test_image_is_buildkits(buildx: DockerCli, engine: Daemon, tmp_path: Path, name: str) -> None:
    case = case_of(name)
    lay_out(case, tmp_path)
    args = [arg.replace("@", str(tmp_path)) for arg in case.get("args", ())]
    result = buildx.run("buildx", "build", "--provenance=false", "-t", TAG, *args, str(tmp_path))
    assert result.code == 0, result.err
    saved = engine.api.call("GET", f"/images/{TAG}/get")
    assert saved.status == 200
    assert image_of(saved.body) == case["image"]


@pytest.mark.parametrize("name", cases(failing=True))
def test_error_is_buildkits(buildx: DockerCli, tmp_path: Path, name: str) -> None:
    case = case_of(name)
    lay_out(case, tmp_path)
    result = buildx.run("buildx", "build", "--progress", "plain", str(tmp_path))
    assert result.code == 1
    assert result.err.splitlines()[-1] == f"ERROR: failed to build: failed to solve: {case['error']}"


def test_the_first_missing_file_is_told_where_it_stands(buildx: DockerCli, tmp_path: Path) -> None:
    """Steps further down are looked at all the same: it is not they that are broken."""
    (tmp_path / "a").write_text("1")
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nCOPY a /\nCOPY nope/one /\nCOPY a /b\nCOPY nope/two /\nCOPY --from=busybox /srv /x/\n")
    result = buildx.run("buildx", "build", "--progress", "plain", str(tmp_path))
    assert result.code == 1
    assert "3 | >>> COPY nope/one /\n" in result.err
    assert '"/nope/one": not found' in result.err.splitlines()[-1]
    assert "> [stage-0 3/6] COPY nope/one /:" in result.err
