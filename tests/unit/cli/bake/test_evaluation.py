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


@pytest.mark.parametrize(("name", "text"), [
    ("a.hcl", "x = " + "(" * 3000 + "1" + ")" * 3000), ("a.hcl", "x = " + "1+" * 20000 + "1"),
    ("a.json", '{"target":{"a":{"args":' + "[" * 5000 + "]" * 5000 + "}}}")])
def test_nesting_has_a_limit(name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    case = {"files": {name: text}, "args": ["-f", name], "env": {}, "stdin": ""}
    assert answered(case, tmp_path, monkeypatch) == 1
    assert capsys.readouterr().err in ("ERROR: the definition is nested too deeply\n",
                                       "ERROR: failed to parse a.json: parsing json: invalid JSON after offset 0\n")


def test_a_value_that_a_file_names_often_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    rows += [f"{here}: &{here} [{','.join(['*' + below] * 9)}]" for below, here in zip("abcdefghi", "bcdefghij",
                                                                                       strict=True)]
    case = {"files": {"a.yaml": "\n".join([*rows, "services: {web: {build: .}}"])}, "args": ["-f", "a.yaml"],
            "env": {}, "stdin": ""}
    assert answered(case, tmp_path, monkeypatch) == 0
    assert '"web"' in capsys.readouterr().out
