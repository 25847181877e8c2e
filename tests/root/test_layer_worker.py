"""Layers as root: owners, devices, whiteouts, the worker's chroot, growing sources, copy-up."""

from __future__ import annotations

import gzip
import os
import signal
import stat
import tarfile
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pallet.errors import InvalidParameterError
from pallet.layer import worker
from pallet.layer.model import Applied, ArchiveError, BreakoutError, MissingLinkTargetError
from pallet.layer.worker import ApplyReply, ApplyRequest, CopyUpReply, CopyUpRequest, ProgressWriter
from pallet.spec.mounts import RootMount
from tests.support.isolation import CLONE_NEWNS, run_isolated
from tests.support.layers import (
    COMPRESSORS,
    Member,
    build,
    describe,
    directory,
    hardlink,
    symlink,
    tree,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.needs("root", "overlay")


def in_child(run: Callable[[bytes, list[int]], bytes], request: msgspec.Struct, fds: list[int],
             kind: Any) -> Any:
    """Run a worker function as the zygote does: in a child with its own mount namespace."""
    raw = run_isolated(lambda: run(msgspec.json.encode(request), fds), CLONE_NEWNS)
    return msgspec.json.decode(raw, type=kind)


def apply_in_child(archive: bytes, target: Path, **options: Any) -> Applied:
    target.mkdir()
    source = target.with_name("source.tar")
    source.write_bytes(archive)
    fd = os.open(source, os.O_RDONLY)
    try:
        reply: ApplyReply = in_child(
            worker.run_apply, ApplyRequest(target=str(target), **options), [fd], ApplyReply)
        return reply.result()
    finally:
        os.close(fd)


def test_owners_devices_and_special_bits(tmp_path: Path) -> None:
    apply_in_child(build(
        directory("home", 0o2750, uid=1000, gid=1001), Member("home/f", b"x", uid=1000, gid=100),
        Member("su", b"x", mode=0o6755, uid=5, gid=6),
        symlink("home/l", "f", uid=7, gid=8),
        Member("null", kind=tarfile.CHRTYPE, dev=(1, 3), mode=0o666, uid=9),
        Member("disk", kind=tarfile.BLKTYPE, dev=(8, 0), mode=0o660, gid=6),
        Member("pipe", kind=tarfile.FIFOTYPE, mode=0o600)), tmp_path / "t")
    root = tmp_path / "t"

    def owner(name: str) -> tuple[int, int, str]:
        status = os.lstat(root / name)
        return status.st_uid, status.st_gid, oct(stat.S_IMODE(status.st_mode))

    assert owner("home") == (1000, 1001, "0o2750")
    assert owner("home/f") == (1000, 100, "0o644"), "setgid of the parent must not be inherited"
    assert owner("su") == (5, 6, "0o6755"), "chown takes set-id bits away; they must come back"
    assert owner("home/l")[:2] == (7, 8)
    assert owner("null") == (9, 0, "0o666")
    assert [describe(root / name) for name in ("null", "disk", "pipe")] == [
        "char:1:3", "block:8:0", "fifo:0:0"]


def test_device_nodes_are_never_opened(tmp_path: Path) -> None:
    """A fifo or tty in the way would block for ever, a watchdog would reboot the machine."""
    apply_in_child(build(
        Member("f", kind=tarfile.FIFOTYPE), Member("f", b"now a file"),
        Member("d", kind=tarfile.CHRTYPE, dev=(10, 130)), hardlink("e", "d"),
        Member("d", b"now a file")), tmp_path / "t")
    assert tree(tmp_path / "t") == {"f": "file:now a file", "d": "file:now a file",
                                    "e": "char:10:130"}


def test_whiteouts_become_overlays_own(tmp_path: Path) -> None:
    applied = apply_in_child(build(
        Member("etc/.wh.gone"), directory("var/cache"), Member("var/cache/.wh..wh..opq"),
        Member("var/cache/new", b"x"), Member("var/cache/.wh.covered")), tmp_path / "t")
    root = tmp_path / "t"
    assert tree(root) == {"etc": "dir", "etc/gone": "whiteout", "var": "dir", "var/cache": "dir",
                          "var/cache/new": "file:x"}
    assert os.getxattr(root / "var/cache", "trusted.overlay.opaque") == b"y"
    assert applied.implied_dirs == [b"", b"etc", b"var"]
    assert not applied.opaque_root


@pytest.mark.parametrize(("members", "expected", "opaque"), [
    ([Member(".wh.a"), directory("a"), Member("a/n", b"")], {"a": "dir", "a/n": "file:"}, True),
    ([directory("a"), Member("a/n", b""), Member(".wh.a")], {"a": "dir", "a/n": "file:"}, True),
    ([Member(".wh.a"), Member("a/n", b"")], {"a": "dir", "a/n": "file:"}, True),
    ([Member(".wh.a"), Member("a", b"f")], {"a": "file:f"}, False),
    ([Member("a", b"f"), Member(".wh.a")], {"a": "file:f"}, False),
    ([Member(".wh.a"), Member(".wh.a")], {"a": "whiteout"}, False),
    ([Member(".wh.a"), symlink("a", "b")], {"a": "link:b"}, False),
])
def test_removed_and_made_again_in_one_layer(
    tmp_path: Path, members: list[Member], expected: dict[str, str], *, opaque: bool
) -> None:
    """The layer removes the old one and has a new one, in either order of the entries."""
    apply_in_child(build(*members), tmp_path / "t")
    assert tree(tmp_path / "t") == expected
    assert ("trusted.overlay.opaque" in os.listxattr(tmp_path / "t/a", follow_symlinks=False)
            ) is opaque


def test_opaque_root_is_reported(tmp_path: Path) -> None:
    assert apply_in_child(build(Member(".wh..wh..opq"), Member("f", b"")), tmp_path / "t").opaque_root


def test_hardlink_to_a_whiteout_is_no_link(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="no such file"):
        apply_in_child(build(Member(".wh.a"), hardlink("b", "a")), tmp_path / "t")


def test_security_xattrs(tmp_path: Path) -> None:
    capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    apply_in_child(build(
        Member("ping", b"x", uid=3, pax={"SCHILY.xattr.security.capability": capability}),
        symlink("l", "x", pax={"SCHILY.xattr.trusted.kind": "link"})), tmp_path / "t")
    assert os.getxattr(tmp_path / "t/ping", "security.capability") == capability.encode()
    assert os.getxattr(tmp_path / "t/l", "trusted.kind", follow_symlinks=False) == b"link"


def test_errors_cross_as_their_kinds(tmp_path: Path) -> None:
    with pytest.raises(BreakoutError, match="outside"):
        apply_in_child(build(Member("../x")), tmp_path / "a")
    with pytest.raises(ArchiveError, match="invalid tar header"):
        apply_in_child(b"x" * 1024, tmp_path / "b")
    with pytest.raises(MissingLinkTargetError):
        apply_in_child(build(hardlink("a", "b")), tmp_path / "c")
    unpack(build(Member("b", b"low")), tmp_path / "low")
    apply_in_child(build(hardlink("a", "b")), tmp_path / "d", lower_dirs=[str(tmp_path / "low")])
    assert (tmp_path / "d/a").read_bytes() == b"low"


@pytest.mark.parametrize("compression", ["gzip", "zstd", "xz", "bzip2"])
def test_decompressors_are_there_inside_the_chroot(tmp_path: Path, compression: str) -> None:
    packed = COMPRESSORS[compression](build(Member("f", b"x" * 9000)))
    assert apply_in_child(packed, tmp_path / "t").size_bytes == 9000


class Download:
    """A thread that writes an archive in pieces and tells of them, as a download does."""

    def __init__(self, path: Path, archive: bytes, *, stop_after: int | None = None) -> None:
        self.progress = ProgressWriter()
        self.file = os.open(path, os.O_RDWR | os.O_CREAT)
        self._archive = archive
        self._stop_after = stop_after
        self.thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        step = 300_000
        limit = len(self._archive) if self._stop_after is None else self._stop_after
        for start in range(0, limit, step):
            os.write(self.file, self._archive[start:min(start + step, limit)])
            self.progress.advance(min(start + step, limit))
        if self._stop_after is None:
            self.progress.finish(len(self._archive))
        self.progress.close()


def run_growing(tmp_path: Path, archive: bytes, **options: Any) -> Applied:
    (tmp_path / "t").mkdir()
    download = Download(tmp_path / "blob", archive, **options)
    request = ApplyRequest(target=str(tmp_path / "t"), growing=True)
    raw: list[bytes] = []
    fds = [download.file, download.progress.read_fd]
    # The fork first: a child of a process with threads is none the zygote would make.
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(download.progress._fd)  # the zygote's child never has it
        os.write(write_fd, worker.run_apply(msgspec.json.encode(request), fds))
        os._exit(0)
    os.close(write_fd)
    download.progress.handed_over()
    download.thread.start()
    raw.append(os.read(read_fd, 1 << 20))
    download.thread.join()
    os.waitpid(child, 0)
    os.close(read_fd)
    os.close(download.file)
    return msgspec.json.decode(raw[0], type=ApplyReply).result()


def test_unpacking_while_the_file_grows(tmp_path: Path) -> None:
    archive = gzip.compress(build(*[Member(f"f{n}", os.urandom(50_000)) for n in range(40)]), 1)
    applied = run_growing(tmp_path, archive)
    assert applied.entries == 40
    assert applied.source_bytes == len(archive)
    assert len(list((tmp_path / "t").iterdir())) == 40


def test_a_download_that_fails_ends_the_unpacking(tmp_path: Path) -> None:
    archive = gzip.compress(build(*[Member(f"f{n}", os.urandom(50_000)) for n in range(40)]), 1)
    with pytest.raises(ArchiveError, match="unexpected EOF"):
        run_growing(tmp_path, archive, stop_after=600_000)


def test_a_killed_worker_leaves_only_its_draft(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        worker.run_apply(msgspec.json.encode(ApplyRequest(target=str(tmp_path / "t"))), [reader])
        os._exit(0)
    archive = build(*[Member(f"f{n}", b"x" * 100) for n in range(500)])
    os.write(writer, archive[:60_000])
    while not (tmp_path / "t/f10").exists():
        os.sched_yield()
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    os.close(reader)
    os.close(writer)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def image(tmp_path: Path) -> RootMount:
    unpack(build(directory("data", 0o750, uid=33, gid=34), Member("data/old", b"1"),
                 Member("data/keep", b"2", uid=35), symlink("var", "data"),
                 directory("void", 0o700, uid=44)), tmp_path / "low")
    unpack(build(Member("data/.wh.old"), Member("data/new", b"3"), hardlink("data/new2", "data/new"),
                 directory("data/sub", uid=36), Member("data/sub/f", b"4")), tmp_path / "top")
    return RootMount(base_dir=str(tmp_path), lower=["top", "low"])


def copy_up(root: RootMount, path: str, target: Path) -> bool:
    target.mkdir(exist_ok=True)
    reply: CopyUpReply = in_child(
        worker.run_copyup, CopyUpRequest(root=root, path=path, target=str(target)), [], CopyUpReply)
    return reply.result()


@pytest.mark.parametrize("path", ["/data", "/var", "/data/sub/.."])
def test_copy_up_into_a_new_volume(tmp_path: Path, path: str) -> None:
    assert copy_up(image(tmp_path), path, tmp_path / "v")
    assert tree(tmp_path / "v") == {"keep": "file:2", "new": "file:3", "new2": "file:3",
                                    "sub": "dir", "sub/f": "file:4"}
    assert (tmp_path / "v/new").stat().st_nlink == 2
    assert (tmp_path / "v/keep").stat().st_uid == 35
    assert (tmp_path / "v/sub").stat().st_uid == 36


def test_copy_up_takes_owner_and_mode_of_an_empty_directory(tmp_path: Path) -> None:
    assert copy_up(image(tmp_path), "/void", tmp_path / "v")
    status = (tmp_path / "v").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (44, 0o700)


def test_copy_up_leaves_a_used_volume_alone(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/mine").write_text("x")
    assert not copy_up(image(tmp_path), "/data", tmp_path / "v")
    assert tree(tmp_path / "v") == {"mine": "file:x"}


@pytest.mark.parametrize("path", ["/nothing", "/data/keep", "/data/old"])
def test_copy_up_of_what_is_no_directory(tmp_path: Path, path: str) -> None:
    assert not copy_up(image(tmp_path), path, tmp_path / "v")
    assert tree(tmp_path / "v") == {}
