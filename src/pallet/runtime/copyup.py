"""Copying a directory's content into the tmpfs mounted over it (mount option ``tmpcopyup``).

Owns   the copy: names, owners, modes, links, nodes.
Runs   in a container's init.
"""

from __future__ import annotations

import os
import stat

_CHUNK_BYTES = 1024 * 1024


def copy_up(source_fd: int, target_fd: int) -> None:
    """Copy everything in directory ``source_fd`` to directory ``target_fd``."""
    _copy_owner(os.fstat(source_fd), target_fd)
    for entry in os.listdir(source_fd):
        found = os.stat(entry, dir_fd=source_fd, follow_symlinks=False)
        mode = found.st_mode
        if stat.S_ISDIR(mode):
            os.mkdir(entry, 0o700, dir_fd=target_fd)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            child_source = os.open(entry, flags, dir_fd=source_fd)
            child_target = os.open(entry, flags, dir_fd=target_fd)
            try:
                copy_up(child_source, child_target)
            finally:
                os.close(child_source)
                os.close(child_target)
        elif stat.S_ISLNK(mode):
            os.symlink(os.readlink(entry, dir_fd=source_fd), entry, dir_fd=target_fd)
            os.chown(entry, found.st_uid, found.st_gid, dir_fd=target_fd, follow_symlinks=False)
        elif stat.S_ISREG(mode):
            _copy_file(entry, source_fd, target_fd, found)
        else:
            os.mknod(entry, mode, found.st_rdev, dir_fd=target_fd)
            os.chown(entry, found.st_uid, found.st_gid, dir_fd=target_fd)
            os.chmod(entry, stat.S_IMODE(mode), dir_fd=target_fd)


def _copy_owner(found: os.stat_result, fd: int) -> None:
    os.fchown(fd, found.st_uid, found.st_gid)
    os.fchmod(fd, stat.S_IMODE(found.st_mode))


def _copy_file(name: str, source_fd: int, target_fd: int, found: os.stat_result) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source_fd)
    writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600,
                     dir_fd=target_fd)
    try:
        while os.sendfile(writer, reader, None, _CHUNK_BYTES):
            pass
        _copy_owner(found, writer)
        os.utime(writer, ns=(found.st_atime_ns, found.st_mtime_ns))
    finally:
        os.close(reader)
        os.close(writer)
