"""Places that copies go to: what is there already, and what makes room.

Runs   in zygote children; blocking. Names are looked at in an open directory, links are never followed.
"""

from __future__ import annotations

import errno
import os
import stat

from pallet.errors import InvalidParameterError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def exists(name: str, dir_fd: int) -> bool:
    """Whether there is anything of that name."""
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def open_directory(name: str, dir_fd: int, path: str) -> int:
    """Open a directory that is copied into.

    Raises:
        InvalidParameterError: it is none.
    """
    try:
        return os.open(name, _DIRECTORY, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            message = f"cannot copy to non-directory: {path}"
            raise InvalidParameterError(message) from error
        raise


def make_room(name: str, dir_fd: int, path: str, *, replace: bool = False) -> None:
    """Remove what a file replaces; a directory only with ``replace``.

    Raises:
        InvalidParameterError: a directory is there.
    """
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError) as error:
        if not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            raise
        if not replace:
            message = f"cannot replace to directory {path} with file"
            raise InvalidParameterError(message) from error
        remove_tree(name, dir_fd)


def make_way(name: str, dir_fd: int) -> None:
    """Remove what a directory replaces, if that is none."""
    if exists(name, dir_fd) and not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=dir_fd)


def remove_tree(name: str, dir_fd: int) -> None:
    """Remove a file, or a directory with all that is in it.

    Raises:
        FileNotFoundError: there is nothing.
    """
    if not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=dir_fd)
        return
    fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    try:
        for below in os.listdir(fd):
            remove_tree(below, fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=dir_fd)
