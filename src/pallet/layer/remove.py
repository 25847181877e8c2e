"""Delete a tree: never through a symlink, at any depth, with a bounded number of descriptors.

Runs   in zygote children and in a background thread of the daemon; every step is a system call
       that releases the interpreter lock.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class MovedError(OSError):
    """The tree was moved while it was being deleted."""


def remove_tree(path: bytes | str, *, dir_fd: int | None = None) -> None:
    """Remove ``path`` and everything below it. Idempotent.

    A tree may be thousands of levels deep (a container can make one), deeper than recursion and
    descriptors allow: one directory is open at a time, and the way back is ``..``, checked.

    Raises:
        OSError: something could not be removed (an immutable file, a mount point).
    """
    name = os.fsencode(path)
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(name, dir_fd=dir_fd)
        return
    except OSError as error:
        if error.errno != errno.ELOOP:  # that is: a symlink itself
            raise
        os.unlink(name, dir_fd=dir_fd)
        return
    # One level of the descent: its name in its parent, its identity, subdirectories still to do.
    levels: list[tuple[bytes, tuple[int, int], list[bytes]]] = []
    try:
        levels.append((name, _identity(fd), _clear(fd)))
        while True:
            own_name, _, pending = levels[-1]
            if pending:
                child = pending[-1]
                below = os.open(child, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
                levels.append((child, _identity(fd), _clear(fd)))
                continue
            levels.pop()
            if not levels:
                break
            above = os.open("..", _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = above
            if _identity(fd) != levels[-1][1]:
                raise MovedError(f"{name!r} was moved while it was deleted")
            os.rmdir(own_name, dir_fd=fd)
            levels[-1][2].pop()
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=dir_fd)


def discard(path: bytes | str) -> None:
    """Remove a tree as far as that is possible: what stays of it is found by the next start's sweep."""
    with suppress(OSError):
        remove_tree(path)


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _clear(fd: int) -> list[bytes]:
    """Unlink everything in a directory but its subdirectories, whose names are returned."""
    subdirectories = []
    with os.scandir(fd) as entries:
        names = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if is_directory:
            try:
                os.rmdir(name, dir_fd=fd)  # most are empty by now, or always were
            except OSError:
                subdirectories.append(name)
        else:
            os.unlink(name, dir_fd=fd)
    return subdirectories
