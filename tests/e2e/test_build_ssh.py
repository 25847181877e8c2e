"""Repositories over ssh: fetched with the agent of the client that builds, and with nothing of the daemon's host."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import not_on_dockerd
from tests.support.plugins import with_plugins
from tests.support.sshserver import SshServer, ssh_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli

pytestmark = pytest.mark.needs("root", "overlay", "buildx", "docker_cli", "sshd")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    (tmp_path / "ssh").mkdir()
    with ssh_server(tmp_path / "ssh") as found:
        yield found


@pytest.fixture
def url(server: SshServer, tmp_path: Path) -> str:
    """URL of a repository with a file and a Dockerfile."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "file").write_text("hello\n")
    (work / "Dockerfile").write_text("FROM scratch\nCOPY file /copied\n")
    for arguments in (["init", "-q", "-b", "main", "."], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=work, check=True)
    return server.url(work / ".git") + "#main"


@pytest.fixture
def context(tmp_path: Path, url: str) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    (place / "Dockerfile").write_text(f"FROM scratch\nADD {url} /added\n")
    return place


def test_buildx_forwards_its_agent(engine: Daemon, server: SshServer, url: str, context: Path, tmp_path: Path) -> None:
    not_on_dockerd(engine, "20.10 has no BuildKit of today")
    buildx, out = with_plugins(engine), tmp_path / "out"
    without = buildx.run("buildx", "build", "-o", str(out), str(context))
    assert without.code
    assert "unset ssh forward key default" in without.err
    buildx.ok("buildx", "build", "--ssh", f"default={server.agent}", "-o", str(out), str(context))
    assert (out / "added/file").read_text() == "hello\n"
    buildx.ok("buildx", "build", "--ssh", f"default={server.agent}", "-o", f"{out}2", url)
    assert (tmp_path / "out2/copied").read_text() == "hello\n"
    buildx.ok("buildx", "prune", "-af")


def test_pallet_build_gives_its_agent(pallet_cli: DockerCli, server: SshServer, url: str, context: Path,
                                      tmp_path: Path) -> None:
    """For a context over ssh without being told, as buildx does."""
    out = tmp_path / "out"
    assert "unset ssh forward key default" in pallet_cli.run("build", str(context)).err
    pallet_cli.ok("build", "--ssh", f"default={server.agent}", "-o", str(out), str(context))
    assert (out / "added/file").read_text() == "hello\n"
    pallet_cli.ok("builder", "prune", "-af")
    pallet_cli.env.pop("SSH_AUTH_SOCK", None)
    assert "make sure SSH_AUTH_SOCK is set" in pallet_cli.run("build", url).err
    pallet_cli.env["SSH_AUTH_SOCK"] = server.agent
    pallet_cli.ok("build", "-o", f"{out}2", url)
    assert (tmp_path / "out2/copied").read_text() == "hello\n"
    pallet_cli.ok("builder", "prune", "-af")
