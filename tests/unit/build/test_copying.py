"""Where COPY and ADD put what: the same trees that BuildKit (dockerd 28.5.2) made of the same lines.

``golden/copy.json`` holds, for each line, every path that it made: kind, mode, owner, group, link target, the
beginning of the content's digest, and the time where it is the source's.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shlex
import stat
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallet.build.ops import modes, selection
from pallet.build.ops.copying import Copier, Look
from pallet.build.ops.fileworker import excluder_of, lookup_owner
from pallet.build.ops.selection import Selection, SourceMissingError
from pallet.errors import InvalidParameterError
from tests.support.scratch import GROUP, PASSWD

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("root")

MTIME = 1_600_000_000
GOLDEN: dict[str, dict[str, list[Any]]] = json.loads(
    (Path(__file__).parent / "golden/copy.json").read_text())
KINDS = {stat.S_IFREG: "0", stat.S_IFLNK: "2", stat.S_IFDIR: "5"}


def fill_context(root: Path) -> None:
    """The context of the lines."""
    for name in ("dir/sub/deep", "empty", "a/b/c", "a/x"):
        (root / name).mkdir(parents=True)
    files = {"f1.txt": ("one", 0o644), "f2.txt": ("two", 0o600), "s.sh": ("#!/bin/sh", 0o755), "dir/d1.txt": ("d1", 0o644),
             "dir/d2.md": ("d2", 0o644), "dir/sub/s1.txt": ("s1", 0o640), "dir/sub/deep/x.txt": ("x", 0o644),
             "a/b/c/1.txt": ("1", 0o644), "a/b/2.txt": ("2", 0o644), "a/x/3.txt": ("3", 0o644),
             "sp ace.txt": ("sp", 0o644), "su": ("suid", 0o4755)}
    for name, (text, mode) in files.items():
        (root / name).write_text(text)
        (root / name).chmod(mode)
    (root / "dir/sub").chmod(0o700)
    for name, target in {"l1": "f1.txt", "ldir": "dir", "labs": "/etc/passwd", "ldang": "nowhere"}.items():
        (root / name).symlink_to(target)
    (root / "dir/hl1").hardlink_to(root / "f1.txt")
    with tarfile.open(root / "t.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("in/tar.txt")
        info.size, info.uid, info.gid, info.mode = 3, 5, 6, 0o640
        tar.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("in/ln")
        link.type, link.linkname = tarfile.SYMTYPE, "tar.txt"
        tar.addfile(link)
    (root / "plain.gz").write_bytes(gzip.compress(b"not a tar", mtime=0))
    for where, directories, names in os.walk(root):
        for name in (*directories, *names):
            os.utime(os.path.join(where, name), (MTIME, MTIME), follow_symlinks=False)


def fill_base(root: Path) -> None:
    """The image below: what of it the lines meet."""
    for name in ("etc", "tmp", "home/app", "usr", "bin"):
        (root / name).mkdir(parents=True)
    os.chown(root / "home/app", 1000, 1000)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    (root / "lib").symlink_to("usr/lib")


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[tuple[int, int, Path]]:
    """Descriptors of a context and of a root to copy into, and that root's path."""
    context, root = tmp_path / "context", tmp_path / "root"
    context.mkdir()
    root.mkdir()
    fill_context(context)
    fill_base(root)
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (context, root)]
    before = os.umask(0)
    yield fds[0], fds[1], root
    os.umask(before)
    for fd in fds:
        os.close(fd)


def carry_out(line: str, context_fd: int, root_fd: int) -> None:
    """Do what one line says."""
    instruction, *words = shlex.split(line)
    flags = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--") and "exclude" not in word)
    exclude = [word.partition("=")[2] for word in words if word.startswith("--exclude")]
    *sources, dest = [word for word in words if not word.startswith("--")]
    unpack = instruction == "ADD" and flags.get("unpack") != "false"
    owner = lookup_owner(root_fd, flags["chown"]) if "chown" in flags else (None if unpack else (0, 0))
    look = Look(owner=owner, mode=modes.parse(flags["chmod"]) if "chmod" in flags else None)
    for source in sources:
        Copier(root_fd, look, excluder_of(exclude)).copy(
            context_fd, Selection(paths=(source,), exclude=tuple(exclude)), dest, unpack=unpack)


def difference(line: str, root: Path) -> Iterator[str]:
    """Say where a tree is not what BuildKit made."""
    wanted = GOLDEN[line]
    for name, (kind, mode, uid, gid, target, content, moment) in wanted.items():
        path = root / name
        status = path.lstat()
        is_link = stat.S_ISLNK(status.st_mode)
        found = [KINDS[stat.S_IFMT(status.st_mode)], mode if is_link else f"{stat.S_IMODE(status.st_mode):o}",
                 status.st_uid, status.st_gid]
        if found != ["0" if kind == "h" else kind, mode, uid, gid]:
            yield f"{line}: {name} is {found}"
        if is_link and os.readlink(path) != target:
            yield f"{line}: {name} leads to {os.readlink(path)}"
        if path.is_file() and not is_link and ".gz" not in line:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if not digest.startswith(content):
                yield f"{line}: {name} has other content"
        if moment == MTIME != status.st_mtime:
            yield f"{line}: {name} has time {status.st_mtime}"
    tops = {name.split("/")[0] for name in wanted} & {"x", "y", "new"}
    made = {str(path.relative_to(root)) for top in tops for path in (root / top, *(root / top).rglob("*"))}
    if made != {name for name in wanted if name.split("/")[0] in tops}:
        yield f"{line}: made {sorted(made)}"


def test_copy_is_buildkits(trees: tuple[int, int, Path], tmp_path: Path) -> None:
    """Every line of the golden file, each into a root of its own."""
    found: list[str] = []
    for number, line in enumerate(GOLDEN):
        root = tmp_path / str(number)
        root.mkdir(mode=0o755)
        fill_base(root)
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        carry_out(line, trees[0], root_fd)
        os.close(root_fd)
        found += difference(line, root)
    assert found == []


@pytest.mark.parametrize(("line", "message"), [
    ("COPY dir /etc/passwd", "cannot copy to non-directory: /etc/passwd"),
    ("COPY --chown=nosuch f1.txt /x", "can't find uid for user nosuch: no such user: nosuch"),
    ("COPY --chown=0:nosuch f1.txt /x", "can't find gid for group nosuch"),
    ("COPY --chmod=u+q f1.txt /x", "invalid chmod parameter"),
    ("COPY --chmod=8 f1.txt /x", "invalid chmod parameter"),
])
def test_what_is_refused(line: str, message: str, trees: tuple[int, int, Path]) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        carry_out(line, trees[0], trees[1])


@pytest.mark.parametrize("source", ["nosuch", "ldang", "labs", "f1.txt/x", "dir/no*/../.."])
def test_what_is_missing(source: str, trees: tuple[int, int, Path]) -> None:
    """A plain path has to be there, and links are resolved inside the context alone."""
    with pytest.raises(SourceMissingError):
        carry_out(f"COPY {source if '*' not in source else 'gone'} /x/", trees[0], trees[1])


@pytest.mark.parametrize(("source", "made"), [
    ("a/b/c/1.txt", {"a", "a/b", "a/b/c", "a/b/c/1.txt"}), ("a/./b/c/1.txt", {"b", "b/c", "b/c/1.txt"}),
    ("./a/b", {"a", "a/b", "a/b/2.txt", "a/b/c", "a/b/c/1.txt"}), ("a/*/c", {"a", "a/b", "a/b/c", "a/b/c/1.txt"}),
    ("a/./*/3.txt", {"x", "x/3.txt"}),
])
def test_parents(source: str, made: set[str], trees: tuple[int, int, Path]) -> None:
    """``--parents`` makes the directories below the pivot again, as they are in the source."""
    context_fd, root_fd, root = trees
    Copier(root_fd, Look(owner=(0, 0))).copy(context_fd, Selection(paths=(source,), parents=True), "/to/")
    assert {str(path.relative_to(root / "to")) for path in (root / "to").rglob("*")} == made
    assert all(path.lstat().st_mtime == MTIME for path in (root / "to").rglob("*") if path.is_file())


def test_copies_stay_inside(trees: tuple[int, int, Path], tmp_path: Path) -> None:
    """Links of the base and of archives lead nowhere outside of the root."""
    context_fd, root_fd, root = trees
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "up").symlink_to("../../outside")
    (root / "abs").symlink_to(str(outside))
    for dest in ("/up/", "/abs/", "/up", "/abs"):
        carry_out(f"COPY f1.txt {dest}", context_fd, root_fd)
        carry_out(f"ADD t.tar.gz {dest.rstrip('/')}/", context_fd, root_fd)
    assert list(outside.iterdir()) == []


def test_hard_links_and_holes_are_kept(trees: tuple[int, int, Path], tmp_path: Path) -> None:
    context_fd, root_fd, root = trees
    source = tmp_path / "context/dir"
    with open(source / "sparse", "wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    (source / "again").hardlink_to(source / "d1.txt")
    os.setxattr(source / "d1.txt", "user.note", b"n")
    carry_out("COPY dir /x/", context_fd, root_fd)
    assert (root / "x/again").stat().st_ino == (root / "x/d1.txt").stat().st_ino
    assert (root / "x/sparse").stat().st_size == (64 << 20) + 3
    assert (root / "x/sparse").stat().st_blocks < 1000
    assert os.getxattr(root / "x/d1.txt", "user.note") == b"n"


def test_digest_sees_what_counts(trees: tuple[int, int, Path], tmp_path: Path) -> None:
    """Content, names, modes and links count; times do not, nor files that are not taken."""
    context_fd, context = trees[0], tmp_path / "context"

    def digest(*paths: str, **more: Any) -> str:
        return selection.digest(context_fd, Selection(paths=paths), **more)

    before = digest("dir", "*.txt")
    os.utime(context / "f1.txt", (1, 1))
    (context / "other").write_text("x")
    assert digest("dir", "*.txt") == before
    assert digest("dir", "*.txt", known={"f1.txt": hashlib.sha256(b"one").hexdigest()}) == before
    assert digest("dir", "*.txt", known={"f1.txt": "0"}) != before
    for change in (lambda: (context / "dir/d1.txt").write_text("D1"), lambda: (context / "dir/d2.md").chmod(0o600),
                   lambda: (context / "dir/d2.md").rename(context / "dir/d3.md"),
                   lambda: (context / "dir/new").symlink_to("d1.txt"), (context / "f9.txt").touch):
        change()
        after = digest("dir", "*.txt")
        assert after != before
        before = after


@given(pattern=st.text(alphabet="ab*?[]^-\\", max_size=6), name=st.text(alphabet="ab-^]", max_size=4))
def test_patterns_never_fail_otherwise(pattern: str, name: str) -> None:
    """A pattern matches, does not, or is refused as Go does."""
    with suppress(InvalidParameterError):
        found = selection.compiled(pattern)(name)
        assert not found or "*" in pattern or len(name) <= len(pattern)


@given(mode=st.integers(0, 0o7777), number=st.integers(0, 0o7777))
def test_modes(mode: int, number: int) -> None:
    """A number is the mode; ``a=`` with letters gives those to all; ``+`` and ``-`` undo one another."""
    assert modes.parse(f"{number:o}").apply(mode, directory=False) == number
    assert modes.parse("a=rX").apply(mode, directory=True) & 0o777 == 0o555
    assert modes.parse("u+w,u-w").apply(mode, directory=False) == mode & ~0o200
    assert modes.parse("g=u").apply(mode, directory=False) >> 3 & 7 == mode >> 6 & 7
