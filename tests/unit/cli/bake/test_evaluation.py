"""What bake files come to, held against what the real buildx 0.29.1 printed (``golden/bake.json``)."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from pallet.cli.commands.bake import BAKE_FLAGS, bake
from pallet.cli.flags import Flags
from pallet.cli.session import GLOBAL_FLAGS, Session
from tests.unit.cli.bake.record import GOLDEN, arguments, relevant, written

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

CASES = json.loads(GOLDEN.read_text(encoding="utf-8"))


def answered(case: dict[str, Any], directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run ``pallet bake`` on a case; return its exit code."""
    written(case, directory)
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "stdin", io.StringIO(case["stdin"]))
    flags = Flags(BAKE_FLAGS)
    flags.parse(arguments(case))
    return bake(Session(Flags(GLOBAL_FLAGS), case["env"]), flags)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_same_as_buildx(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                        capsys: pytest.CaptureFixture[str]) -> None:
    code = answered(case, tmp_path, monkeypatch)
    printed = capsys.readouterr()
    assert relevant(printed.err) == case["err"]
    assert printed.out == case["out"]
    assert code == case["code"]
