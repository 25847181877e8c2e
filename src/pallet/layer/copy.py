"""Copy trees: a directory of an image into a new volume, a layer onto a plain root.

Runs   in zygote children and, for the native snapshotter, in the daemon's workers. No symlink is
       followed. Kept are owners, modes, times, xattrs, hard links inside the tree, devices.
Spec   Linux Documentation/filesystems/overlayfs.rst, for ``overlay=True``.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from pallet.layer import whiteout
from pallet.layer.remove import remove_tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE_BYTES = 1 << 30
_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def copy_tree(source_fd: int, target_fd: int, *, overlay: bool = False) -> int:
    """Copy what is in directory ``source_fd`` into ``target_fd``, and the directory's attributes.

    Args:
        overlay: ``source_fd`` is a layer: its whiteouts remove, its opaque directories empty what
            ``target_fd`` has, and its files replace it. Otherwise names must not exist there.

    Returns the bytes of the regular files copied.

    Raises:
        OSError: something could not be copied.
    """
    return _Copier(target_fd, overlay=overlay).directory(source_fd, target_fd, b"")


class _Copier:
    def __init__(self, root_fd: int, *, overlay: bool) -> None:
        self._root_fd = root_fd
        self._overlay = overlay
        self._links: dict[tuple[int, int], bytes] = {}
        self._privileged = os.geteuid() == 0

    def directory(self, source_fd: int, target_fd: int, path: bytes) -> int:
        copied = 0
        if self._overlay and path and whiteout.is_opaque(source_fd):
            for hidden in os.listdir(target_fd):
                remove_tree(hidden, dir_fd=target_fd)
        with os.scandir(source_fd) as entries:
            names = [os.fsencode(entry.name) for entry in entries]
        for name in names:
            below = path + b"/" + name if path else name
            copied += self._entry(name, source_fd, target_fd, below)
        self._dress(source_fd, target_fd, os.fstat(source_fd))
        return copied

    def _entry(self, name: bytes, source_fd: int, target_fd: int, path: bytes) -> int:
        status = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if self._overlay and not self._make_room(name, target_fd, status):
            return 0
        if kind == stat.S_IFDIR:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=target_fd)
            source = os.open(name, _DIRECTORY, dir_fd=source_fd)
            try:
                target = os.open(name, _DIRECTORY, dir_fd=target_fd)
                try:
                    return self.directory(source, target, path)
                finally:
                    os.close(target)
            finally:
                os.close(source)
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                os.link(first, name, src_dir_fd=self._root_fd, dst_dir_fd=target_fd,
                        follow_symlinks=False)
                return 0
        if kind == stat.S_IFREG:
            return self._file(name, source_fd, target_fd, status)
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source_fd), name, dir_fd=target_fd)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target_fd)
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target_fd)
        if self._privileged:
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target_fd, follow_symlinks=False)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target_fd,
                 follow_symlinks=False)
        return 0

    def _make_room(self, name: bytes, target_fd: int, status: os.stat_result) -> bool:
        """Remove what a layer's entry hides; False when the entry is only a whiteout."""
        try:
            there = os.stat(name, dir_fd=target_fd, follow_symlinks=False)
        except FileNotFoundError:
            return not whiteout.is_whiteout(status)
        if not (stat.S_ISDIR(there.st_mode) and stat.S_ISDIR(status.st_mode)):
            remove_tree(name, dir_fd=target_fd)
        return not whiteout.is_whiteout(status)

    def _file(self, name: bytes, source_fd: int, target_fd: int, status: os.stat_result) -> int:
        source = os.open(name, _READ, dir_fd=source_fd)
        try:
            target = os.open(name, _CREATE, 0o600, dir_fd=target_fd)
            try:
                copy_data(source, target)
                self._dress(source, target, status)
            finally:
                os.close(target)
        finally:
            os.close(source)
        return status.st_size

    def _dress(self, source_fd: int, target_fd: int, status: os.stat_result) -> None:
        if self._privileged:
            os.fchown(target_fd, status.st_uid, status.st_gid)
        for name in os.listxattr(source_fd):
            if not name.startswith((whiteout.TRUSTED, whiteout.USER)):
                # What the target's file system cannot hold is left out, as cp does.
                with suppress(OSError):
                    os.setxattr(target_fd, name, os.getxattr(source_fd, name))
        os.fchmod(target_fd, stat.S_IMODE(status.st_mode))
        os.utime(target_fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def copy_data(source: int, target: int) -> None:
    """Copy what is left of file ``source``; shared where the file system can."""
    try:
        while os.copy_file_range(source, target, _PIECE_BYTES):
            pass
    except OSError as error:
        if error.errno not in _NO_COPY_RANGE:
            raise
        while os.sendfile(target, source, None, _PIECE_BYTES):
            pass
