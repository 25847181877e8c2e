"""Compare a layer's tree with what its blob unpacks to, file by file.

Runs   in a zygote child (kind ``layer.verify``); sync, no threads.
Needs  CAP_SYS_ADMIN to see ``trusted.*`` xattrs.

Both trees were made by ``apply``, so they agree in everything that a container can see: names,
kinds, owners, modes, sizes, times, link targets, devices, xattrs, which names are one file, content.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import PalletError
from pallet.layer.worker import WorkerFailure, failure_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SHOWN = 20
_READ_BYTES = 1 << 18
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = _READ | os.O_DIRECTORY
# The root may be reached through /proc/<pid>/fd: that link must be followed.
_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class VerifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Compare the trees below two directories. No fds."""

    expected: str
    actual: str
    implied_dirs: list[bytes] = []
    """``Applied.implied_dirs``: their owner, mode, time and xattrs are not the blob's."""


class VerifyReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run_verify`` answers."""

    entries: int = 0
    count: int = 0
    """Differences there are; ``differences`` tells the first of them."""
    differences: list[str] = []
    failure: WorkerFailure | None = None

    def result(self) -> VerifyReply:
        """Return itself or raise what went wrong."""
        if self.failure is not None:
            self.failure.raise_()
        return self


_request = msgspec.json.Decoder(VerifyRequest)
_encoder = msgspec.json.Encoder()


def run_verify(request: bytes, _fds: Sequence[int]) -> bytes:
    """Worker kind ``layer.verify``: ``VerifyRequest`` to ``VerifyReply``."""
    wanted = _request.decode(request)
    try:
        reply = verify(wanted.expected, wanted.actual, wanted.implied_dirs)
    except (PalletError, OSError) as error:
        reply = VerifyReply(failure=failure_of(error))
    return _encoder.encode(reply)


def verify(expected: str, actual: str, implied_dirs: Iterable[bytes] = ()) -> VerifyReply:
    """Compare two trees.

    Raises:
        OSError: a root cannot be opened; what cannot be read below is a difference.
    """
    comparison = _Comparison(set(implied_dirs))
    left = os.open(expected, _ROOT)
    try:
        right = os.open(actual, _ROOT)
        try:
            comparison.attributes(b"", os.fstat(left), os.fstat(right))
            comparison.xattrs(b"", left, right)
            comparison.directory(b"", left, right)
        finally:
            os.close(right)
    finally:
        os.close(left)
    return VerifyReply(entries=comparison.entries, count=comparison.count,
                       differences=comparison.differences)


class _Comparison:
    def __init__(self, implied: set[bytes]) -> None:
        self.entries = 0
        self.count = 0
        self.differences: list[str] = []
        self._implied = implied
        self._same: dict[tuple[int, int], tuple[int, int]] = {}
        """Files with several names: inode expected to inode found."""

    def differs(self, path: bytes, how: str) -> None:
        self.count += 1
        if len(self.differences) < _SHOWN:
            self.differences.append(f"/{path.decode(errors='replace')} {how}")

    def directory(self, path: bytes, left_fd: int, right_fd: int) -> None:
        left, right = set(os.listdir(left_fd)), set(os.listdir(right_fd))
        for name in sorted(left | right):
            raw = os.fsencode(name)
            below = path + b"/" + raw if path else raw
            if name not in right:
                self.differs(below, "is missing")
            elif name not in left:
                self.differs(below, "is not in the blob")
            else:
                self.entries += 1
                try:
                    self._entry(below, name, left_fd, right_fd)
                except OSError as error:
                    self.differs(below, f"cannot be read: {error.strerror}")

    def _entry(self, path: bytes, name: str, left_fd: int, right_fd: int) -> None:
        left = os.stat(name, dir_fd=left_fd, follow_symlinks=False)
        right = os.stat(name, dir_fd=right_fd, follow_symlinks=False)
        if stat.S_IFMT(left.st_mode) != stat.S_IFMT(right.st_mode):
            self.differs(path, "is of another kind")
            return
        self.attributes(path, left, right)
        if stat.S_ISLNK(left.st_mode):
            if os.readlink(name, dir_fd=left_fd) != os.readlink(name, dir_fd=right_fd):
                self.differs(path, "links elsewhere")
        elif stat.S_ISDIR(left.st_mode):
            self._both(path, name, (left_fd, right_fd), _DIRECTORY)
        elif stat.S_ISREG(left.st_mode) and not self._seen(path, left, right):
            self._both(path, name, (left_fd, right_fd), _READ)

    def _seen(self, path: bytes, left: os.stat_result, right: os.stat_result) -> bool:
        """Whether this is a further name of a file that was compared already."""
        if left.st_nlink == 1:
            return False
        key, value = (left.st_dev, left.st_ino), (right.st_dev, right.st_ino)
        if key not in self._same:
            self._same[key] = value
            return False
        if self._same[key] != value:
            self.differs(path, "is a file of its own")
        return True

    def _both(self, path: bytes, name: str, parents: tuple[int, int], flags: int) -> None:
        left = os.open(name, flags, dir_fd=parents[0])
        try:
            right = os.open(name, flags, dir_fd=parents[1])
            try:
                self.xattrs(path, left, right)
                if flags == _DIRECTORY:
                    self.directory(path, left, right)
                elif not _same_content(left, right):
                    self.differs(path, "has other content")
            finally:
                os.close(right)
        finally:
            os.close(left)

    def xattrs(self, path: bytes, left_fd: int, right_fd: int) -> None:
        if path not in self._implied and _xattrs(left_fd) != _xattrs(right_fd):
            self.differs(path, "has other xattrs")

    def attributes(self, path: bytes, left: os.stat_result, right: os.stat_result) -> None:
        if path in self._implied:
            return
        if left.st_mode != right.st_mode:
            self.differs(path, f"has mode {stat.S_IMODE(right.st_mode):04o} instead of "
                               f"{stat.S_IMODE(left.st_mode):04o}")
        if (left.st_uid, left.st_gid) != (right.st_uid, right.st_gid):
            self.differs(path, "has another owner")
        if left.st_rdev != right.st_rdev:
            self.differs(path, "is another device")
        if stat.S_ISREG(left.st_mode) and left.st_size != right.st_size:
            self.differs(path, f"has {right.st_size} bytes instead of {left.st_size}")
        elif path and left.st_mtime_ns != right.st_mtime_ns and not _is_whiteout(left):
            self.differs(path, "has another modification time")


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _xattrs(fd: int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
    except OSError:
        return {}


def _same_content(left_fd: int, right_fd: int) -> bool:
    while chunk := os.read(left_fd, _READ_BYTES):
        other = b""
        while len(other) < len(chunk) and (more := os.read(right_fd, len(chunk) - len(other))):
            other += more
        if other != chunk:
            return False
    return not os.read(right_fd, 1)
