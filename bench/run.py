"""``make bench``: measure what is installed side by side, print a table, write it to a document.

Everything runs in the benchmark's own mount and network namespaces, on roots of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import (
    archive_figures,
    build_figures,
    idle_figures,
    list_figures,
    pull_figures,
    push_figures,
    registry_figures,
    start_figures,
)
from bench.engines import engines
from bench.model import Figure, machine, table, versions
from tests.support import isolation
from tests.support.dockercli import docker_binaries
from tests.support.probes import lacking

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon

MARK_BEGIN, MARK_END = "<!-- measured -->", "<!-- /measured -->"
GROUPS = ("api", "command", "cli", "idle", "start", "pull", "push", "archive", "list", "build", "registry")


def measure(options: argparse.Namespace) -> list[Figure]:
    """Run the groups that were asked for; a group that fails is reported and left out."""
    quick = options.quick
    figures: list[Figure] = []

    def group(name: str, action: Callable[[], list[Figure]]) -> None:
        if name not in options.only:
            return
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        try:
            figures.extend(action())
        except Exception as error:  # noqa: BLE001 - the other groups are still worth having
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
            options.failed.append(name)

    wanted = set(options.engines)
    group("start", lambda: idle_figures.daemon_start(2 if quick else 7))
    group("cli", lambda: start_figures.command_line_start(10 if quick else 50))
    with engines(wanted) as made:
        running: dict[str, Daemon] = made
        group("api", lambda: start_figures.through_the_api(running, 20 if quick else 100))
        group("command", lambda: start_figures.whole_command(running, 6 if quick else 30))
        group("idle", lambda: idle_figures.idle_memory(running))
    with engines(wanted) as made:
        again: dict[str, Daemon] = made
        group("pull", lambda: pull_figures.pulls(again, 1 if quick else 3, 0.1 if quick else 1.0))
        group("push", lambda: push_figures.pushes(again, 1 if quick else 3, 0.1 if quick else 1.0))
        group("archive", lambda: archive_figures.archives(
            again, 1 if quick else 3, 0.1 if quick else 1.0))
        group("list", lambda: list_figures.lists(
            again, 5 if quick else 20, 100 if quick else list_figures.IMAGES))
    with engines(wanted) as made:
        builders: dict[str, Daemon] = made
        group("build", lambda: build_figures.builds(builders, 1 if quick else 3, 0.1 if quick else 1.0))
    group("registry", lambda: registry_figures.registries(1 if quick else 3, 1 if quick else 3))
    return figures


def document(figures: list[Figure]) -> str:
    """The table with what it was measured on and when."""
    names = versions({
        "docker CLI": [docker_binaries()[0] if docker_binaries() else "docker", "--version"],
        "dockerd": ["dockerd", "--version"], "podman": ["podman", "--version"],
        "runc": ["runc", "--version"], "crun": ["crun", "--version"],
        "docker-registry": ["docker-registry", "--version"],
        "Python": [sys.executable, "--version"],
    })  # fmt: skip
    where = f"Measured {time.strftime('%Y-%m-%d')} on {machine()}."
    text = "Medians; in brackets, how many times Pallet's."
    return "\n".join([where, "", *[f"- {name}" for name in names], "", text, "", table(figures)])


def write(path: Path, text: str) -> None:
    """Put ``text`` between the marks of an existing document."""
    old = path.read_text(encoding="utf-8")
    head, _, rest = old.partition(MARK_BEGIN)
    _, _, tail = rest.partition(MARK_END)
    path.write_text(f"{head}{MARK_BEGIN}\n{text}\n{MARK_END}{tail}", encoding="utf-8")


def main() -> int:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a tenth of the image")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--engines", nargs="+", choices=("pallet", "dockerd"),
                        default=["pallet", "dockerd"])  # fmt: skip
    parser.add_argument("--write", type=Path, help="document to put the table into")
    options = parser.parse_args()
    options.failed = []
    if reason := lacking("root"):
        print(f"the benchmark needs root: {reason}", file=sys.stderr)
        return 1
    isolation.enter_session()
    text = document(measure(options))
    print(text)
    if options.write:
        write(options.write, text)
    return 1 if options.failed else 0


if __name__ == "__main__":
    sys.exit(main())
