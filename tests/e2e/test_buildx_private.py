"""Private registries through buildx: the daemon knows no password, the client's session has them all."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_registry_auth import PEOPLE, auth, login
from tests.support.access import write_users
from tests.support.daemon import pallet_command
from tests.support.engines import not_on_dockerd
from tests.support.guardedregistry import GuardedRegistry
from tests.support.plugins import steps, with_plugins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli
    from tests.support.registry import Registry

pytestmark = pytest.mark.needs("root", "overlay", "buildx", "docker_cli", "busybox")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GuardedRegistry]:
    """A registry that gives tokens: ann may write team/, bob may read there."""
    with GuardedRegistry(tmp_path / "registry", config=auth(write_users(tmp_path / "users", PEOPLE))) as made:
        yield made


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    return place


def client(engine: Daemon, config: Path) -> DockerCli:
    """buildx with a configuration of its own."""
    cli = with_plugins(engine)
    plugins = cli.config / "cli-plugins"
    config.mkdir()
    (config / "cli-plugins").symlink_to(plugins.resolve())
    cli.config = config
    cli.env["DOCKER_CONFIG"] = cli.env["HOME"] = str(config)
    return cli


def test_tokens(engine: Daemon, server: GuardedRegistry, context: Path, tmp_path: Path) -> None:
    """Bases, caches and pushes by what ``docker login`` stored; who may not write cannot, who is nobody cannot read."""
    not_on_dockerd(engine, "20.10 has no BuildKit of today")
    ann, bob, nobody = (client(engine, tmp_path / name) for name in ("ann", "bob", "nobody"))
    login(ann, server, "ann")
    login(bob, server, "bob")
    base, cache, app = (f"{server.address}/team/{name}" for name in ("base:1", "cache:1", "app:1"))
    try:
        (context / "Dockerfile").write_text("FROM busybox\nRUN echo base > /base\n")
        ann.ok("buildx", "build", "-t", base, "--push", str(context))
        ann.ok("rmi", base)
        ann.ok("buildx", "prune", "-af")
        (context / "Dockerfile").write_text(f"FROM {base}\nRUN cat /base > /app\n")
        refused = nobody.run("buildx", "build", str(context))
        assert refused.code
        assert f"{base}: " in refused.err
        ann.ok("buildx", "build", "-t", app, "--push", "--cache-to", f"type=registry,ref={cache},mode=max", str(context))
        ann.ok("buildx", "prune", "-af")
        ann.ok("rmi", app)
        again = bob.run("buildx", "build", "--progress", "plain", "--pull", "--cache-from", f"type=registry,ref={cache}",
                        str(context), check=True)
        assert ["CACHED"] in [lines for name, lines in steps(again.err).items() if "RUN cat" in name]
        denied = bob.run("buildx", "build", "-t", app, "--push", str(context))
        assert denied.code
        assert "denied" in denied.err
        own = engine.cli(pallet_command())
        own.config = ann.config
        own.env["DOCKER_CONFIG"] = own.env["HOME"] = str(ann.config)
        own.ok("build", "-t", app, "--push", str(context))
    finally:
        for image in (base, app):
            ann.run("rmi", "-f", image)
        ann.run("buildx", "prune", "-af")


def test_passwords(engine: Daemon, auth_registry: Registry, context: Path, tmp_path: Path) -> None:
    """A registry that asks for a password with every request."""
    not_on_dockerd(engine, "20.10 has no BuildKit of today")
    buildx, name = client(engine, tmp_path / "user"), f"{auth_registry.address}/x/y:1"
    (context / "Dockerfile").write_text("FROM busybox\n")
    assert buildx.run("buildx", "build", "-t", name, "--push", str(context)).code
    buildx.ok("login", "-u", "user", "--password-stdin", auth_registry.address, stdin="secret")
    buildx.ok("buildx", "build", "-t", name, "--push", str(context))
    buildx.ok("rmi", name)
    assert json.loads(buildx.ok("buildx", "imagetools", "inspect", "--raw", name))["schemaVersion"] == 2
    (context / "Dockerfile").write_text(f"FROM {name}\nRUN true\n")
    buildx.ok("buildx", "build", str(context))
    buildx.run("rmi", "-f", name)
    shutil.rmtree(buildx.config)
    buildx.run("buildx", "prune", "-af")
