"""Attestations as files beside a result's own."""

from __future__ import annotations

import io
import json
import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from pallet.build import subjects
from pallet.build.export import statements
from pallet.build.export.attest import PROVENANCE, SPDX, Attested
from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from pathlib import Path

BILL = Attested("sbom.spdx.json", SPDX, b'{"name":"a\\nb","packages":[{"x":1}]}')
ORIGIN = Attested("provenance.json", PROVENANCE, b'{"builder":{"id":""}}')


def subjects_of(tree: Path) -> io.BytesIO:
    found = io.BytesIO()
    fd = os.open(tree, os.O_RDONLY)
    try:
        subjects.write(fd, found)
    finally:
        os.close(fd)
    return found


def statement(attested: Attested, about: io.BytesIO) -> str:
    out = io.BytesIO()
    statements.write_statement(attested, about, out)
    return out.getvalue().decode()


def test_a_statement_is_about_every_regular_file(tmp_path: Path) -> None:
    """In the order of their paths; links, pipes and directories are none."""
    (tmp_path / "a/empty").mkdir(parents=True)
    files = {"a/z": b"", "a.txt": b"1" * 100_000, 'quoted "\\': b"2", "caf\u00e9": b"3", "b": b"4"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link").symlink_to("b")
    (tmp_path / "out").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    found = json.loads(statement(BILL, subjects_of(tmp_path)))
    assert [one["name"] for one in found["subject"]] == ["a/z", "a.txt", "b", "caf\u00e9", 'quoted "\\']
    assert {one["name"]: one["digest"] for one in found["subject"]} == {
        name: {"sha256": sha256(data).hexdigest()} for name, data in files.items()}
    assert (found["predicateType"], found["predicate"]) == (SPDX, json.loads(BILL.predicate))


def test_a_name_that_is_no_text_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff-name", "wb"):
        pass
    (subject,) = json.loads(statement(ORIGIN, subjects_of(tmp_path)))["subject"]
    assert subject["name"] == "\ufffd-name"


def test_a_tree_without_files_and_a_deep_one(tmp_path: Path) -> None:
    assert json.loads(statement(ORIGIN, subjects_of(tmp_path)))["subject"] == []
    (tmp_path / ("d/" * 200)).mkdir(parents=True)
    (tmp_path / ("d/" * 200) / "f").touch()
    (subject,) = json.loads(statement(ORIGIN, subjects_of(tmp_path)))["subject"]
    assert subject["name"] == "d/" * 200 + "f"


def test_a_statement_is_indented_as_go_does_it(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "g").write_text("y")
    text = statement(ORIGIN, subjects_of(tmp_path))
    assert text == json.dumps(json.loads(text), indent=2)


def test_names_have_a_prefix_and_the_platform_where_several_share_a_directory() -> None:
    assert statements.names_of([ORIGIN, BILL], "") == ["provenance.json", "sbom.spdx.json"]
    assert statements.names_of([ORIGIN, BILL], "my-", "linux_arm64") == [
        "my-provenance.linux_arm64.json", "my-sbom.spdx.linux_arm64.json"]


@pytest.mark.parametrize("prefix", ["att/", "../../", "/", "\0", "x" * 250])
def test_a_prefix_stays_in_the_directory(prefix: str) -> None:
    with pytest.raises(InvalidParameterError, match="invalid attestation path name"):
        statements.names_of([ORIGIN], prefix)


def test_two_statements_of_one_name() -> None:
    with pytest.raises(InvalidParameterError, match=r"duplicate attestation path name provenance\.json"):
        statements.names_of([ORIGIN, ORIGIN._replace(kind=SPDX)], "")
