"""Write the two lock files: every dependency pinned, every file hashed, for every platform.

Run as ``make lock`` after changing dependencies in pyproject.toml. Needs ``uv`` (from the package
index, in the virtual environment or on PATH). Nothing but names, versions and hashes is written,
so the lock works with whatever index or mirror pip is configured for.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Written by tools/lock.py (make lock). Do not edit.\n"


def uv() -> str:
    """Path of uv, beside this interpreter or on PATH."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        sys.exit("uv is missing: .venv/bin/pip install uv")
    return found


def lock(target: Path, *extra: str) -> None:
    """Resolve pyproject.toml with ``extra`` options into ``target``."""
    result = subprocess.run(
        [uv(), "pip", "compile", "--universal", "--python-version", "3.11", "--generate-hashes",
         "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links",
         *extra, str(ROOT / "pyproject.toml")],
        check=True, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    if "://" in result.stdout:
        sys.exit(f"{target.name}: the lock names a host:\n{result.stdout}")
    target.write_text(HEADER + result.stdout, encoding="utf-8")
    print(f"wrote {target.relative_to(ROOT)}")


if __name__ == "__main__":
    lock(ROOT / "requirements.lock", "--extra", "build", "--extra", "registry", "--extra", "tui")
    lock(ROOT / "requirements-dev.lock", "--extra", "build", "--extra", "registry", "--extra", "tui",
         "--extra", "dev")
