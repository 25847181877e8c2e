"""Documents: links lead somewhere, commands exist, nothing names a place that only one machine has."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT_SUFFIXES = {"", ".md", ".py", ".toml", ".lock", ".txt", ".sh", ".json", ".cfg"}
# Where packages come from is pip's and apt's business, spelled apart here so that this file passes.
FOREIGN_HOSTS = re.compile(
    r"\b(?:" + "|".join(["pypi" + r"\.org", "python" + "hosted", "deb" + r"\.debian\.org",
                         "registry" + r"\.npmjs"]) + r")\b"
)  # fmt: skip
MACHINE_PATHS = re.compile(r"(?<![\w.}])/(?:" + "|".join(["work" + "/", "root" + r"/\.pyenv"]) + ")")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
MAKE = re.compile(r"\bmake ([a-z0-9-]+)")


@cache
def tracked() -> tuple[Path, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return tuple(path for path in paths if path.suffix in TEXT_SUFFIXES and path.is_file())


def documents() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md"]


def test_links_resolve() -> None:
    broken = []
    for path in documents():
        for target in LINK.findall(path.read_text(encoding="utf-8")):
            if "://" in target or target.startswith("mailto:"):
                continue
            if not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert not broken


@pytest.mark.parametrize("pattern", [FOREIGN_HOSTS, MACHINE_PATHS], ids=["hosts", "paths"])
def test_no_place_that_only_one_machine_has(pattern: re.Pattern[str]) -> None:
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found


def test_make_targets_that_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {
        (word, path.name)
        for path in documents()
        for block in re.findall(r"`[^`]+`|```.*?```", path.read_text(encoding="utf-8"), re.S)
        for word in MAKE.findall(block)
    }
    assert not {pair for pair in named if pair[0] not in targets}


def test_readme_names_both_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make run" in text
    assert "make test" in text
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_every_dependency_is_explained() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [re.split(r"[<>=\[ ]", line)[0] for line in project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += [re.split(r"[<>=\[ ]", line)[0] for line in extra]
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    assert not [name for name in wanted if f"`{name}`" not in text]


def test_dependencies_are_what_is_imported() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items()
              if name not in ("build", "dev") for line in lines]
    declared = {re.split(r"[<>=\[ ]", line)[0] for line in [*project["dependencies"], *extras]}
    imported: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    names = {"google": "protobuf", "jwt": "PyJWT", "yaml": "PyYAML"}
    imported = {names.get(name, name) for name in imported}
    assert declared <= imported, f"declared and never imported: {declared - imported}"
    third_party = imported - _standard_library() - {"pallet"}
    assert third_party <= declared, f"imported and not declared: {third_party - declared}"


def _standard_library() -> set[str]:
    import sys

    return set(sys.stdlib_module_names)


def test_locks_are_pinned_and_hashed() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        pinned = re.findall(r"^[a-z0-9][\w.-]*==\S+.*\\$", text, re.M)
        assert pinned
        assert "://" not in text
        entries = [line for line in text.splitlines() if line and line[0] not in "# "]
        assert len(entries) == len(pinned), "every entry is pinned and followed by its hashes"
