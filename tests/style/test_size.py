"""Size and naming rules that no linter checks: they keep files readable in one sitting."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for top in ("src", "tests", "bench", "tools")
    for path in (ROOT / top).rglob("*.py")
    if "__pycache__" not in path.parts and not path.name.endswith("_pb2.py")
)
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
VAGUE = {"utils", "util", "common", "misc", "helpers", "helper", "shared", "stuff"}


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_there_are_sources() -> None:
    assert len(SOURCES) > 50


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_file_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= MAX_FILE_LINES, f"{lines} lines"
    long = []
    for node in functions(ast.parse(text)):
        size = (node.end_lineno or node.lineno) - node.lineno + 1
        if size > MAX_FUNCTION_LINES:
            long.append(f"{node.name} (line {node.lineno}): {size} lines")
    assert not long, "; ".join(long)


def test_names_say_what_a_module_holds() -> None:
    assert not [name for name, path in zip(IDS, SOURCES, strict=True) if path.stem in VAGUE]


def test_modules_of_the_package_have_a_docstring() -> None:
    bare = [
        name
        for name, path in zip(IDS, SOURCES, strict=True)
        if name.startswith("src/") and path.stat().st_size and not ast.get_docstring(_parsed(path))
    ]
    assert not bare


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
