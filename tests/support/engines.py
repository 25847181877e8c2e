"""Fixtures that give tests a daemon, its clients and a registry (loaded as a pytest plugin)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support import leaks
from tests.support.daemon import Daemon, Dockerd, Palletd, assert_clean, pallet_command
from tests.support.dockercli import DockerCli, docker_binaries
from tests.support.plugins import with_plugins
from tests.support.registry import DebianRegistry, PalletRegistry, Registry
from tests.support.scratch import busybox_tar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IMAGE = "busybox"
ENGINE = os.environ.get("PALLET_E2E_ENGINE", "pallet")
_SESSION: list[Daemon] = []  # the session's daemon, while there is one


def load_images(daemon: Daemon) -> None:
    """Import the scratch image as ``busybox:latest``, with a command and a port as images have."""
    reply = daemon.api.call(
        "POST",
        "/images/create?fromSrc=-&repo=busybox&tag=latest&message=scratch"
        "&changes=CMD+%5B%22sh%22%5D&changes=EXPOSE+80&changes=ENV+IMAGE_VAR%3Dyes",
        busybox_tar(),
        {"Content-Type": "application/x-tar"},
    )
    assert reply.status == 200, reply.body
    assert b"errorDetail" not in reply.body, reply.body


def _daemon(kind: str, *flags: str) -> Daemon:
    return Dockerd(flags=flags) if kind == "dockerd" else Palletd(flags=flags)


@pytest.fixture(scope="session")
def engine() -> Iterator[Daemon]:
    """One daemon for the session, with the ``busybox`` image. Leftovers are checked at its end."""
    daemon = _daemon(ENGINE)
    try:
        daemon.start()
        load_images(daemon)
        _SESSION.append(daemon)
        yield daemon
    except BaseException:
        daemon.remove()
        raise
    finally:
        _SESSION.clear()
    assert_clean([daemon])


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Daemon]:
    """The real dockerd with the same image, for side by side comparisons."""
    daemon = Dockerd()
    try:
        daemon.start()
        load_images(daemon)
        yield daemon
    finally:
        daemon.remove()


@pytest.fixture
def fresh_palletd() -> Iterator[Callable[..., Daemon]]:
    """Make started daemons with their own roots; each is checked for leftovers at the end."""
    made: list[Daemon] = []

    def make(*flags: str, images: bool = True, start: bool = True) -> Daemon:
        daemon = _daemon(ENGINE, *flags)
        made.append(daemon)
        if start:
            daemon.start()
            if images:
                load_images(daemon)
        return daemon

    yield make
    assert_clean(made)


def not_on_dockerd(daemon: Daemon, reason: str) -> None:
    """Skip on the comparison daemon, where Debian's version or this host differs from the rule."""
    if daemon.kind == "docker":
        pytest.skip(f"dockerd: {reason}")


def _clean(daemon: Daemon) -> None:
    """Remove the test's containers and demand that their processes and cgroups went with them."""
    daemon.purge_containers()
    ids = set(daemon.container_ids)
    daemon.container_ids.clear()
    if ids:
        leaks.assert_gone(lambda: leaks.cgroups(*ids), "cgroups of removed containers")
        shims = [daemon.exec_root / "shims" / container_id for container_id in ids]
        leaks.assert_gone(
            lambda: {str(path) for path in shims if path.exists()}, "shims of removed containers"
        )


def _purge(daemon: Daemon) -> None:
    """Remove every image but the scratch one, and what builds keep."""
    _clean(daemon)
    for row in daemon.api.call("GET", "/images/json?all=1").json:  # children before their parents
        if f"{IMAGE}:latest" not in (row["RepoTags"] or ()):
            daemon.api.call("DELETE", f"/images/{row['Id']}?force=1")
    reply = daemon.api.call("POST", "/build/prune?all=1")
    assert reply.status == 200, reply.body


@pytest.fixture(scope="module", autouse=True)
def leave_no_images() -> Iterator[None]:
    """A module's images and build cache go from the session's daemon with it: the next finds what a lone one finds."""
    yield
    for daemon in _SESSION:
        if daemon.process is not None:
            _purge(daemon)


@pytest.fixture
def docker(engine: Daemon) -> Iterator[DockerCli]:
    """The newest docker command line on the session's daemon; the test's containers are removed."""
    cli = engine.cli()
    yield cli
    cli.end_started()
    _clean(engine)


@pytest.fixture(params=docker_binaries() or ["docker"])
def any_docker(request: pytest.FixtureRequest, engine: Daemon) -> Iterator[DockerCli]:
    """Each docker command line that is installed, in turn."""
    cli = engine.cli([request.param])
    yield cli
    cli.end_started()
    _clean(engine)


@pytest.fixture
def pallet_cli(engine: Daemon) -> Iterator[DockerCli]:
    """The ``pallet`` command line on the session's daemon."""
    cli = engine.cli(pallet_command())
    yield cli
    cli.end_started()
    _clean(engine)


@pytest.fixture
def buildx(engine: Daemon) -> Iterator[DockerCli]:
    """The docker command line with its plugins; the test's images and the build cache go with it."""
    not_on_dockerd(engine, "20.10 has no BuildKit of today")
    cli = with_plugins(engine)
    yield cli
    cli.end_started()
    _purge(engine)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """An empty directory for what a build takes."""
    found = tmp_path / "context"
    found.mkdir()
    return found


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A container name that tells whose it is: ``t-<test>``."""
    words = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return f"t-{words.removeprefix('test-')}"[:60].rstrip("-")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Debian's docker-registry on loopback."""
    server = DebianRegistry(tmp_path_factory.mktemp("registry"))
    with server:
        yield server


@pytest.fixture(scope="session")
def pallet_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """``pallet registry serve`` on loopback."""
    server = PalletRegistry(tmp_path_factory.mktemp("pallet-registry"))
    with server:
        yield server


@pytest.fixture
def auth_registry(tmp_path: Path) -> Iterator[Registry]:
    """Debian's docker-registry that asks for ``user`` with ``secret``."""
    server = DebianRegistry(tmp_path / "registry", user="user", password="secret")
    with server:
        yield server
