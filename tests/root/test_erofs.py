"""EROFS images against directories: the same tar through both must show the same tree."""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pallet.errors import PalletError
from pallet.layer.erofstarget import write_image
from pallet.layer.model import ArchiveError, BreakoutError, LimitError, Limits
from pallet.linux import fsmount
from pallet.paths import DataPaths
from pallet.storage.erofs import LayerMounts
from pallet.storage.layertable import LayerTable
from pallet.storage.metadata import Metadata
from tests.support.layers import (
    COMPRESSORS,
    Member,
    build,
    directory,
    hardlink,
    symlink,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pallet.layer.model import Applied
    from pallet.types import DiffID

pytestmark = pytest.mark.needs("root", "overlay", "erofs")


_START_NS = time.time_ns() - 10**9


def image(archive: bytes, path: Path, **options: Any) -> Applied:
    """Write ``archive`` as an image."""
    source = path.with_name("source.tar")
    source.write_bytes(archive)
    source_fd = os.open(source, os.O_RDONLY)
    image_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        return write_image(source_fd, image_fd, **options)
    finally:
        os.close(source_fd)
        os.close(image_fd)


class Mounted:
    """An image mounted nowhere, for a ``with``: gives the path of its root."""

    def __init__(self, path: Path) -> None:
        self._fd = fsmount.detached("erofs", [("source", str(path))], flags=("ro",))

    def __enter__(self) -> Path:
        return Path(f"/proc/{os.getpid()}/fd/{self._fd}")

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)


def facts(root: str | Path) -> dict[bytes, tuple[Any, ...]]:
    """Everything a tree shows, by path; hard links by the names that share an inode.

    What no entry describes (whiteouts, implied directories) was made now, or in an image in 1970.
    """
    found: dict[bytes, tuple[Any, ...]] = {}
    names: dict[int, list[bytes]] = {}
    top = os.fsencode(root)
    for base, directories, files in os.walk(top + b"/."):
        for name in [b".", *directories, *files]:
            path = os.path.join(base, name)
            relative = os.path.relpath(path, top + b"/.")
            status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode):
                names.setdefault(status.st_ino, []).append(relative)
            content: Any = None
            if stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            now = _START_NS <= status.st_mtime_ns < _START_NS + 3600 * 10**9
            times = 0 if now else status.st_mtime_ns
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False)
                      for key in os.listxattr(path, follow_symlinks=False)}
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            found[relative] = (status.st_mode, status.st_uid, status.st_gid, times, status.st_nlink,
                               status.st_rdev, size, content, xattrs)
    for shared in names.values():
        for name in shared:
            found[name] += (tuple(sorted(shared)),)
    return found


def assert_same(archive: bytes, tmp_path: Path) -> None:
    """Unpack both ways and compare."""
    target = tmp_path / "tree"
    expected = unpack(archive, target)
    applied = image(archive, tmp_path / "image")
    assert applied == expected
    with Mounted(tmp_path / "image") as root:
        assert facts(root) == facts(target)



EVERYTHING = (
    directory("./", 0o711, uid=1, gid=2), directory("etc", 0o2775, uid=70000, gid=4_000_000_000),
    Member("etc/a", b"hello", mode=0o4755, uid=3_000_000_000, mtime=1600000000.125),
    Member("etc/empty"), Member("etc/page", b"p" * 4096), Member("etc/odd", b"o" * 4097),
    hardlink("etc/a2", "etc/a"), hardlink("a3", "etc/a2"),
    symlink("short", "etc/a", uid=5), symlink("long", "x/" * 1500), symlink("edge", "y" * 448),
    hardlink("short2", "short"),
    Member("zero", kind=tarfile.CHRTYPE, dev=(1, 5), mode=0o666),
    Member("disk", kind=tarfile.BLKTYPE, dev=(259, 70000), mode=0o600, uid=8),
    Member("pipe", kind=tarfile.FIFOTYPE, mode=0o622),
    Member("n" * 255, b"long name"), Member("\udcff\udc80bad", b"not UTF-8"),
    Member("!", b"sorts before the dot"), Member("-", b"-"),
    Member("old", b"1", mtime=1), Member("future", b"1", mtime=5_000_000_000),
    Member("attrs", b"x", pax={"SCHILY.xattr.user.small": "v", "SCHILY.xattr.trusted.t": "w",
                               "SCHILY.xattr.user.big": "b" * 3000,
                               "SCHILY.xattr.security.thing": "s"}),
    directory("withattrs", pax={"SCHILY.xattr.user.d": "e" * 700}),
    directory("many"), *[Member(f"many/{n:04}{'m' * (n % 180)}", b"%d" % n) for n in range(700)],
    Member("etc/.wh.gone"), directory("opaque"), Member("opaque/.wh..wh..opq"),
    Member("opaque/new", b"1"), Member("implied/deep/file", b"1"),
    Member("big", bytes(range(256)) * 9000),
)


def test_everything_a_layer_can_hold(tmp_path: Path) -> None:
    assert_same(build(*EVERYTHING), tmp_path)


def test_entries_that_replace_others(tmp_path: Path) -> None:
    assert_same(build(
        Member("f", b"1"), hardlink("g", "f"), Member("f", b"22"), directory("d"),
        Member("d/in", b"1"), hardlink("out", "d/in"), Member("d", b"now a file"),
        symlink("s", "t"), directory("s"), Member("s/in", b"2"), Member(".wh.w"), directory("w"),
        Member("w/in", b"3"), Member("x", b"1"), Member(".wh.x"), directory("y"), Member("y/z"),
        Member(".wh.y")), tmp_path)


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_compressions(tmp_path: Path, kind: str) -> None:
    archive = build(Member("a", b"data" * 5000), directory("d"), Member("d/b", b"1"))
    applied = image(COMPRESSORS[kind](archive), tmp_path / "image")
    with Mounted(tmp_path / "image") as root:
        assert (root / "a").read_bytes() == b"data" * 5000
    assert applied.stream_bytes == len(archive)


def test_sparse_files_take_no_space(tmp_path: Path) -> None:
    """GNU's sparse format 1.0, parts at odd offsets, a terabyte in all."""
    real = 1 << 40
    parts = [(0, 100), (5000, 1000), ((1 << 39) + 77, 3000)]
    text = f"{len(parts)}\n" + "".join(f"{at}\n{length}\n" for at, length in parts)
    stored = text.encode().ljust(512, b"\0") + b"".join(
        bytes([65 + n]) * length for n, (_, length) in enumerate(parts))
    member = Member("GNUSparseFile.0/s", stored, pax={
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s",
        "GNU.sparse.realsize": str(real)})
    applied = image(build(member), tmp_path / "image")
    assert applied.size_bytes == real
    assert os.stat(tmp_path / "image").st_blocks * 512 < 1 << 20
    with Mounted(tmp_path / "image") as root, open(root / "s", "rb", buffering=0) as file:
        assert os.fstat(file.fileno()).st_size == real
        for number, (at, length) in enumerate(parts):
            file.seek(at)
            assert file.read(length) == bytes([65 + number]) * length
            assert file.read(1) == b"\0"
        assert os.lseek(file.fileno(), 1 << 30, os.SEEK_DATA) > 1 << 38


def test_same_tar_same_image(tmp_path: Path) -> None:
    archive = build(*EVERYTHING)
    images = []
    for name in ("one", "two"):
        image(archive, tmp_path / name)
        images.append((tmp_path / name).read_bytes())
    assert images[0] == images[1]


_NAME = st.sampled_from(["a", "b", "c", ".wh.a", ".wh.b", ".wh..wh..opq"])
_PATH = st.lists(_NAME, min_size=1, max_size=3).map("/".join)
_MEMBER = st.one_of(
    st.builds(Member, _PATH, st.binary(max_size=1200), uid=st.integers(0, 1 << 31),
              mode=st.integers(0, 0o7777)),
    st.builds(directory, _PATH, st.integers(0, 0o7777), gid=st.integers(0, 1 << 31)),
    st.builds(symlink, _PATH, st.sampled_from(["a", "../b", "/c", "a/b/c"])),
    st.builds(hardlink, _PATH, _PATH))


@settings(max_examples=150, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_MEMBER, max_size=12))
@example([Member("a/a/a"), hardlink("a", "a/a/a")])
def test_any_archive_gives_the_same_tree_or_the_same_error(
    tmp_path_factory: pytest.TempPathFactory, members: list[Member]
) -> None:
    place = tmp_path_factory.mktemp("case")
    archive = build(*members)
    try:
        unpack(archive, place / "tree")
    except PalletError as error:
        expected = f"{type(error).__name__}: {error}"
        with pytest.raises(type(error)) as raised:
            image(archive, place / "image")
    else:
        os.rename(place / "tree", place / "before")
        assert_same(archive, place)
        return
    assert f"{type(raised.value).__name__}: {raised.value}" == expected


def test_hard_links_into_lower_layers_bring_the_file_up(tmp_path: Path) -> None:
    below = tmp_path / "below"
    unpack(build(Member("f", b"from below" * 1000, uid=7, mode=0o640,
                        pax={"SCHILY.xattr.user.k": "v"}), symlink("s", "f")), below)
    fd = os.open(below, os.O_RDONLY)
    try:
        applied = image(build(hardlink("g", "f"), hardlink("t", "s")), tmp_path / "image",
                        lower_fds=[fd])
    finally:
        os.close(fd)
    assert applied.size_bytes == 10_000
    with Mounted(tmp_path / "image") as root:
        status = (root / "f").stat()
        assert (root / "g").read_bytes() == b"from below" * 1000
        assert (status.st_uid, status.st_mode, status.st_nlink) == (7, 0o100640, 2)
        assert os.getxattr(root / "g", "user.k") == b"v"
        assert os.readlink(root / "t") == "f"


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pallet.layer.erofstarget._MOST_ENTRIES", 2)
    with pytest.raises(LimitError, match="more than the 2 entries"):
        image(build(Member("a"), Member("b"), Member("c")), tmp_path / "image")
    for archive, kind in ((build(Member("../x")), BreakoutError),
                          (build(Member("a", b"x" * 4000))[:2000], ArchiveError)):
        with pytest.raises(kind):
            image(archive, tmp_path / "image")
    with pytest.raises(LimitError):
        image(build(Member("a", b"x" * 100_000)), tmp_path / "image", limits=Limits(max_bytes=50_000))


def commit(table: LayerTable, archive: bytes) -> DiffID:
    """Unpack ``archive`` into a draft of either kind."""
    draft = table.draft()
    target = Path(draft.path)
    if target.is_dir():
        applied = unpack(archive, target)
    else:
        applied = image(archive, target)
        target.with_name("source.tar").unlink()
    table.commit(draft, applied.diff_id, applied.size_bytes, implied_dirs=applied.implied_dirs,
                 opaque_root=applied.opaque_root)
    return applied.diff_id


def test_without_the_kernel_images_count_as_lost_and_come_back_as_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = DataPaths(tmp_path / "data")
    paths.root.mkdir()
    with contextlib.closing(Metadata(paths.database)) as metadata:
        archive = build(Member("f", b"1"))
        with contextlib.closing(LayerTable(paths, metadata, images=True)) as table:
            layer = commit(table, archive)
            number = table.record(layer).number
            assert Path(table.directory(number), "f").read_bytes() == b"1"
        with contextlib.closing(LayerTable(paths, metadata)) as table:
            table.sweep()
            assert table.has(layer)  # whatever new layers are to become
        with contextlib.closing(LayerTable(paths, metadata)) as table:
            monkeypatch.setattr("pallet.storage.layertable.supported", lambda _directory: "no such device")
            table.sweep()
            assert not table.has(layer)
            commit(table, archive)
            assert table.record(layer).number == number
            assert Path(table.base_dir, table.directory(number), "f").read_bytes() == b"1"


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[LayerMounts]:
    for number in range(40):
        (tmp_path / str(number)).mkdir()
        image(build(Member(f"is{number}")), tmp_path / str(number) / "image")
    mounts = LayerMounts(str(tmp_path))
    yield mounts
    mounts.close()


def test_paths_of_mounts_are_not_reused(layers: LayerMounts) -> None:
    first = layers.path(0)
    assert os.listdir(first) == ["is0"]
    assert layers.path(0) == first
    layers.forget(0)
    assert not os.path.exists(first)
    assert first not in {layers.path(number) for number in range(40)}


def test_mounts_are_attached_nowhere_and_end_with_close(layers: LayerMounts) -> None:
    before = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    paths = [layers.path(number) for number in range(10)]
    assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == before
    layers.close()
    assert not any(os.path.exists(path) for path in paths)
