"""Layers out of trees: unpack, diff, unpack is the identity; whiteouts, links, holes, odd names."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pallet.errors import SystemFailureError
from pallet.layer import changes, diff, diffworker, halves, treediff
from pallet.layer.apply import apply
from pallet.layer.diffworker import DiffReply, DiffRequest
from pallet.spec.mounts import RootMount
from pallet.storage import stubs
from tests.support import isolation
from tests.support.isolation import CLONE_NEWNS, run_isolated

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.needs("root", "overlay")

EMPTY_DIFF_ID = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""What Docker knows as the layer without content."""


def written(write: Callable[[int], Any]) -> bytes:
    """What ``write`` writes to a descriptor; the working directory is put back."""
    before = os.open(".", os.O_PATH)
    with tempfile.TemporaryFile() as out:
        try:
            write(out.fileno())
        finally:
            os.fchdir(before)
            os.close(before)
        out.seek(0)
        return out.read()


def layer_of(root: Path, **options: Any) -> bytes:
    fd = os.open(root, os.O_RDONLY)
    try:
        return written(lambda out: diff.write_layer(fd, out, **options))
    finally:
        os.close(fd)


def unpack(archive: bytes, target: Path) -> None:
    target.mkdir()
    with tempfile.TemporaryFile() as source:
        source.write(archive)
        source.flush()
        apply(source.fileno(), str(target))


def facts(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """Everything a layer must keep, by path; hard links by the first of their names."""
    found: dict[bytes, tuple[Any, ...]] = {}
    first: dict[tuple[int, int], bytes] = {}
    for base, names, files in os.walk(os.fsencode(root)):
        for name in sorted(names + files):
            path = os.path.join(base, name)
            short = os.path.relpath(path, os.fsencode(root))
            status = os.lstat(path)
            if stat.S_ISCHR(status.st_mode) and not status.st_rdev:
                found[short] = ("whiteout",)
                continue
            content = b""
            if stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False)
                      for key in os.listxattr(path, follow_symlinks=False)}
            link = b""
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                link = min(first.setdefault((status.st_dev, status.st_ino), short), short)
                first[status.st_dev, status.st_ino] = link
            found[short] = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev,
                            status.st_mtime_ns, content, xattrs)
    groups: dict[bytes, list[bytes]] = {}
    for short in found:
        status = os.lstat(os.path.join(os.fsencode(root), short))
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            groups.setdefault(first[status.st_dev, status.st_ino], []).append(short)
    found[b"/links"] = tuple(sorted(tuple(sorted(group)) for group in groups.values()))
    return found


# -- any tree ------------------------------------------------------------------------------------

_NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"..a", b"-", "ä".encode(), b"\xff\xfe", b" ", b"new\nline"]),
    st.binary(min_size=1, max_size=12), st.binary(min_size=90, max_size=130),
    st.text("xyz", min_size=95, max_size=250).map(str.encode),
).filter(lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
         and not name.startswith(b".wh."))
_IDS = st.sampled_from([0, 1, 1000, 0o7777777, 0o10000000, 2**31])
_TIMES = st.one_of(st.integers(0, 2**33 * 10**9), st.integers(0, 2**31).map(lambda s: s * 10**9))
_VALUES = st.dictionaries(st.sampled_from(["user.a", "user.long" * 5, "trusted.x"]),
                          st.binary(min_size=1, max_size=40), max_size=2)
_KIND = st.sampled_from(["file", "file", "dir", "dir", "link", "hard", "fifo", "char", "block",
                         "whiteout", "opaque", "sparse", "capable"])
_ENTRIES = st.lists(st.tuples(_KIND, st.integers(0, 99), _NAMES, st.integers(0, 0o7777), _IDS, _IDS,
                              _TIMES, _VALUES, st.binary(max_size=1500)), max_size=14)
_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def make(kind: str, path: bytes, data: bytes) -> None:
    """Make one entry."""
    if kind in ("dir", "opaque"):
        os.mkdir(path)
        if kind == "opaque":
            os.setxattr(path, "trusted.overlay.opaque", b"y")
    elif kind in ("file", "capable", "sparse"):
        with open(path, "wb") as file:
            file.write(data)
            if kind == "sparse":
                file.seek(200_000 + len(data), os.SEEK_CUR)
                file.write(data)
                file.truncate(600_000)
    elif kind == "link":
        os.symlink(data.replace(b"\0", b"") or b"x", path)
    elif kind == "whiteout":
        os.mknod(path, stat.S_IFCHR, 0)
    else:
        bits = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}[kind]
        os.mknod(path, bits, os.makedev(4095, 2**20 - 1))


def plant(root: bytes, entries: list[tuple[Any, ...]]) -> None:
    """Make a tree; what cannot be made (a name taken) is left out."""
    directories: list[bytes] = [root]
    files: list[bytes] = []
    made = []
    for kind, where, name, mode, uid, gid, mtime, xattrs, data in entries:
        path = os.path.join(directories[where % len(directories)], name)
        if os.path.lexists(path) or len(path) > 3500:
            continue
        if kind == "hard":
            if files:
                os.link(files[where % len(files)], path, follow_symlinks=False)
            continue
        make(kind, path, data)
        if kind in ("dir", "opaque"):
            directories.append(path)
        elif kind in ("file", "capable", "sparse"):
            files.append(path)
        if kind != "whiteout":
            made.append((kind, path, mode, uid, gid, mtime, xattrs))
    for kind, path, mode, uid, gid, mtime, xattrs in reversed(made):
        os.chown(path, uid, gid, follow_symlinks=False)
        if kind != "link":
            os.chmod(path, mode)
        for key, value in xattrs.items():
            if kind in ("file", "dir") or key.startswith("trusted."):
                os.setxattr(path, key, value, follow_symlinks=False)
        if kind == "capable":
            os.setxattr(path, "security.capability", _CAPABILITY)
        os.utime(path, ns=(mtime, mtime), follow_symlinks=False)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(_ENTRIES)
def test_unpack_diff_unpack_is_the_identity(entries: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        first, second = Path(scratch, "1"), Path(scratch, "2")
        first.mkdir()
        plant(os.fsencode(first), entries)
        archive = layer_of(first)
        unpack(archive, second)
        assert drop_moot(facts(second), second) == drop_moot(facts(first), first)
        again = layer_of(second)
        third = Path(scratch, "3")
        unpack(again, third)
        assert facts(third) == facts(second)
        assert layer_of(third) == again, "the same content is the same layer"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(_ENTRIES, st.booleans())
def test_two_processes_make_the_same_tar(entries: list[tuple[Any, ...]], has_socket: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        os.mkdir(f"{scratch}/m")
        plant(os.fsencode(scratch), entries)
        if has_socket:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(f"{scratch}/m/s")
        expected = layer_of(Path(scratch))
        assert digested(scratch, least_entries=1).hex == hashlib.sha256(expected).hexdigest()
        assert not has_socket or not os.listdir(f"{scratch}/m")


def test_a_large_tree_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "z").symlink_to("nowhere")
    for number in range(90):
        name = tmp_path / f"d{number // 30}/e{number // 10}"
        name.mkdir(parents=True, exist_ok=True)
        (name / f"f{number}").write_bytes(os.urandom(3000))
    os.link(tmp_path / "d0/e0/f1", tmp_path / "d0/e0/f0a")
    expected, forks, fork = layer_of(tmp_path), [0], os.fork

    def counted() -> int:
        forks[0] += 1
        return fork()

    monkeypatch.setattr(os, "fork", counted)
    monkeypatch.setattr(halves, "_AHEAD_BYTES", 50_000)
    found = digested(str(tmp_path), least_entries=90)
    assert (found.hex, found.tar_bytes) == (hashlib.sha256(expected).hexdigest(), len(expected))
    assert (found.size_bytes, forks) == (90 * 3000, [1])
    os.link(tmp_path / "d0/e0/f1", tmp_path / "d2/e8/far")
    expected = layer_of(tmp_path)
    assert digested(str(tmp_path), least_entries=90).hex == hashlib.sha256(expected).hexdigest()
    assert digested(str(tmp_path), least_entries=1000).hex == hashlib.sha256(expected).hexdigest()
    assert forks == [2]


def digested(root: str, *, least_entries: int) -> halves.TarDigest:
    before, fd = os.open(".", os.O_PATH), os.open(root, os.O_RDONLY)
    try:
        return halves.digest(fd, root_entry=False, has_lower_directory=None, least_entries=least_entries)
    finally:
        os.fchdir(before)
        os.close(before)
        os.close(fd)


def drop_moot(found: dict[bytes, Any], root: Path) -> dict[bytes, Any]:
    """Leave out whiteouts below opaque directories: they hide nothing, and unpacking drops them."""
    opaque = [path for path, fact in found.items()
              if len(fact) > 1 and path != b"/links" and "trusted.overlay.opaque" in fact[-1]]
    return {path: fact for path, fact in found.items() if fact != ("whiteout",)
            or not any(path.startswith(top + b"/") for top in opaque)}


# -- single rules ----------------------------------------------------------------------------------

def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {info.name: info for info in tar}


def test_nothing_is_the_empty_layer(tmp_path: Path) -> None:
    assert hashlib.sha256(layer_of(tmp_path)).hexdigest() == EMPTY_DIFF_ID


def test_order_does_not_depend_on_how_the_tree_was_made(tmp_path: Path) -> None:
    archives = []
    for number, names in enumerate((("b", "a", "Z", "a.d"), ("a.d", "Z", "a", "b"))):
        root = tmp_path / str(number)
        root.mkdir()
        for name in names:
            (root / name).mkdir()
            (root / name / "f").write_bytes(b"x")
        archives.append(layer_of(root, epoch_s=5))
    assert archives[0] == archives[1]
    assert list(members(archives[0])) == ["Z", "Z/f", "a", "a/f", "a.d", "a.d/f", "b", "b/f"]


def test_epoch_clamps_later_times_only(tmp_path: Path) -> None:
    for name, when in (("old", 10), ("new", 10**9)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, ns=(0, when * 10**9 + 7))
    found = members(layer_of(tmp_path, epoch_s=1000))
    assert {name: float(info.mtime) for name, info in found.items()} == {
        "new": 1000, "old": pytest.approx(10, abs=1e-6)}


def test_sockets_and_names_of_whiteouts_are_left_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        (tmp_path / ".wh.precious").write_bytes(b"x")
        (tmp_path / "kept").write_bytes(b"x")
        assert list(members(layer_of(tmp_path))) == ["kept"]


def test_whiteouts_in_the_form_of_xattrs(tmp_path: Path) -> None:
    """Linux 6.7 lets an overlay within an overlay keep its whiteouts."""
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", "trusted.overlay.opaque", b"x")
    (tmp_path / "d" / "gone").write_bytes(b"")
    os.setxattr(tmp_path / "d" / "gone", "trusted.overlay.whiteout", b"y")
    assert list(members(layer_of(tmp_path))) == ["d", "d/.wh.gone"]


def test_a_redirect_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", "trusted.overlay.redirect", b"/elsewhere")
    with pytest.raises(SystemFailureError, match="redirect_dir=off"):
        layer_of(tmp_path)


def test_holes_are_not_read_and_not_stored_as_something_else(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.write(b"head")
        file.truncate(3_000_000)
    with tarfile.open(fileobj=io.BytesIO(layer_of(tmp_path))) as tar:
        extracted = tar.extractfile("f")
        assert extracted is not None
        assert extracted.read() == b"head" + bytes(2_999_996)


def test_a_file_that_shrinks_while_it_is_read_keeps_the_archive_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"x" * 5000)
    (tmp_path / "g").write_bytes(b"after")
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        status = real(fd)
        if stat.S_ISREG(status.st_mode) and status.st_size == 5000:
            os.truncate(tmp_path / "f", 100)
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    archive = layer_of(tmp_path)
    monkeypatch.undo()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        first, second = tar.extractfile("f"), tar.extractfile("g")
        assert first is not None and second is not None
        assert first.read() == b"x" * 100 + bytes(4900)
        assert second.read() == b"after"


# -- real overlays ---------------------------------------------------------------------------------

class Overlay:
    """A container's directories, and a worker to read them with."""

    def __init__(self, top: Path) -> None:
        for name in ("lower", "upper", "work", "mnt"):
            (top / name).mkdir()
        self.top, self.lower = top, top / "lower"
        self.root = RootMount(base_dir=str(top), lower=["lower"], upper="upper", work="work")

    def change(self, body: Callable[[Path], None]) -> None:
        def child() -> None:
            os.chdir(self.top)
            isolation.mount("overlay", "mnt", "overlay",
                            data="lowerdir=lower,upperdir=upper,workdir=work")
            body(self.top / "mnt")

        run_isolated(child, CLONE_NEWNS)

    def ask(self, work: Callable[[bytes, list[int]], bytes], **options: Any) -> bytes:
        request = DiffRequest(root=self.root, **options)
        with tempfile.TemporaryFile() as out:
            raw = run_isolated(lambda: work(msgspec.json.encode(request), [out.fileno()]), CLONE_NEWNS)
            msgspec.json.decode(raw, type=DiffReply).result()
            out.seek(0)
            return out.read()

    def listed(self) -> list[str]:
        found = msgspec.json.decode(self.ask(diffworker.run_changes)) or []
        return ["CAD"[item["Kind"]] + " " + item["Path"] for item in found]


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    made = Overlay(tmp_path)
    for name in ("etc/conf.d", "var/old/deep", "home"):
        (made.lower / name).mkdir(parents=True)
    for name in ("etc/a", "etc/b", "etc/conf.d/x", "var/old/f", "var/old/deep/g"):
        (made.lower / name).write_bytes(name.encode())
    return made


def test_a_new_directory_is_not_opaque_but_a_replaced_one_is(overlay: Overlay) -> None:
    def body(root: Path) -> None:
        (root / "fresh").mkdir()
        shutil.rmtree(root / "var/old")
        (root / "var/old").mkdir()
        (root / "var/old/n").write_bytes(b"")
        (root / "etc/a").unlink()

    overlay.change(body)
    assert list(members(overlay.ask(diffworker.run_layer))) == [
        "etc", "etc/.wh.a", "fresh", "var", "var/old", "var/old/.wh..wh..opq", "var/old/n"]
    assert overlay.listed() == [
        "C /etc", "D /etc/a", "A /fresh", "C /var", "C /var/old", "D /var/old/deep",
        "D /var/old/f", "A /var/old/n"]


def test_changes_name_parents_and_not_what_was_only_brought_up(overlay: Overlay) -> None:
    def body(root: Path) -> None:
        with (root / "etc/conf.d/x").open("ab") as file:
            file.write(b"more")
        os.chmod(root / "etc/b", (root / "etc/b").stat().st_mode)  # brings it up as it is
        os.utime(root / "home")
        (root / "var/old/f").unlink()
        (root / "var/old/f").mkdir()
        (root / "var/old/f/in").write_bytes(b"")

    overlay.change(body)
    assert overlay.listed() == [
        "C /etc", "C /etc/conf.d", "C /etc/conf.d/x", "C /var", "C /var/old", "C /var/old/f",
        "A /var/old/f/in"]


def test_nothing_changed_is_null(overlay: Overlay) -> None:
    assert overlay.ask(diffworker.run_changes) == b"null"


def test_the_roots_own_mode_is_kept(overlay: Overlay) -> None:
    overlay.change(lambda root: root.chmod(0o711))
    found = members(overlay.ask(diffworker.run_layer))
    assert {name: oct(info.mode) for name, info in found.items()} == {".": "0o711"}


def test_export_is_the_merged_tree(overlay: Overlay) -> None:
    overlay.change(lambda root: shutil.rmtree(root / "var"))
    assert list(members(overlay.ask(diffworker.run_tree))) == [
        "etc", "etc/a", "etc/b", "etc/conf.d", "etc/conf.d/x", "home"]


def test_layer_on_its_base_is_the_merged_tree(overlay: Overlay, tmp_path: Path) -> None:
    """What was read as a layer, put on top of the same base, shows what the container showed."""
    def body(root: Path) -> None:
        shutil.rmtree(root / "var/old/deep")
        (root / "etc/a").rename(root / "home/moved")
        os.link(root / "etc/b", root / "etc/b2")
        os.setxattr(root / "etc/b", "user.k", b"v")
        os.symlink("b", root / "etc/s")

    overlay.change(body)
    merged = overlay.ask(diffworker.run_tree)
    unpack(overlay.ask(diffworker.run_layer), tmp_path / "layer")
    again = Overlay.__new__(Overlay)
    again.top = tmp_path
    again.root = RootMount(base_dir=str(tmp_path), lower=["layer", "lower"], upper="empty")
    (tmp_path / "empty").mkdir()
    assert again.ask(diffworker.run_tree) == merged


# -- without an upper directory --------------------------------------------------------------------

def test_whole_trees_compared(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for name in ("keep", "change", "replace/sub", "deep/er"):
        (old / name).mkdir(parents=True)
        (old / name / "f").write_bytes(b"1")
    stubs.make_stubs(str(new))
    shutil.copytree(old, new, symlinks=True, dirs_exist_ok=True)
    (new / "change/f").write_bytes(b"22")
    shutil.rmtree(new / "replace")
    (new / "replace").write_bytes(b"file")
    (new / "deep/er/new").mkdir()
    (new / "etc/real").write_bytes(b"x")
    names = frozenset(map(os.fsencode, (*stubs.DIRECTORIES, *stubs.FILES, *stubs.LINKS)))
    old_fd, new_fd = os.open(old, os.O_RDONLY), os.open(new, os.O_RDONLY)
    before = os.getcwd()
    listed = [("CAD"[item.kind], item.path.decode())
              for item in treediff.changes(new_fd, old_fd, stubs=names)]
    os.chdir(before)
    assert listed == [
        ("C", "change"), ("C", "change/f"), ("C", "deep"), ("C", "deep/er"), ("A", "deep/er/new"),
        ("C", "etc"), ("A", "etc/real"), ("C", "replace")]
    layer = written(lambda out: treediff.write_difference(new_fd, old_fd, out, stubs=names))
    assert list(members(layer)) == [
        "change", "change/f", "deep", "deep/er", "deep/er/new", "etc", "etc/real", "replace"]
    nothing = written(lambda out: treediff.write_difference(old_fd, old_fd, out))
    assert hashlib.sha256(nothing).hexdigest() == EMPTY_DIFF_ID
    removed = written(lambda out: treediff.write_difference(old_fd, new_fd, out))
    assert "deep/er/.wh.new" in members(removed)
    for fd in (old_fd, new_fd):
        os.close(fd)


def test_lookups_follow_no_link(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    os.symlink("/", tmp_path / "root/abs")
    os.symlink("../outside", tmp_path / "root/up")
    fd = os.open(tmp_path / "root", os.O_RDONLY)
    assert not changes.is_directory(fd, b"abs/etc")
    assert not changes.is_directory(fd, b"up")
    assert changes.lookup(fd, b"abs") is not None
    os.close(fd)
