"""Files of a layer made on a disk: the ``Target`` that is a directory.

Runs   in a zygote child; blocking, no threads.
Needs  for everything a layer can hold: CAP_CHOWN, CAP_MKNOD, CAP_FSETID, CAP_SYS_ADMIN (trusted
       xattrs). Without root, owners stay the caller's.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from pallet.layer import lower, tarheader, whiteout
from pallet.layer.remove import remove_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.layer.lower import CopiedUp
    from pallet.layer.source import ByteStream
    from pallet.layer.tarheader import Entry
    from pallet.layer.tree import DirectoryFacts

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEVICE_MODES = {tarheader.CHAR: stat.S_IFCHR, tarheader.BLOCKDEV: stat.S_IFBLK,
                 tarheader.FIFO: stat.S_IFIFO}
_NO_XATTRS = frozenset({95, 1})
"""EOPNOTSUPP and EPERM: Docker goes on without such an xattr."""


class DiskTarget:
    """``tree.Target`` below one directory."""

    def __init__(self, root_fd: int, overlay_xattrs: str) -> None:
        self._root_fd = root_fd
        self._opaque_xattr = f"{overlay_xattrs}opaque"
        self._privileged = os.geteuid() == 0

    def exists(self, path: bytes) -> bool:
        try:
            os.stat(path, dir_fd=self._root_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def early_mode(self, mode: int) -> int:
        # The final mode at once where that is harmless: setgid would be inherited by what is made
        # inside, and without root a directory must stay writable until it is full.
        return mode if self._privileged and not mode & 0o7000 else 0o700

    def directory(self, path: bytes, mode: int) -> None:
        os.mkdir(path, mode, dir_fd=self._root_fd)

    def symlink(self, path: bytes, target: bytes) -> None:
        os.symlink(target, path, dir_fd=self._root_fd)

    def whiteout(self, path: bytes) -> None:
        whiteout.make(path, self._root_fd)

    def link(self, target: bytes, path: bytes) -> None:
        os.link(target, path, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd,
                follow_symlinks=False)

    def unlink(self, path: bytes) -> None:
        os.unlink(path, dir_fd=self._root_fd)

    def remove_tree(self, path: bytes) -> None:
        remove_tree(path, dir_fd=self._root_fd)

    def copy_up(self, lower_fds: Sequence[int], path: bytes) -> CopiedUp | None:
        return lower.copy_up(lower_fds, path, self._root_fd)

    def regular(self, path: bytes, entry: Entry, stream: ByteStream) -> None:
        mode = entry.mode
        fd = os.open(path, _CREATE, mode, dir_fd=self._root_fd)
        try:
            if entry.sparse is not None:
                _write_sparse(fd, entry, stream)
            elif entry.size:
                stream.copy_to(fd, entry.size)
            if self._privileged and (entry.uid or entry.gid):
                os.fchown(fd, entry.uid, entry.gid)
            if mode & 0o7000:  # writing and chown take these bits away
                os.fchmod(fd, mode)
            if entry.xattrs:
                _set_xattrs(fd, entry.xattrs)
            os.utime(fd, ns=tarheader.times(entry.mtime_ns))
        finally:
            os.close(fd)

    def device(self, path: bytes, entry: Entry) -> None:
        os.mknod(path, _DEVICE_MODES[entry.type] | entry.mode, os.makedev(*entry.rdev),
                 dir_fd=self._root_fd)

    def dress(self, path: bytes, entry: Entry) -> None:
        if self._privileged and (entry.uid or entry.gid):
            os.chown(path, entry.uid, entry.gid, dir_fd=self._root_fd, follow_symlinks=False)
            if entry.mode & 0o7000 and entry.type != tarheader.SYMLINK:
                os.chmod(path, entry.mode, dir_fd=self._root_fd)
        if entry.xattrs:
            self._set_xattrs_by_path(path, entry.xattrs)
        os.utime(path, ns=tarheader.times(entry.mtime_ns), dir_fd=self._root_fd, follow_symlinks=False)

    def finish_directory(self, path: bytes, facts: DirectoryFacts | None, *, opaque: bool) -> None:
        if opaque or (facts is not None and (facts.xattrs or not path or facts.mode >= 0)):
            self._finish_by_fd(path, facts, opaque=opaque)
        elif facts is not None:
            os.utime(path, ns=tarheader.times(facts.mtime_ns), dir_fd=self._root_fd,
                     follow_symlinks=False)

    def _finish_by_fd(self, path: bytes, facts: DirectoryFacts | None, *, opaque: bool) -> None:
        fd = os.open(path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                     dir_fd=self._root_fd)
        try:
            if opaque:
                os.setxattr(fd, self._opaque_xattr, b"y")
            if facts is not None:
                if self._privileged:
                    os.fchown(fd, facts.uid, facts.gid)
                if facts.xattrs:
                    _set_xattrs(fd, facts.xattrs)
                if facts.mode >= 0:
                    os.fchmod(fd, facts.mode)
                os.utime(fd, ns=tarheader.times(facts.mtime_ns))
        finally:
            os.close(fd)

    def _set_xattrs_by_path(self, path: bytes, xattrs: dict[bytes, bytes]) -> None:
        """There is no lsetxattr relative to a descriptor before Linux 6.13: go there and back."""
        before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fchdir(self._root_fd)
            for name, value in xattrs.items():
                if not whiteout.is_overlay_xattr(name):
                    with suppress(OSError):  # user.* is refused on links and devices
                        os.setxattr(path, name, value, follow_symlinks=False)
        finally:
            os.fchdir(before)
            os.close(before)


def _set_xattrs(fd: int, xattrs: dict[bytes, bytes]) -> None:
    for name, value in xattrs.items():
        if not whiteout.is_overlay_xattr(name):
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in _NO_XATTRS:
                    raise


def _write_sparse(fd: int, entry: Entry, stream: ByteStream) -> None:
    assert entry.sparse is not None
    for offset, length in entry.sparse:
        os.lseek(fd, offset, os.SEEK_SET)
        stream.copy_to(fd, length)
    os.ftruncate(fd, entry.real_size)
