"""What cache mounts hold, carried from one daemon to another: ``cache-mounts`` of ``--cache-to`` and ``--cache-from``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import pallet_command
from tests.support.engines import not_on_dockerd
from tests.support.plugins import with_plugins

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.dockercli import DockerCli
    from tests.support.registry import Registry

pytestmark = pytest.mark.needs("root", "overlay", "buildx", "docker_cli")

FILL = r"""FROM busybox AS one
RUN --mount=type=cache,target=/c --mount=type=cache,target=/owned,uid=7,gid=8,mode=700,sharing=locked \
    cd /c && [ ! -e there ] && echo first > there && chmod 640 there && chown 3:4 there && mkdir -m 751 d && \
    ln there d/hard && ln -s there link && touch .wh.name && echo mine > /owned/file && echo filled
FROM busybox
COPY --from=one /etc/passwd /p
"""
LOOK = r"""FROM busybox
RUN --mount=type=cache,target=/c --mount=type=cache,target=/owned,uid=7,gid=8,mode=700,sharing=locked \
    cd /c && echo "<$(cat there 2>/dev/null) $(stat -c %a:%u:%g:%h there 2>/dev/null) $(readlink link) $(ls -A | wc -l)>" && \
    echo "<$(stat -c %a /c/d 2>/dev/null) $(stat -c %a:%u:%g /owned) $(cat /owned/file 2>/dev/null)>"
"""
FOUND = ("<first 640:3:4:2 there 4>", "<751 700:7:8 mine>")
NOTHING = ("<   0>", "< 700:7:8 >")


@pytest.fixture
def other(engine: Daemon, fresh_palletd: Callable[..., Daemon]) -> Daemon:
    """A daemon that has nothing."""
    not_on_dockerd(engine, "BuildKit's caches hold no mounts")
    return fresh_palletd()


def build(cli: DockerCli, context: Path, dockerfile: str, *flags: str) -> str:
    """Build with buildx; the progress."""
    (context / "Dockerfile").write_text(dockerfile)
    return cli.run("buildx", "build", "--progress", "plain", *flags, str(context), check=True).err


def test_a_directory_at_the_clients(buildx: DockerCli, other: Daemon, context: Path, tmp_path: Path) -> None:
    """Written by buildx, read by buildx and by ``pallet build``; a mount that is there stays as it is."""
    cache = tmp_path / "cache"
    build(buildx, context, FILL, "--cache-to", f"type=local,dest={cache},cache-mounts=true")
    there = with_plugins(other)
    said = build(there, context, LOOK, "--cache-from", f"type=local,src={cache},cache-mounts=false")
    assert all(line in said for line in NOTHING)
    said = build(there, context, LOOK, "--no-cache", "--cache-from", f"type=local,src={cache}")
    assert all(line in said for line in NOTHING), "a mount that is there was replaced"
    there.ok("buildx", "prune", "-af")
    said = build(there, context, LOOK, "--cache-from", f"type=local,src={cache}")
    assert all(line in said for line in FOUND)
    own = other.cli(pallet_command())
    own.ok("builder", "prune", "-af")
    said = own.run("build", "--cache-from", f"type=local,src={cache}", "--cache-to",
                   f"type=local,dest={cache}2,cache-mounts=true", str(context), check=True).err
    assert all(line in said for line in FOUND)
    own.ok("builder", "prune", "-af")
    said = own.run("build", "--cache-from", f"type=local,src={cache}2", "--no-cache", str(context), check=True).err
    assert all(line in said for line in FOUND)


def test_a_registry(buildx: DockerCli, other: Daemon, context: Path, registry: Registry) -> None:
    """Also where the steps themselves are cached, and only where it was asked for."""
    name = f"{registry.address}/mounts/cache"
    build(buildx, context, FILL, "--cache-to", f"type=registry,ref={name}:without,mode=max")
    build(buildx, context, FILL, "--cache-to", f"type=registry,ref={name}:with,mode=max,cache-mounts=true")
    there = with_plugins(other)
    said = build(there, context, LOOK, "--cache-from", f"type=registry,ref={name}:without")
    assert all(line in said for line in NOTHING)
    there.ok("buildx", "prune", "-af")
    said = build(there, context, FILL, "--cache-from", f"type=registry,ref={name}:with")
    assert "CACHED" in said
    assert "cachemount" not in there.ok("buildx", "du", "--verbose"), "no step ran, nothing had to come"
    said = build(there, context, LOOK, "--cache-from", f"type=registry,ref={name}:with")
    assert all(line in said for line in FOUND)


def test_an_image_holds_no_mounts(buildx: DockerCli, context: Path) -> None:
    (context / "Dockerfile").write_text(LOOK)
    result = buildx.run("buildx", "build", "--cache-to", "type=inline,cache-mounts=true", str(context))
    assert result.code
    assert "cache-mounts needs a cache of type registry or local" in result.err
