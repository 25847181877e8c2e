"""Compile the ``.proto`` files of BuildKit's wire to Python. Run after changing one: ``make protos``.

The output is committed; it needs at least the ``protobuf`` release that it was compiled for.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
WIRE = Path("pallet/api/buildkit/wire")


def main() -> int:
    """Compile all of them in place."""
    names = sorted(str(path.relative_to(SOURCE)) for path in (SOURCE / WIRE).glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "--pyi_out=.", *names]
    return subprocess.run(command, cwd=SOURCE, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
