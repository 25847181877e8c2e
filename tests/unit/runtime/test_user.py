"""Docker's rules for ``--user`` and ``--group-add``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pallet.runtime.failure import StartFailureError
from pallet.runtime.user import Identity, read_database, resolve

if TYPE_CHECKING:
    from pathlib import Path

PASSWD = ("# comment\nroot:x:0:0:root:/root:/bin/sh\n\nbroken\nbob:x:1000:1001::/home/bob:\n"
          "bob:x:5:5::/other:\n7:x:70:70::/seven:\nnohome:x:9:9\n")
GROUP = "root:x:0:\nwheel:x:10:root,bob\nbob:x:1001:\nextra:x:55:other\n8:x:80:\n"


@pytest.mark.parametrize(("user", "add", "expected"), [
    ("", [], Identity(uid=0, gid=0, groups=(0, 10), home="/root")),
    ("0", [], Identity(uid=0, gid=0, groups=(0, 10), home="/root")),
    ("bob", [], Identity(uid=1000, gid=1001, groups=(10, 1001), home="/home/bob")),
    ("1000", [], Identity(uid=1000, gid=1001, groups=(10, 1001), home="/home/bob")),
    ("bob:extra", [], Identity(uid=1000, gid=55, groups=(55,), home="/home/bob")),
    ("bob:99", [], Identity(uid=1000, gid=99, groups=(99,), home="/home/bob")),
    ("7", [], Identity(uid=7, gid=0, groups=(0,), home="/")),
    ("1234:4321", [], Identity(uid=1234, gid=4321, groups=(4321,), home="/")),
    ("nohome", [], Identity(uid=9, gid=9, groups=(9,), home="/")),
    ("bob", ["extra", "77", "wheel"],
     Identity(uid=1000, gid=1001, groups=(10, 55, 77, 1001), home="/home/bob")),
    (":extra", [], Identity(uid=0, gid=55, groups=(55,), home="/root")),
])
def test_resolve(user: str, add: list[str], expected: Identity) -> None:
    assert resolve(user, add, PASSWD, GROUP) == expected


@pytest.mark.parametrize(("user", "add", "message"), [
    ("carol", [], "unable to find user carol: no matching entries in passwd file"),
    ("bob:none", [], "unable to find group none: no matching entries in group file"),
    ("", ["none"], "Unable to find group none: no matching entries in group file"),
    ("2147483648", [], "uids and gids must be in range 0-2147483647"),
    ("-1", [], "uids and gids must be in range 0-2147483647"),
    ("1:2147483648", [], "uids and gids must be in range 0-2147483647"),
])
def test_refused(user: str, add: list[str], message: str) -> None:
    with pytest.raises(StartFailureError) as caught:
        resolve(user, add, PASSWD, GROUP)
    assert caught.value.message == message
    assert caught.value.plain


def test_without_any_database() -> None:
    assert resolve("", [], "", "") == Identity(uid=0, gid=0, groups=(0,), home="/")


def test_database_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert read_database(str(tmp_path / "fifo")) == ""
    assert read_database(str(tmp_path)) == ""
    assert read_database(str(tmp_path / "missing")) == ""
