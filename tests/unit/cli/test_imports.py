"""What a command imports decides how fast it starts: the sets are pinned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[3] / "src"
PROGRAM = """
import os, sys
sys.path.insert(0, {source!r})
from pallet.cli.main import main
main({argv!r})
sys.stderr.write("MODULES " + " ".join(sorted(sys.modules)))
"""

# Each of these costs milliseconds; together they would double the time of a whole command.
EXPENSIVE = {
    "argparse", "asyncio", "collections", "contextlib", "ctypes", "dataclasses", "datetime",
    "enum", "functools", "hashlib", "importlib.metadata", "inspect", "json", "logging", "msgspec",
    "pathlib", "re", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "typing", "urllib",
    "h11", "selectors", "string", "threading",
}
SHARED = {
    "pallet", "pallet.cli", "pallet.cli.commands", "pallet.cli.commands.table", "pallet.cli.errors",
    "pallet.cli.flags", "pallet.cli.main", "pallet.cli.session", "pallet.client",
    "pallet.client.endpoint", "pallet.client.engine", "pallet.client.errors",
    "pallet.client.http1", "pallet.client.wire", "pallet.errors",
}
RUN = SHARED | {
    "pallet.cli.commands.create", "pallet.cli.commands.run", "pallet.cli.run",
    "pallet.cli.run.config", "pallet.cli.run.options", "pallet.client.transport",
}


def modules(*argv: str) -> set[str]:
    program = PROGRAM.format(source=str(SOURCE), argv=argv)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True,
        env={"DOCKER_HOST": "unix:///nowhere", "DOCKER_CONFIG": "/nowhere"})
    return set(done.stderr.rpartition("MODULES ")[2].split())


@pytest.mark.parametrize(("argv", "own"), [
    (("--version",), SHARED),
    (("version",), SHARED | {"pallet.cli.commands.version", "pallet.client.transport"}),
    (("run", "image", "true"), RUN), (("run", "-d", "--rm", "--name", "x", "image"), RUN),
    (("ps", "-q"), None), (("exec", "a", "b"), None), (("rm", "-f", "a"), None),
    (("run", "-it", "-p", "80:80", "-v", "/a:/b", "-e", "A=b", "image", "sh"), None),
    (("logs", "a"), None), (("inspect", "a"), None), (("stop", "-t", "1", "a"), None),
])
def test_imports_are_few_and_cheap(argv: tuple[str, ...], own: set[str] | None) -> None:
    found = modules(*argv)
    assert not found & EXPENSIVE
    if own is not None:
        assert {name for name in found if name.startswith("pallet")} == own
