"""Records what the real ``docker buildx bake`` says to the cases of ``golden/bake.json``, over what is there.

Run as ``python -m tests.unit.cli.bake.record`` where docker with buildx is installed; no daemon is needed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent.parent / "golden/bake.json"


def written(case: dict[str, Any], directory: Path) -> None:
    """Write a case's files."""
    for name, text in case["files"].items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")


def arguments(case: dict[str, Any]) -> list[str]:
    """A case's command line."""
    listed = any(word.startswith("--list") for word in case["args"])
    return [*case["args"], *([] if listed else ["--print"])]


def relevant(text: str) -> str:
    """Errors without progress and without the number of further ones."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return re.sub(r", and \d+ other diagnostic\(s\)", "", "\n".join(lines))


def answer(case: dict[str, Any]) -> dict[str, Any]:
    """What buildx says to one case."""
    with tempfile.TemporaryDirectory() as directory:
        written(case, Path(directory))
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
        found = subprocess.run(["docker", "buildx", "bake", *arguments(case)], cwd=directory, text=True, check=False,
                               input=case["stdin"], env={**environment, **case["env"]}, capture_output=True)
    return {"code": found.returncode, "out": found.stdout, "err": relevant(found.stderr)}


if __name__ == "__main__":
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))
    GOLDEN.write_text(json.dumps([{**case, **answer(case)} for case in cases], indent=1) + "\n", encoding="utf-8")
