"""Owners by name, before and after they meet the files that know them; held against dockerd 28.5.2."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pallet.build.dockerfile.owners import has_names, owner_of
from pallet.build.ops.fileworker import lookup_owner
from pallet.errors import InvalidParameterError
from pallet.spec.dockerfile.errors import DockerfileError

if TYPE_CHECKING:
    from pathlib import Path

OWNERS = {
    "nope": (0, 0), "user:nope": (7, 8), "nope:grp": (0, 9), "user": (7, 8), "12:nope": (12, 12), "user:": (7, 0),
    "user:grp": (7, 9), ":grp": (0, 9), ":5": (0, 5), "5:": (5, 0), "5": (5, 5), "1:2:3": (1, 1), "root": (0, 0),
    "nope:9": (0, 9), "root:grp": (0, 9), "root:nope": (0, 0)}


@pytest.mark.parametrize("text", OWNERS)
def test_names_are_looked_up_in_the_files_below(text: str, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nuser:x:7:8::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("grp:x:9:\n")
    root_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert lookup_owner(root_fd, owner_of(text, classic=False, scratch=False)) == OWNERS[text]
        if "nope" in text:
            with pytest.raises(InvalidParameterError, match=r"no such (user|group): nope$"):
                lookup_owner(root_fd, owner_of(text, classic=True, scratch=False))
    finally:
        os.close(root_fd)


def test_where_nothing_is_below() -> None:
    assert owner_of("root:root", classic=False, scratch=True) == "0:0"
    assert owner_of("4:5", classic=False, scratch=True) == "4:5"
    assert owner_of("", classic=False, scratch=True) == ""
    for text in ("nope", "0:nope", "nope:0"):
        with pytest.raises(DockerfileError, match="invalid user index: -1: FROM scratch has no users: nope"):
            owner_of(text, classic=False, scratch=True)


def test_what_has_to_be_looked_up() -> None:
    assert [text for text in ("", "root", "1:2", "root:0", ":5", "node", "0:node", "node:") if has_names(text)] == [
        "node", "0:node", "node:"]
