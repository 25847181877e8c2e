"""The build cache is collected after builds, by ``builder.gc`` of ``daemon.json`` as dockerd has it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import not_on_dockerd
from tests.support.plugins import with_plugins
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs("root", "overlay", "buildx", "docker_cli")


def test_what_is_over_the_limit_goes(engine: Daemon, fresh_palletd: Callable[..., Daemon], tmp_path: Path) -> None:
    """The least used, and nothing that a rule does not mean; clients see the rules."""
    not_on_dockerd(engine, "its own")
    (tmp_path / "daemon.json").write_text(json.dumps({"builder": {"gc": {"policy": [
        {"all": True, "maxUsedSpace": "2MB", "filter": ["type=regular"]}]}}}))
    daemon = fresh_palletd("--config-file", str(tmp_path / "daemon.json"))
    buildx = with_plugins(daemon)
    shown = buildx.ok("buildx", "inspect")
    assert "GC Policy rule#0" in shown
    assert "Max Used Space: 2MiB" in shown
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM busybox AS big\nRUN dd if=/dev/zero of=/big bs=1M count=3\nFROM busybox AS small\nRUN --mount=type=cache,target=/c "
        "echo kept > /c/file; echo x > /small\nCOPY --from=big /big /copied\n")
    buildx.ok("buildx", "build", str(context))

    def kept() -> set[str]:
        lines = buildx.ok("buildx", "du", "--format", "json").splitlines()
        return {json.loads(line)["Description"].partition("] ")[2] or json.loads(line)["Type"] for line in lines}

    big = "RUN dd if=/dev/zero of=/big bs=1M count=3"
    eventually(lambda: big not in kept(), timeout_s=20)
    assert "exec.cachemount" in kept()


def test_a_start_under_other_limits_collects(engine: Daemon, fresh_palletd: Callable[..., Daemon],
                                             tmp_path: Path) -> None:
    """Without any build, and after the daemon serves."""
    not_on_dockerd(engine, "its own")

    def limited(most: str) -> None:
        (tmp_path / "daemon.json").write_text(json.dumps({"builder": {"gc": {"policy": [
            {"all": True, "maxUsedSpace": most, "filter": ["type=regular"]}]}}}))

    limited("1GB")
    daemon = fresh_palletd("--config-file", str(tmp_path / "daemon.json"))
    buildx = with_plugins(daemon)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=3\n")
    buildx.ok("buildx", "build", "-o", "type=cacheonly", str(tmp_path))
    assert "count=3" in buildx.ok("buildx", "du", "--verbose")
    daemon.stop()
    limited("1MB")
    daemon.start()
    eventually(lambda: "count=3" not in buildx.ok("buildx", "du", "--verbose"), timeout_s=20)
