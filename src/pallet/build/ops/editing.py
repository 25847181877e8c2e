"""Changes of files that no Dockerfile has words for: removing, links, files and directories without their parents.

Owns   BuildKit's rules of the file operations ``rm``, ``symlink``, ``mkfile`` and ``mkdir``.
Runs   in a zygote child, on a tree that nobody else uses; blocking. The umask is to be 0.
Spec   BuildKit's ``pb.FileAction``. Every path is resolved inside the root with openat2(2).
"""

from __future__ import annotations

import errno
import os
import posixpath
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pallet.build.ops import selection
from pallet.build.ops.places import remove_tree
from pallet.build.ops.selection import Selection
from pallet.errors import InvalidParameterError, SyscallError
from pallet.linux import safepath

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWN_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def remove(root_fd: int, path: str, *, may_be_absent: bool, wildcards: bool) -> None:
    """Remove a file or a whole directory; a link itself, not what it leads to.

    Raises:
        InvalidParameterError: there is nothing, or it is the root.
    """
    paths = [posixpath.normpath(f"/{path.lstrip('/')}")]
    if wildcards:
        paths = [found.path for found in selection.find(root_fd, Selection(paths=(paths[0],)))]
    for one in paths:
        name = posixpath.basename(one)
        if not name:
            message = "rmPath: invalid empty path"
            raise InvalidParameterError(message)
        try:
            with _parent(root_fd, one) as parent_fd:
                remove_tree(name, parent_fd)
        except FileNotFoundError as error:
            if not may_be_absent:
                message = f"stat {one}: no such file or directory"
                raise InvalidParameterError(message) from error


def link(root_fd: int, path: str, target: str, *, owner: tuple[int, int], time_ns: int | None) -> None:
    """Make a symbolic link.

    Raises:
        InvalidParameterError: something is there, or its directory is not.
    """
    with _parent(root_fd, path, f"symlink {target} {path}") as parent_fd:
        name = posixpath.basename(posixpath.normpath(path))
        try:
            os.symlink(target, name, dir_fd=parent_fd)
        except FileExistsError as error:
            message = f"symlink {target} {path}: file exists"
            raise InvalidParameterError(message) from error
        os.chown(name, *owner, dir_fd=parent_fd, follow_symlinks=False)
        if time_ns is not None:
            os.utime(name, ns=(time_ns, time_ns), dir_fd=parent_fd, follow_symlinks=False)


def write(root_fd: int, path: str, data: bytes, *, mode: int, owner: tuple[int, int], time_ns: int | None) -> None:
    """Write a file in a directory that is there; one that is there itself keeps its mode.

    Raises:
        InvalidParameterError: there is no such directory, or a directory is in the file's place.
    """
    path = safepath.resolve_in_root(root_fd, path)
    with _parent(root_fd, path, f"open {path}") as parent_fd:
        try:
            fd = os.open(posixpath.basename(path), _OWN_FILE, mode, dir_fd=parent_fd)
        except IsADirectoryError as error:
            message = f"open {path}: is a directory"
            raise InvalidParameterError(message) from error
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view):]
        os.fchown(fd, *owner)
        if time_ns is not None:
            os.utime(fd, ns=(time_ns, time_ns))
    finally:
        os.close(fd)


def directory(root_fd: int, path: str, *, mode: int, owner: tuple[int, int], time_ns: int | None) -> None:
    """Make a directory in one that is there; one that is there itself stays as it is.

    Raises:
        InvalidParameterError: there is no such directory.
    """
    path = safepath.resolve_in_root(root_fd, path)
    name = posixpath.basename(path)
    if not name:
        return
    with _parent(root_fd, path, f"mkdir {path}") as parent_fd:
        try:
            os.mkdir(name, mode & 0o777, dir_fd=parent_fd)
        except FileExistsError:
            return
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
        try:
            os.fchown(fd, *owner)
            if time_ns is not None:
                os.utime(fd, ns=(time_ns, time_ns))
        finally:
            os.close(fd)


def check_parent(root_fd: int, path: str) -> None:
    """See that a destination's directory is there.

    Raises:
        InvalidParameterError: it is not.
    """
    parent = posixpath.dirname(safepath.resolve_in_root(root_fd, path))
    try:
        os.close(safepath.open_in_root(root_fd, parent))
    except SyscallError as error:
        message = f"failed to stat {path}: lstat {parent}: no such file or directory"
        raise InvalidParameterError(message) from error


@contextmanager
def _parent(root_fd: int, path: str, what: str = "") -> Iterator[int]:
    """The directory that a path's last name is in; ``what`` was to be done there.

    Raises:
        FileNotFoundError: it is not there; with ``what`` an InvalidParameterError.
    """
    directory_path = posixpath.dirname(posixpath.normpath(f"/{path.lstrip('/')}"))
    try:
        fd = safepath.open_in_root(root_fd, directory_path, os.O_RDONLY | os.O_DIRECTORY)
    except SyscallError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
            raise
        if what:
            message = f"{what}: {os.strerror(error.errno).lower()}"
            raise InvalidParameterError(message) from error
        raise FileNotFoundError(error.errno, os.strerror(error.errno), path) from error
    try:
        yield fd
    finally:
        os.close(fd)
