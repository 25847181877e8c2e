"""Digest of a large tree's tar by two processes: what takes time is looking at each file, not the hashing.

Owns   where a tree is divided, and the process that reads its second half ahead.
Runs   in a zygote child without threads; blocking. Changes the working directory.

The second process keeps what it reads in memory up to a limit, and waits with the rest until the first half is
hashed. Whatever it cannot do (files to remove, links that reach over the cut) is done over by one process.
"""

from __future__ import annotations

import hashlib
import os
import signal
import struct
from array import array
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pallet.layer import diff
from pallet.linux import process

if TYPE_CHECKING:
    from collections.abc import Callable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LEAST_ENTRIES = 4000
"""Below that, a second process costs more than it brings."""
_LEAST_SHARE = 5
"""A part smaller than one in so many is not worth it."""
_AHEAD_BYTES = 128 << 20
_PIECE_BYTES = 1 << 20
_COUNT = struct.Struct("=Q")


class TarDigest(NamedTuple):
    """What a tree gives as a tar."""

    hex: str
    """SHA-256."""
    tar_bytes: int
    size_bytes: int
    """Of regular files."""


class _Second(NamedTuple):
    """What the second half came to."""

    tar_bytes: int
    size_bytes: int
    linked: set[tuple[int, int]]


def digest(root_fd: int, *, root_entry: bool, has_lower_directory: Callable[[bytes], bool] | None,
           least_entries: int = _LEAST_ENTRIES) -> TarDigest:
    """Seal a tree and digest its tar; see ``diff.write_layer``.

    Raises:
        SystemFailureError, OSError: as there.
    """
    write = partial(diff.write_layer, root_entry=root_entry, has_lower_directory=has_lower_directory, seal=True)
    cut = _middle(root_fd, least_entries) if len(os.sched_getaffinity(0)) > 1 else None
    if cut is not None and (found := _divided(root_fd, cut, write)) is not None:
        return found
    summary = _Summary()
    done = write(root_fd, summary.take)
    return summary.result(done.size_bytes)


class _Summary:
    """Hash and length of what comes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._total = 0

    def take(self, piece: memoryview | bytes) -> None:
        self._hash.update(piece)
        self._total += len(piece)

    def result(self, size_bytes: int) -> TarDigest:
        return TarDigest(self._hash.hexdigest(), self._total, size_bytes)


def _middle(root_fd: int, least: int) -> tuple[bytes, ...] | None:
    """The directory nearest to the middle of a walk; None for a tree that is not worth dividing."""
    total = 0
    places: list[tuple[int, tuple[bytes, ...]]] = []
    pending: list[tuple[int, tuple[bytes, ...], list[tuple[bytes, bool]]]] = [(-1, (), _listed(root_fd))]
    while pending:
        fd, path, names = pending[-1]
        if not names:
            pending.pop()
            if fd >= 0:
                os.close(fd)
            continue
        name, is_directory = names.pop()
        total += 1
        if is_directory:
            below = os.open(name, _DIRECTORY, dir_fd=root_fd if fd < 0 else fd)
            places.append((total, (*path, name)))
            pending.append((below, (*path, name), _listed(below)))
    if total < least or not places:
        return None
    count, path = min(places, key=lambda place: abs(2 * place[0] - total))
    return path if min(count, total - count) * _LEAST_SHARE >= total else None


def _listed(fd: int) -> list[tuple[bytes, bool]]:
    """Names of a directory, last one first."""
    with os.scandir(fd) as found:
        names = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in found]
    return sorted(names, reverse=True)


def _divided(root_fd: int, cut: tuple[bytes, ...], write: Callable[..., diff.Written]) -> TarDigest | None:
    """Digest both halves at once; None if they are not just parts of one another's tar."""
    ahead_fd, told_fd = os.memfd_create("ahead"), os.memfd_create("told")
    read_fd, write_fd = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(read_fd)
            process.set_parent_death_signal(signal.SIGKILL)
            if os.getppid() == parent:
                _read_ahead(root_fd, partial(write, span=diff.Span(cut, second=True)),
                            _Ahead(ahead_fd, write_fd), told_fd)
                status = 0
        finally:
            os._exit(status)
    os.close(write_fd)
    try:
        summary = _Summary()
        done = write(root_fd, summary.take, span=diff.Span(cut, second=False))
        found = _collect(read_fd, ahead_fd, told_fd, child, summary)
        child = 0
    finally:
        if child > 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for fd in (read_fd, ahead_fd, told_fd):
            os.close(fd)
    if found is None or not found.linked.isdisjoint(done.linked):
        return None
    return summary.result(done.size_bytes + found.size_bytes)


class _Ahead:
    """What is kept until it is wanted: memory, and a pipe for what comes after."""

    def __init__(self, memory_fd: int, pipe_fd: int) -> None:
        self._memory_fd = memory_fd
        self._pipe_fd = pipe_fd
        self._kept = 0
        self._full = False
        self.total = 0

    def take(self, piece: memoryview) -> None:
        self.total += len(piece)
        if not self._full and self._kept + len(piece) > _AHEAD_BYTES:
            self.end()
        if not self._full:
            self._kept += len(piece)
        fd = self._pipe_fd if self._full else self._memory_fd
        while piece:
            piece = piece[os.write(fd, piece):]

    def end(self) -> None:
        """Say how much is in memory: all further goes into the pipe."""
        if not self._full:
            self._full = True
            os.write(self._pipe_fd, _COUNT.pack(self._kept))


def _read_ahead(root_fd: int, write: Callable[..., diff.Written], ahead: _Ahead, told_fd: int) -> None:
    # Opened anew: a listing moves the position of its descriptor, which the other process reads, too.
    own_fd = os.open(".", _DIRECTORY, dir_fd=root_fd)
    done = write(own_fd, ahead.take)
    told = array("Q", (ahead.total, done.size_bytes, *(number for pair in done.linked for number in pair)))
    with open(told_fd, "wb", closefd=False) as file:
        file.write(told.tobytes())
    ahead.end()


def _collect(read_fd: int, ahead_fd: int, told_fd: int, child: int, summary: _Summary) -> _Second | None:
    """Take the second half in and wait for its process; None if that failed."""
    head = os.read(read_fd, _COUNT.size)
    if head:
        left = _COUNT.unpack(head)[0]
        os.lseek(ahead_fd, 0, os.SEEK_SET)
        while left:
            piece = os.read(ahead_fd, min(left, _PIECE_BYTES))
            summary.take(piece)
            left -= len(piece)
        while piece := os.read(read_fd, _PIECE_BYTES):
            summary.take(piece)
    _, status = os.waitpid(child, 0)
    if status or not head:
        return None
    told = array("Q", os.pread(told_fd, os.fstat(told_fd).st_size, 0))
    return _Second(told[0], told[1], set(zip(told[2::2], told[3::2], strict=True)))
