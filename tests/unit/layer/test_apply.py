"""layer/apply: what a tar becomes on disk, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pallet.errors import InvalidParameterError, PalletError
from pallet.layer.apply import apply
from pallet.layer.model import (
    ArchiveError,
    BreakoutError,
    LimitError,
    Limits,
    MissingLinkTargetError,
)
from tests.support.layers import (
    COMPRESSORS,
    EPOCH,
    Member,
    build,
    directory,
    hardlink,
    symlink,
    tree,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}


@pytest.mark.parametrize("form", FORMS)
def test_files_directories_and_links(tmp_path: Path, form: str) -> None:
    archive = build(
        directory("etc", 0o750), Member("etc/passwd", b"root", mode=0o640, mtime=EPOCH + 5),
        symlink("etc/alias", "passwd"), hardlink("etc/again", "etc/passwd"),
        Member("empty"), form=FORMS[form])
    applied = unpack(archive, tmp_path / "t")
    root = tmp_path / "t"
    assert tree(root) == {"etc": "dir", "etc/passwd": "file:root", "etc/alias": "link:passwd",
                          "etc/again": "file:root", "empty": "file:"}
    assert (root / "etc").stat().st_mode & 0o7777 == 0o750
    assert (root / "etc/passwd").stat().st_mode & 0o7777 == 0o640
    assert (root / "etc/passwd").stat().st_mtime == EPOCH + 5
    assert (root / "etc").stat().st_mtime == EPOCH
    assert (root / "etc/again").stat().st_ino == (root / "etc/passwd").stat().st_ino
    assert os.lstat(root / "etc/alias").st_mtime == EPOCH
    assert applied.diff_id == f"sha256:{hashlib.sha256(archive).hexdigest()}"
    assert (applied.size_bytes, applied.entries) == (10, 5)
    assert applied.implied_dirs == [b""]


@pytest.mark.parametrize("form", ["pax", "gnu"])
def test_long_names_and_links(tmp_path: Path, form: str) -> None:
    long = "/".join(["d" * 60] * 4)
    archive = build(Member(f"{long}/f", b"x"), hardlink("h", f"{long}/f"),
                    symlink("s", f"/{long}/f"), form=FORMS[form])
    unpack(archive, tmp_path / "t")
    assert (tmp_path / "t" / long / "f").read_bytes() == b"x"
    assert (tmp_path / "t" / "h").read_bytes() == b"x"
    assert os.readlink(tmp_path / "t" / "s") == f"/{long}/f"


def test_ustar_prefix(tmp_path: Path) -> None:
    name = "/".join(["p" * 50] * 3) + "/file"
    unpack(build(Member(name, b"x"), form=tarfile.USTAR_FORMAT), tmp_path / "t")
    assert (tmp_path / "t" / name).read_bytes() == b"x"


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_compressions(tmp_path: Path, compression: str) -> None:
    archive = build(Member("f", os.urandom(300_000)), Member("g", b"tail"))
    applied = unpack(COMPRESSORS[compression](archive), tmp_path / "t")
    assert applied.diff_id == f"sha256:{hashlib.sha256(archive).hexdigest()}"
    assert (tmp_path / "t/g").read_bytes() == b"tail"
    assert applied.stream_bytes == len(archive)


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz", "zstd"])
@pytest.mark.parametrize("cut", [1, 5, 400])
def test_truncated_compression_is_noticed(tmp_path: Path, compression: str, cut: int) -> None:
    packed = COMPRESSORS[compression](build(Member("f", os.urandom(3000))))
    with pytest.raises(ArchiveError, match="EOF"):
        unpack(packed[:-cut], tmp_path / "t")


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz"])
def test_damaged_compression_is_noticed(tmp_path: Path, compression: str) -> None:
    packed = bytearray(COMPRESSORS[compression](build(Member("f", os.urandom(3000)))))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(ArchiveError):
        unpack(bytes(packed), tmp_path / "t")


def test_gzip_checksum_is_verified(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(build(Member("f", b"x"))))
    packed[-6] ^= 1
    with pytest.raises(ArchiveError, match="gzip"):
        unpack(bytes(packed), tmp_path / "t")


def test_trailing_garbage_after_gzip(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="gzip"):
        unpack(gzip.compress(build(Member("f", b"x"))) + b"garbage!" * 9, tmp_path / "t")


def test_bytes_after_the_archive_belong_to_the_diff_id(tmp_path: Path) -> None:
    archive = build(Member("f", b"x")) + bytes(3 << 20)
    applied = unpack(archive, tmp_path / "t")
    assert applied.diff_id == f"sha256:{hashlib.sha256(archive).hexdigest()}"
    assert applied.stream_bytes == len(archive)


def test_whoever_hashes_the_same_bytes_need_not_have_them_hashed_again(tmp_path: Path) -> None:
    (tmp_path / "l.tar").write_bytes(build(Member("f", b"x")))
    (tmp_path / "t").mkdir()
    with (tmp_path / "l.tar").open("rb") as source:
        applied = apply(source.fileno(), str(tmp_path / "t"), hashed=False)
    assert (applied.diff_id, tree(tmp_path / "t")) == ("", {"f": "file:x"})


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/../x", "./../../etc/passwd", ".."])
def test_names_outside_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BreakoutError, match="outside"):
        unpack(build(Member("a/b", b""), Member(name, b"evil")), tmp_path / "t")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("name", "path"), [
    ("/etc/x", "etc/x"), ("./etc//x", "etc/x"), ("a/../etc/x", "etc/x"), ("etc/./x", "etc/x")])
def test_names_are_cleaned(tmp_path: Path, name: str, path: str) -> None:
    unpack(build(Member(name, b"here")), tmp_path / "t")
    assert (tmp_path / "t" / path).read_bytes() == b"here"


@pytest.mark.parametrize("target", ["../../outside", "/outside", "/../../outside", "x/../../outside"])
def test_writing_through_a_link_stays_inside(tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").mkdir()
    unpack(build(symlink("link", target), Member("link/file", b"x")), tmp_path / "t")
    assert list((tmp_path / "outside").iterdir()) == []
    assert (tmp_path / "t/outside/file").read_bytes() == b"x"


def test_link_to_real_host_file_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("safe")
    unpack(build(symlink("f", str(victim)), Member("f", b"evil")), tmp_path / "t")
    assert victim.read_text() == "safe"
    assert (tmp_path / "t/f").read_bytes() == b"evil"


def test_link_chain_and_loop(tmp_path: Path) -> None:
    unpack(build(symlink("a", "b"), symlink("b", "c/d"), Member("a/f", b"x")), tmp_path / "t")
    assert (tmp_path / "t/c/d/f").read_bytes() == b"x"
    with pytest.raises(InvalidParameterError, match="symbolic links"):
        unpack(build(symlink("a", "b"), symlink("b", "a"), Member("a/f", b"x")), tmp_path / "u")


def test_hardlink_then_write_breaks_the_link(tmp_path: Path) -> None:
    unpack(build(Member("a", b"first"), hardlink("b", "a"), Member("b", b"other")), tmp_path / "t")
    assert tree(tmp_path / "t") == {"a": "file:first", "b": "file:other"}


@pytest.mark.parametrize("target", ["../../etc/passwd", "/../etc/passwd"])
def test_hardlink_outside_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(BreakoutError, match="invalid hardlink"):
        unpack(build(hardlink("x", target)), tmp_path / "t")


def test_hardlink_through_a_symlinked_parent_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    with pytest.raises(MissingLinkTargetError):
        unpack(build(symlink("d", "../.."), hardlink("x", "d/secret")), tmp_path / "t")


def test_hardlink_to_a_symlink_links_the_symlink(tmp_path: Path) -> None:
    unpack(build(symlink("s", "/etc"), hardlink("h", "s"), Member("h/f", b"x")), tmp_path / "t")
    assert os.readlink(tmp_path / "t/h") == "/etc"
    assert (tmp_path / "t/etc/f").read_bytes() == b"x"


def test_hardlink_to_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="operation not permitted"):
        unpack(build(directory("d"), hardlink("x", "d")), tmp_path / "t")


def test_missing_hardlink_target_is_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(MissingLinkTargetError, match="no such file"):
        unpack(build(hardlink("new", "usr/bin/old")), tmp_path / "t")


def test_hardlink_into_a_lower_layer_is_copied_up(tmp_path: Path) -> None:
    unpack(build(directory("bin", 0o751), Member("bin/old", b"tool", mode=0o4755, mtime=EPOCH + 9),
                 symlink("bin/alias", "old")), tmp_path / "low")
    lower = os.open(tmp_path / "low", os.O_RDONLY | os.O_DIRECTORY)
    try:
        applied = unpack(build(hardlink("new", "bin/old"), hardlink("also", "bin/alias")),
                         tmp_path / "t", lower_fds=[lower])
    finally:
        os.close(lower)
    assert tree(tmp_path / "t") == {"bin": "dir", "bin/old": "file:tool", "new": "file:tool",
                                    "bin/alias": "link:old", "also": "link:old"}
    status = (tmp_path / "t/new").stat()
    assert (status.st_mode & 0o7777, status.st_mtime, status.st_nlink) == (0o4755, EPOCH + 9, 2)
    assert applied.size_bytes == 4
    assert applied.implied_dirs == [b"", b"bin"]


def test_entries_replace_what_was_there(tmp_path: Path) -> None:
    unpack(build(
        directory("a"), Member("a/x", b"1"), Member("a", b"now a file"),
        Member("b", b"file"), directory("b"), Member("b/y", b"2"),
        symlink("c", "a"), directory("c"), Member("c/z", b"3"),
        Member("d", b"1"), symlink("d", "a")), tmp_path / "t")
    assert tree(tmp_path / "t") == {
        "a": "file:now a file", "b": "dir", "b/y": "file:2", "c": "dir", "c/z": "file:3",
        "d": "link:a"}


def test_directory_twice_keeps_its_content_and_takes_the_last_mode(tmp_path: Path) -> None:
    unpack(build(directory("d", 0o755), Member("d/f", b"x"), directory("d", 0o711)), tmp_path / "t")
    assert (tmp_path / "t/d/f").exists()
    assert (tmp_path / "t/d").stat().st_mode & 0o777 == 0o711


def test_file_as_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="not a directory"):
        unpack(build(Member("f", b"x"), Member("f/g", b"y")), tmp_path / "t")


def test_implied_directories_are_reported_parents_first(tmp_path: Path) -> None:
    applied = unpack(build(directory("./"), Member("a/b/c", b""), directory("a/d"),
                           Member("a/d/e/f", b"")), tmp_path / "t")
    assert applied.implied_dirs == [b"a", b"a/b", b"a/d/e"]


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("name", ["./", ".", "/", "a/.."])
def test_the_root_can_only_be_a_directory(tmp_path: Path, kind: bytes, name: str) -> None:
    with pytest.raises(PalletError):
        unpack(build(Member(name, kind=kind, link="x")), tmp_path / "t")


def test_root_entry_sets_the_roots_mode_and_time(tmp_path: Path) -> None:
    applied = unpack(build(directory("./", 0o711), Member("f", b"")), tmp_path / "t")
    assert (tmp_path / "t").stat().st_mode & 0o7777 == 0o711
    assert (tmp_path / "t").stat().st_mtime == EPOCH
    assert applied.implied_dirs == []


def test_special_bits_survive(tmp_path: Path) -> None:
    unpack(build(directory("tmp", 0o1777), directory("s", 0o2755), Member("s/f", b"x", mode=0o644),
                 Member("su", b"x", mode=0o4755), Member("sg", mode=0o2711)), tmp_path / "t")
    root = tmp_path / "t"
    assert {name: oct((root / name).stat().st_mode & 0o7777) for name in ("tmp", "s", "su", "sg")} \
        == {"tmp": "0o1777", "s": "0o2755", "su": "0o4755", "sg": "0o2711"}


def test_umask_does_not_matter_and_is_restored(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        unpack(build(Member("f", b"x", mode=0o666), directory("d", 0o777)), tmp_path / "t")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert (tmp_path / "t/f").stat().st_mode & 0o777 == 0o666
    assert (tmp_path / "t/d").stat().st_mode & 0o777 == 0o777


def test_pax_values_win(tmp_path: Path) -> None:
    unpack(build(Member("short", b"x", pax={"path": "ünïcode/näme", "mtime": "1234567890.123456789"})),
           tmp_path / "t")
    status = (tmp_path / "t/ünïcode/näme").stat()
    assert status.st_mtime_ns == 1234567890_123456789


@pytest.mark.parametrize("mtime", ["-5.5", "99999999999999"])
def test_impossible_times_become_the_epoch(tmp_path: Path, mtime: str) -> None:
    unpack(build(Member("f", b"x", pax={"mtime": mtime})), tmp_path / "t")
    assert (tmp_path / "t/f").stat().st_mtime == 0


def test_user_xattrs_are_set_and_overlays_own_are_not(tmp_path: Path) -> None:
    unpack(build(Member("f", b"x", pax={
        "SCHILY.xattr.user.colour": "blue", "SCHILY.xattr.user.overlay.redirect": "/etc"}),
        directory("d", pax={"SCHILY.xattr.user.kind": "dir",
                            "SCHILY.xattr.trusted.overlay.opaque": "y"})), tmp_path / "t")
    assert {name: os.getxattr(tmp_path / "t/f", name) for name in os.listxattr(tmp_path / "t/f")} \
        == {"user.colour": b"blue"}
    assert os.listxattr(tmp_path / "t/d") == ["user.kind"]


def test_gnu_base256_size_and_ids(tmp_path: Path) -> None:
    archive = bytearray(build(Member("f", b"data"), form=tarfile.GNU_FORMAT))
    archive[124:136] = b"\x80" + (4).to_bytes(11, "big")
    _fix_checksum(archive)
    applied = unpack(bytes(archive), tmp_path / "t")
    assert (tmp_path / "t/f").read_bytes() == b"data"
    assert applied.size_bytes == 4


def _fix_checksum(archive: bytearray) -> None:
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])


def test_v7_directory_by_slash(tmp_path: Path) -> None:
    archive = bytearray(build(Member("d/", b""), form=tarfile.USTAR_FORMAT))
    archive[156] = 0
    archive[257:512] = bytes(255)
    archive[0:3] = b"d/\0"
    _fix_checksum(archive)
    unpack(bytes(archive), tmp_path / "t")
    assert (tmp_path / "t/d").is_dir()


@pytest.mark.parametrize("damage", [
    lambda a: a.__setitem__(slice(148, 156), b"0000000\0"),
    lambda a: a.__setitem__(0, a[0] ^ 1),
    lambda a: a.__setitem__(slice(148, 156), b"garbage\0"),
])
def test_bad_checksum(tmp_path: Path, damage: Callable[[bytearray], None]) -> None:
    archive = bytearray(build(Member("f", b"data")))
    damage(archive)
    with pytest.raises(ArchiveError, match="invalid tar header"):
        unpack(bytes(archive), tmp_path / "t")


@pytest.mark.parametrize(("field", "value"), [
    (slice(124, 136), b"99999999999\0"), (slice(124, 136), b"-0000000004\0"),
    (slice(100, 108), b"0o00644\0"), (slice(108, 116), b"+000000\0"),
    (slice(124, 136), b"\xff" + b"\xff" * 11)])
def test_bad_numbers(tmp_path: Path, field: slice, value: bytes) -> None:
    archive = bytearray(build(Member("f", b"data")))
    archive[field] = value
    _fix_checksum(archive)
    with pytest.raises(ArchiveError, match="invalid tar header"):
        unpack(bytes(archive), tmp_path / "t")


@pytest.mark.parametrize("length", [100, 511, 512, 600, 1024, 1500])
def test_truncated_archive(tmp_path: Path, length: int) -> None:
    archive = build(Member("f", b"x" * 2000))
    with pytest.raises(ArchiveError, match="EOF"):
        unpack(archive[:length], tmp_path / "t")


def test_missing_end_marker_is_an_end(tmp_path: Path) -> None:
    unpack(build(Member("f", b"x"))[:1024], tmp_path / "t")


@pytest.mark.parametrize("length", [1023, 1000, 513])
def test_missing_padding_is_an_end(tmp_path: Path, length: int) -> None:
    """As Go has it; the archives of umoci end so."""
    archive = build(Member("f", b"x"))[:length]
    assert unpack(archive, tmp_path / "t").diff_id == f"sha256:{hashlib.sha256(archive).hexdigest()}"
    assert tree(tmp_path / "t") == {"f": "file:x"}
    with pytest.raises(ArchiveError, match="EOF"):
        unpack(archive[:512], tmp_path / "u")
    assert (tmp_path / "t/f").read_bytes() == b"x"


def test_one_zero_block_and_then_data_is_damage(tmp_path: Path) -> None:
    one = build(Member("f", b"x"))[:1024]
    with pytest.raises(ArchiveError):
        unpack(one + bytes(512) + one, tmp_path / "t")


def test_empty_stream_is_an_empty_layer(tmp_path: Path) -> None:
    applied = unpack(b"", tmp_path / "t")
    assert applied.entries == 0
    assert applied.diff_id == f"sha256:{hashlib.sha256(b'').hexdigest()}"


@pytest.mark.parametrize("kind", [b"V", b"D", b"Z"])
def test_unknown_entry_type(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ArchiveError, match=f"unhandled tar header type {kind[0]}"):
        unpack(build(Member("f", kind=kind)), tmp_path / "t")


@pytest.mark.parametrize("record", [b"5 a=b\n", b"x path=a\n", b"99 path=abc\n", b"9 path=a\0\n",
                                    b"8 pathab\n", b"11 size=-12\n", b"12 mtime=abc\n"])
def test_bad_pax_records(tmp_path: Path, record: bytes) -> None:
    head = tarfile.TarInfo("pax")
    head.type, head.size = b"x", len(record)
    archive = head.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + build(Member("f", b""))
    with pytest.raises(ArchiveError, match="invalid tar header"):
        unpack(archive, tmp_path / "t")


def test_bomb_by_bytes(tmp_path: Path) -> None:
    packed = gzip.compress(build(Member("f", bytes(5 << 20))))
    with pytest.raises(LimitError, match="larger than the 1048576 bytes"):
        unpack(packed, tmp_path / "t", limits=Limits(max_bytes=1 << 20))


def test_bomb_by_entries(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="more than the 3 entries"):
        unpack(build(*[Member(f"f{n}") for n in range(4)]), tmp_path / "t",
               limits=Limits(max_entries=3))


def test_too_long_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="too long"):
        unpack(build(Member("/".join(["a"] * 3000), b"")), tmp_path / "t")


def test_aufs_bookkeeping_is_skipped(tmp_path: Path) -> None:
    applied = unpack(build(directory(".wh..wh.plnk"), Member(".wh..wh.plnk/1.2", b"x"),
                           Member(".wh..wh.aufs", b""), Member("f", b"y")), tmp_path / "t")
    assert tree(tmp_path / "t") == {"f": "file:y"}
    assert applied.size_bytes == 1


@pytest.mark.parametrize("name", [".wh.", "a/.wh..", ".wh..."])
def test_invalid_whiteout_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(BreakoutError, match="whiteout"):
        unpack(build(Member(name)), tmp_path / "t")


NAMES = st.text(alphabet="ab./\0é-", min_size=1, max_size=12)
MEMBERS = st.builds(
    Member, NAMES.map(lambda text: text.replace("\0", "w")),
    data=st.binary(max_size=3),
    kind=st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]),
    link=st.sampled_from(["a", "/", "..", "../..", "/a/b", "b/../..", "a/b", "."]),
    mode=st.integers(0, 0o777))


@settings(max_examples=150, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MEMBERS, max_size=8), st.data())
def test_nothing_ever_lands_outside(tmp_path: Path, members: list[Member], data: st.DataObject) -> None:
    """Whatever the entries, the archive is unpacked inside or refused as one of our errors."""
    scratch = tmp_path / os.urandom(8).hex()
    (scratch / "outer").mkdir(parents=True)
    (scratch / "outer/canary").write_text("alive")
    archive = bytearray(build(*members))
    if data.draw(st.booleans()):
        archive[data.draw(st.integers(0, len(archive) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(PalletError, OSError):
        unpack(bytes(archive), scratch / "outer/t")
    assert {path.name for path in (scratch / "outer").iterdir()} == {"canary", "t", "t.tar"}
    assert {path.name for path in scratch.iterdir()} == {"outer"}
    assert (scratch / "outer/canary").read_text() == "alive"


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(alphabet="abcé", min_size=1, max_size=120),
                       st.binary(max_size=2000), max_size=6),
       st.sampled_from(list(FORMS)))
def test_same_files_as_the_standard_library(
    tmp_path: Path, files: dict[str, bytes], form: str
) -> None:
    """A peer: Python's tarfile reads the same names and contents from the archive."""
    files = {name: data for name, data in files.items() if len(name.encode()) < 100}
    archive = build(*[Member(name, data) for name, data in files.items()], form=FORMS[form])
    target = tmp_path / os.urandom(8).hex()
    unpack(archive, target)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        expected = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    assert {path.name: path.read_bytes() for path in target.iterdir()} == expected
