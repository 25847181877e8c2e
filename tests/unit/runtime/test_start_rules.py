"""Pure rules of a start: mount options, program search, exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pallet.linux import mount as m
from pallet.runtime import options
from pallet.runtime.failure import StartFailureError, outcome
from pallet.runtime.search import find_program
from pallet.spec import runtime as oci
from pallet.zygote import messages

if TYPE_CHECKING:
    from pathlib import Path


def test_mount_options_are_sorted() -> None:
    parsed = options.parse(["rbind", "ro", "nosuid", "rslave", "rro", "size=5m", "mode=1777"])
    assert parsed.flags == m.MS_BIND | m.MS_REC | m.MS_RDONLY | m.MS_NOSUID
    assert parsed.propagation == [(m.MS_SLAVE, True)]
    assert parsed.recursive_set == m.Attr.RDONLY
    assert parsed.data == ["size=5m", "mode=1777"]
    assert parsed.attributes() == m.Attr.RDONLY | m.Attr.NOSUID


def test_a_later_option_wins() -> None:
    parsed = options.parse(["ro", "noexec", "rw", "exec", "rro", "rrw"])
    assert parsed.flags == 0
    assert parsed.attributes() == 0
    assert parsed.cleared_attributes() == m.Attr.RDONLY | m.Attr.NOEXEC
    assert (parsed.recursive_set, parsed.recursive_clear) == (0, m.Attr.RDONLY)


def test_time_options_replace_one_another() -> None:
    assert options.parse(["noatime"]).attributes() == m.Attr.NOATIME
    assert options.parse(["strictatime"]).attributes() == m.Attr.STRICTATIME
    assert options.parse(["noatime"]).cleared_attributes() & m.Attr.ATIME_MASK
    assert options.parse(["ro"]).cleared_attributes() == 0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a/plain").touch(0o644)
    (tmp_path / "b/plain").touch(0o755)
    (tmp_path / "a/dir").mkdir()
    return tmp_path


def test_path_skips_what_cannot_run(tree: Path) -> None:
    assert find_program("plain", f"{tree}/none:{tree}/a:{tree}/b") == f"{tree}/b/plain"


@pytest.mark.parametrize(("name", "words"), [
    ("nope", 'exec: "nope": executable file not found in $PATH'),
    ("", 'exec: "": executable file not found in $PATH'),
    ("dir", 'exec: "dir": executable file not found in $PATH'),
    ("{tree}/nope", 'exec: "{tree}/nope": stat {tree}/nope: no such file or directory'),
    ("{tree}/a/plain", 'exec: "{tree}/a/plain": permission denied'),
    ("{tree}/a", 'exec: "{tree}/a": permission denied'),
    ("{tree}/a/plain/x", 'exec: "{tree}/a/plain/x": stat {tree}/a/plain/x: not a directory'),
])
def test_words_of_a_failed_search(tree: Path, name: str, words: str) -> None:
    with pytest.raises(StartFailureError) as caught:
        find_program(name.format(tree=tree), f"{tree}/a")
    assert caught.value.message == words.format(tree=tree)


@pytest.mark.parametrize(("text", "code"), [
    ('exec: "x": executable file not found in $PATH: unknown', 127),
    ("stat /x: no such file or directory: unknown", 127),
    ('exec: "/etc": is a directory: unknown', 126),
    ("permission denied: unknown", 126),
    ("something else: unknown", 128),
])
def test_exit_codes(text: str, code: int) -> None:
    assert outcome(text) == (text, code)


def test_a_file_for_a_directory_gets_dockers_hint() -> None:
    text, code = outcome("mount a:b: not a directory: unknown")
    assert code == 127
    assert text.startswith("mount a:b: not a directory: unknown: Are you trying to mount a dir")


def _request(*kinds: oci.Namespace, **extra: object) -> messages.StartContainer:
    spec = oci.Spec(process=oci.Process(), linux=oci.Linux(namespaces=list(kinds)))
    return messages.StartContainer(id="x", spec=spec, shim_dir="/", **extra)  # type: ignore[arg-type]


def test_tag_is_written_first() -> None:
    """The zygote tells starts from the rest by it, without decoding."""
    assert messages.encoder.encode(_request()).startswith(b'{"type":"StartContainer"')
