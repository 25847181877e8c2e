"""Which files of a tree an operation takes: wildcards, pivots, links, and what they contain.

Owns   the paths of COPY and ADD as BuildKit resolves them, and the content digest that cache keys have.
Runs   in threads of the daemon and in zygote children; blocking. Every path is resolved inside its root.
Spec   Dockerfile reference COPY; Go's path/filepath.Match; fsutil's copy.

The digest covers names, types, modes, owners, link targets, extended attributes and content. Times are no
part of it. A directory's is made of a digest of what is no directory in it, and of the digests of those that are:
``build/summaries.py`` finds the same ones without a look at the files.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import re
import stat
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from pallet.build.paths import clean
from pallet.build.summaries import directory_digest, entry_line
from pallet.errors import InvalidParameterError, NotFoundError, SyscallError
from pallet.layer.diff import read_xattrs
from pallet.linux import safepath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pallet.build.ports import DirectoryDigests

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_WILD = frozenset("*?[\\")
_PIECE_BYTES = 1 << 20
_PIVOT = "/./"
_LOOP = "too many links"


class SourceError(NotFoundError):
    """What COPY, ADD or a mount takes cannot be said, so that no checksum can be calculated."""

    def plain(self) -> NotFoundError:
        """The same where none is to be calculated."""
        return NotFoundError(str(self))


class SourceMissingError(SourceError):
    """A path is not in its input.

    Args:
        path: absolute there.
        leads_to: the same, links followed.
    """

    def __init__(self, path: str, leads_to: str = "") -> None:
        super().__init__(f'"{path}": not found')
        self.path = path
        self.leads_to = leads_to or path

    def plain(self) -> NotFoundError:
        """As an operation tells it that meets no file."""
        return _no_file(self.leads_to)


class Excluder(Protocol):
    """Decides what ``--exclude`` leaves out."""

    def __call__(self, path: str) -> bool:
        """Whether the relative slash path is left out."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one COPY takes from one input."""

    paths: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    wildcards: bool = True
    parents: bool = False
    follow: bool = True
    """A link is what it leads to."""
    lenient: bool = False
    """Wildcards may be looked for in a directory that is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One source."""

    path: str
    """Absolute in the input, links not followed."""
    name: str
    """What it is called at the destination; with ``parents`` the path below the pivot."""
    pivot: str = ""
    """Absolute; only with ``parents``."""


def find(root_fd: int, wanted: Selection) -> list[Found]:
    """Resolve wildcards; in the order of the selection, and by name within one pattern.

    A pattern with wildcards may match nothing; a plain path is returned whether it exists or not.

    Raises:
        NotFoundError: the directory that wildcards are to be looked for in is not there.
        SourceError: links lead nowhere.
    """
    found: list[Found] = []
    for text in wanted.paths:
        pivot, rest = _split_pivot(text) if wanted.parents else ("", text)
        pattern = posixpath.join(pivot, rest.lstrip("/")) if pivot else rest
        whole = clean(pattern)
        matches = [whole]
        if wanted.wildcards and not _WILD.isdisjoint(whole):
            matches = _expand(root_fd, whole, lenient=wanted.lenient)
        for path in matches:
            if wanted.parents:
                base = clean(pivot or "/")
                found.append(Found(path=path, name=posixpath.relpath(path, base), pivot=base))
            else:
                found.append(Found(path=path, name=posixpath.basename(path)))
    return found


def open_source(root_fd: int, path: str, *, follow: bool = True) -> int:
    """Open what a path leads to, following links inside the root; O_PATH.

    Args:
        follow: also the last one.

    Raises:
        SourceMissingError: nothing is there.
    """
    try:
        return safepath.open_in_root(root_fd, path, os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW)
    except SyscallError as error:
        if error.errno == errno.ELOOP:
            raise SourceError(_LOOP) from error
        if error.errno in _MISSING:
            raise SourceMissingError(path, safepath.resolve_in_root(root_fd, path)) from error
        raise


def digest(root_fd: int, wanted: Selection, *, known: Mapping[str, str] | None = None,
           listed: DirectoryDigests | None = None, excluder: Excluder | None = None, xattrs: bool = True,
           check: Callable[[], None] | None = None) -> str:
    """Content digest of a selection.

    Args:
        known: digests (SHA-256, hex) of regular files by path without leading slash.
        listed: digests of directories, where they are known.
        xattrs: look at extended attributes; a client's tree has none.
        check: called now and then; raises to end it.

    Raises:
        SourceMissingError: a plain path is not there.
        OSError: something cannot be read.
    """
    summary = hashlib.sha256()
    reader = _Reader(known or {}, excluder, listed=listed, xattrs=xattrs, check=check or _go_on,
                     root=os.readlink(f"/proc/self/fd/{root_fd}"))
    for source in find(root_fd, wanted):
        fd = open_source(root_fd, source.path, follow=wanted.follow)
        try:
            summary.update(b"\0%b\0" % os.fsencode(source.name))
            summary.update(reader.source(fd, source))
        finally:
            os.close(fd)
    return summary.hexdigest()


@dataclass(slots=True)
class _Reader:
    """Digests sources."""

    known: Mapping[str, str]
    excluder: Excluder | None
    listed: DirectoryDigests | None
    xattrs: bool
    check: Callable[[], None]
    root: str

    def source(self, fd: int, source: Found) -> bytes:
        """Digest of one source."""
        status = os.fstat(fd)
        where = self._place(fd) if self.known or self.listed else None
        if stat.S_ISLNK(status.st_mode):
            return self._head(b"", status, None, os.fsencode(os.readlink("", dir_fd=fd)))
        if not stat.S_ISDIR(status.st_mode):
            left_out = source.pivot and self.excluder and self.excluder(source.name)
            return b"" if left_out else self._entry(f"/proc/self/fd/{fd}", None, b"", status, where)
        opened = os.open(".", _DIRECTORY, dir_fd=fd)
        try:
            known = self.listed(where) if self.listed and where is not None and self.excluder is None else None
            return self._head(b"", status, opened, known or self._directory(opened, where, ""))
        finally:
            os.close(opened)

    def _place(self, fd: int) -> str:
        """Where in the tree a source really is, to look digests up."""
        return os.readlink(f"/proc/self/fd/{fd}").removeprefix(self.root).lstrip("/")

    def _directory(self, fd: int, where: str | None, relative: str) -> bytes:
        self.check()
        plain, below = hashlib.sha256(), b""
        for name in sorted(os.listdir(fd), key=os.fsencode):
            path = f"{relative}/{name}" if relative else name
            if self.excluder is not None and self.excluder(path):
                continue
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            full = f"{where}/{name}" if where else name if where is not None else None
            if not stat.S_ISDIR(status.st_mode):
                plain.update(self._entry(name, fd, os.fsencode(name), status, full))
                continue
            inner = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                below += self._head(os.fsencode(name), status, inner, self._directory(inner, full, path))
            finally:
                os.close(inner)
        return directory_digest(plain.digest(), below)

    def _entry(self, name: str, dir_fd: int | None, called: bytes, status: os.stat_result,
               where: str | None) -> bytes:
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            return self._head(called, status, None, os.fsencode(os.readlink(name, dir_fd=dir_fd)))
        if not stat.S_ISREG(mode):
            return self._head(called, status, None, b"%d" % status.st_rdev)
        if where is not None and (known := self.known.get(where)) is not None:
            return self._head(called, status, None, known.encode())
        # A descriptor's own link in /proc has to be followed; a name in the tree must not be.
        fd = os.open(name, _READ if dir_fd is not None else _READ & ~os.O_NOFOLLOW, dir_fd=dir_fd)
        try:
            return self._head(called, status, fd, self._content(fd))
        finally:
            os.close(fd)

    def _content(self, fd: int) -> bytes:
        summary = hashlib.sha256()
        while data := os.read(fd, _PIECE_BYTES):
            self.check()
            summary.update(data)
        return summary.hexdigest().encode()

    def _head(self, name: bytes, status: os.stat_result, fd: int | None, content: bytes) -> bytes:
        attributes = b""
        if self.xattrs and fd is not None and (names := os.listxattr(fd)):
            found = read_xattrs(b"/proc/self/fd/%d/." % fd if stat.S_ISDIR(status.st_mode) else
                                b"/proc/self/fd/%d" % fd, names, follow=True) or {}
            attributes = b"".join(b"\2%b\2%b" % item for item in sorted(found.items()))
        return entry_line(name, status.st_mode, content, (status.st_uid, status.st_gid), attributes)


def _go_on() -> None:
    """Nobody ends it."""


# --- paths ---------------------------------------------------------------------------------------


def _split_pivot(path: str) -> tuple[str, str]:
    """``a/b/./c/d`` into ``a/b`` and ``c/d``: with ``--parents`` only what follows is made again."""
    text = path.removeprefix("./")
    before, found, after = ("/" + text.lstrip("/")).partition(_PIVOT)
    return (before or "/", after) if found else ("", text)


def _no_file(path: str) -> NotFoundError:
    return NotFoundError(f"lstat {path}: no such file or directory")


def _expand(root_fd: int, pattern: str, *, lenient: bool) -> list[str]:
    parts = pattern.strip("/").split("/")
    plain: list[str] = []
    while parts and _WILD.isdisjoint(parts[0]):
        plain.append(parts.pop(0))
    base = "/" + "/".join(plain)
    try:
        fd = safepath.open_in_root(root_fd, base, os.O_RDONLY | os.O_DIRECTORY)
    except SyscallError as error:
        if error.errno == errno.ELOOP:
            raise SourceError(_LOOP) from error
        if error.errno == errno.ENOENT and not lenient:
            raise _no_file(safepath.resolve_in_root(root_fd, base)) from error
        if error.errno in _MISSING:
            return []
        raise
    try:
        return [posixpath.join(base, path) for path in _matches(fd, parts)]
    except InvalidParameterError:  # Go's walk takes a pattern that is none for one that does not match
        return []
    finally:
        os.close(fd)


def _matches(fd: int, parts: Sequence[str]) -> Iterator[str]:
    match = compiled(parts[0])
    for name in sorted(os.listdir(fd)):
        if not match(name):
            continue
        if len(parts) == 1:
            yield name
            continue
        try:
            below = os.open(name, _DIRECTORY, dir_fd=fd)
        except OSError as error:
            if error.errno in _MISSING:
                continue
            raise
        try:
            for path in _matches(below, parts[1:]):
                yield f"{name}/{path}"
        finally:
            os.close(below)


@lru_cache(maxsize=256)
def compiled(pattern: str) -> Callable[[str], object]:
    """One component of a pattern as Go's ``filepath.Match`` has it.

    Raises:
        InvalidParameterError: ``syntax error in pattern``.
    """
    text, position = "", 0
    while position < len(pattern):
        letter = pattern[position]
        position += 1
        if letter == "*":
            text += "[^/]*"
        elif letter == "?":
            text += "[^/]"
        elif letter == "[":
            piece, position = _class(pattern, position)
            text += piece
        elif letter == "\\":
            if position == len(pattern):
                raise _bad_pattern()
            text += re.escape(pattern[position])
            position += 1
        else:
            text += re.escape(letter)
    return re.compile(text, re.DOTALL).fullmatch


def _class(pattern: str, position: int) -> tuple[str, int]:
    negated = pattern[position:position + 1] == "^"
    position += negated
    ranges = ""
    while pattern[position:position + 1] != "]" or not ranges:
        low, position = _letter(pattern, position)
        high = low
        if pattern[position:position + 1] == "-":
            high, position = _letter(pattern, position + 1)
        if low <= high:
            ranges += f"{re.escape(low)}-{re.escape(high)}"
        else:
            ranges += "" if ranges else "\0"  # a range that holds nothing
    return f"[{'^' if negated else ''}{ranges}]", position + 1


def _letter(pattern: str, position: int) -> tuple[str, int]:
    letter = pattern[position:position + 1]
    if letter in {"", "-", "]"}:
        raise _bad_pattern()
    if letter == "\\":
        position += 1
        letter = pattern[position:position + 1]
        if not letter:
            raise _bad_pattern()
    return letter, position + 1


def _bad_pattern() -> InvalidParameterError:
    return InvalidParameterError("syntax error in pattern")
