"""Every row on the Dockerfile language has a test, and ``docs/conformance.md`` says which."""

from __future__ import annotations

import ast
import csv
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = "conformance/dockerfile"
SECTION = "## The Dockerfile language"
ROW = re.compile(r"^\| ([a-z]+-\d\d) \|.*\| ([^|]*) \|$", re.MULTILINE)
TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


@cache
def rows() -> tuple[str, ...]:
    with (ROOT / "tests" / SUITE / "dockerfile.tsv").open() as file:
        return tuple(row["id"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@cache
def table() -> dict[str, list[tuple[str, str]]]:
    text = (ROOT / "docs/conformance.md").read_text(encoding="utf-8").partition(SECTION)[2]
    return {row: TEST.findall(cell) for row, cell in ROW.findall(text.partition("\n## ")[0])}


@cache
def module(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """Names of its tests, and the rows that its text names."""
    path = ROOT / "tests" / name
    if not path.exists():
        return frozenset(), frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return frozenset(tests), frozenset(strings & set(rows()))


def test_there_are_rows() -> None:
    assert len(rows()) >= 200
    assert len(set(rows())) == len(rows())


@pytest.mark.parametrize("row", rows())
def test_row_has_a_test(row: str) -> None:
    tests = table().get(row)
    assert tests, f"{row} has no row with tests in docs/conformance.md"
    missing = [f"{file}::{name}" for file, name in tests if name not in module(file)[0]]
    assert not missing, f"no such tests: {missing}"
    silent = [file for file, _ in tests if file.startswith(SUITE) and row not in module(file)[1]]
    assert not silent, f"{silent} do not name {row}"


def test_table_knows_no_other_rows() -> None:
    assert set(table()) == set(rows())
