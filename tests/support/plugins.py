"""docker's plugins (buildx, compose) against a daemon under test. Fetched by tools/peers.py."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.support.dockercli import DockerCli, docker_binaries
from tests.support.probes import PLUGINS

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

_TIMES = re.compile(r"(?:^| )\d+\.\d+s?(?= |$)")
_STEP = re.compile(r"^#(\d+) ")


def with_plugins(daemon: Daemon) -> DockerCli:
    """A command line that has the plugins: they lie in a configuration directory of its own."""
    cli = DockerCli([docker_binaries()[0]], daemon.host, daemon.top / "config-plugins")
    place = cli.config / "cli-plugins"
    if not place.is_symlink():
        place.symlink_to(PLUGINS)
    return cli


def steps(progress: str) -> dict[str, list[str]]:
    """Plain progress as lines by vertex, without numbers and times.

    ``#4 [1/2] FROM x`` and ``#4 DONE 0.0s`` become ``{"[1/2] FROM x": ["DONE"]}``.
    """
    names: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for line in progress.splitlines():
        match = _STEP.match(line)
        if match is None or match[1] == "0":
            continue
        rest = line[match.end():]
        if match[1] not in names:
            names[match[1]] = rest
            found.setdefault(rest, [])
            continue
        found[names[match[1]]].append(" ".join(_TIMES.sub("", rest).split()))
    return found
