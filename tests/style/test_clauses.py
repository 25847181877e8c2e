"""Every clause of the registry protocol has a test, and ``docs/conformance.md`` says which."""

from __future__ import annotations

import ast
import csv
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "tests/conformance/oci_distribution"
ROW = re.compile(r"^\| ((?:end|docker|cat|ct|code|rule|auth)-\w+) \|.*\| ([^|]*) \|$", re.MULTILINE)
TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
# What a client does: these are tested where pulls, pushes, logins and builds are.
CLIENTS = {"docker-search", "rule-04", *(f"rule-{number}" for number in (*range(11, 21), 22)),
           *(f"auth-{number}" for number in (12, *range(16, 24)))}


@cache
def clauses() -> tuple[str, ...]:
    with (SUITE / "registry.tsv").open() as file:
        return tuple(row["id"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@cache
def table() -> dict[str, list[tuple[str, str]]]:
    text = (ROOT / "docs/conformance.md").read_text(encoding="utf-8")
    return {clause: TEST.findall(cell) for clause, cell in ROW.findall(text)}


@cache
def functions_of(name: str) -> frozenset[str]:
    path = ROOT / "tests" / name
    if not path.exists():
        return frozenset()
    return frozenset(node.name for node in ast.parse(path.read_text(encoding="utf-8")).body
                     if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def named_in(test: str) -> set[str]:
    """``test_ct28_to_ct31_ct38_x`` names ct28, ct29, ct30, ct31 and ct38."""
    words = test.removeprefix("test_").split("_")
    found = set(words)
    for before, word, after in zip(words, words[1:], words[2:], strict=False):
        first, last = re.fullmatch(r"([a-z]+)(\d+)", before), re.fullmatch(r"([a-z]+)(\d+)", after)
        if word == "to" and first and last and first[1] == last[1]:
            found |= {f"{first[1]}{number:0{len(first[2])}}" for number in range(int(first[2]), int(last[2]) + 1)}
    return found


def test_there_are_clauses() -> None:
    assert len(clauses()) >= 140
    assert len(set(clauses())) == len(clauses())


@pytest.mark.parametrize("clause", clauses())
def test_clause_has_a_test(clause: str) -> None:
    tests = table().get(clause)
    assert tests, f"{clause} has no row with tests in docs/conformance.md"
    missing = [f"{file}::{name}" for file, name in tests if name not in functions_of(file)]
    assert not missing, f"no such tests: {missing}"
    if clause not in CLIENTS:
        suite = str(SUITE.relative_to(ROOT / "tests"))
        assert any(file.startswith(suite) and clause.replace("-", "") in named_in(name)
                   for file, name in tests), f"no test of the suite has {clause} in its name"


def test_table_knows_no_other_clauses() -> None:
    assert set(table()) == set(clauses())
