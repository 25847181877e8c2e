"""COPY and ADD: what lands where in the tree that a build makes.

Owns   BuildKit's rules for destinations: trailing slashes, directories' contents, links, what is replaced.
Runs   in a zygote child, on a tree that nobody else uses; blocking. The umask is to be 0.
Needs  CAP_CHOWN, CAP_MKNOD.
Spec   Dockerfile reference COPY, ADD; fsutil's copy.

Every path of the destination is resolved inside its root with openat2(2); below it, directories are opened
one by one without following links. Sources are read the same way.

Where the root is an overlay, what goes into new directories is written to the upper directory itself: there is
nothing below that could matter, and files of a context can be links there instead of copies.
"""

from __future__ import annotations

import errno
import os
import posixpath
import signal
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pallet.build.ops import includes, selection
from pallet.build.ops.filedata import copy_small, copy_sparse
from pallet.build.ops.places import exists, make_room, make_way, open_directory
from pallet.errors import InvalidParameterError, SyscallError
from pallet.layer import tarheader
from pallet.layer.copy import copy_data
from pallet.layer.diff import read_xattrs
from pallet.layer.extract import Owner, extract
from pallet.layer.model import ArchiveError
from pallet.layer.source import ByteStream, Source, chunks
from pallet.linux import process, safepath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.build.ops.modes import Mode
    from pallet.build.ops.selection import Excluder, Found, Selection

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEFAULT_MODE = 0o755
_NO_LIMIT = 1 << 62
_SMALL_BYTES = 1 << 16
_SET_IDS = 0o6000
_FAILED = 255
_ROOT = (0, 0)
_NO_LINK = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM})


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What copied files look like."""

    owner: tuple[int, int] | None = None
    """None keeps the source's."""
    mode: Mode | None = None
    epoch_ns: int | None = None
    """Time of what has none of its own: directories made on the way."""
    time_ns: int | None = None
    """Of everything; None keeps the source's."""
    replaces: bool = False
    """Directories make room for files, and files for directories."""


class Copier:
    """Copies into one tree."""

    def __init__(self, root_fd: int, look: Look, excluder: Excluder | None = None, *, under_fd: int = -1,
                 share: bool = False, helped: bool = False) -> None:
        """Descriptors stay the caller's.

        Args:
            under_fd: directory that ``root_fd`` writes to: overlay's upper one, or the same one again. Nobody
                may look into the new directories through ``root_fd`` afterwards. -1: there is none.
            share: files are root's, and may become links of the sources.
            helped: there are so many of them that a second process is worth it.
        """
        self._root_fd = root_fd
        self._look = look
        self._excluder = excluder
        self._under_fd = under_fd
        plain = look.mode is None and look.time_ns is None and look.owner in {None, _ROOT}
        self._share = share and under_fd >= 0 and plain
        self._helped = helped and self._share
        self._half: int | None = None
        """Of two processes that fill a tree, which one this is: each takes every other directory."""
        self._turn = 0
        self._links: dict[tuple[int, int], str] = {}

    def copy(self, source_root_fd: int, wanted: Selection, dest: str, *, unpack: bool = False,
             itself: bool = False, include: Sequence[str] = ()) -> None:
        """Copy a selection of another tree to ``dest``.

        Args:
            dest: absolute; a slash at its end makes it a directory.
            unpack: put the content of archives there instead of the archives.
            itself: a directory is copied itself, not what is in it.
            include: patterns of what is copied of a directory; empty is everything.

        Raises:
            SourceMissingError: a plain path is not there.
            InvalidParameterError: a directory is in a file's place, or a file in a directory's.
        """
        sources = selection.find(source_root_fd, wanted)
        if len(sources) > 1:  # what comes later looks at what is there; and one file may come under two names
            self._under_fd, self._share = -1, False
        for source in sources:
            self._links.clear()
            fd = selection.open_source(source_root_fd, source.path, follow=wanted.follow)
            try:
                if include:
                    self._excluder = includes.excluder(fd, include, wanted.exclude)
                if wanted.parents:
                    self._with_parents(source_root_fd, fd, source, dest)
                elif itself and stat.S_ISDIR(os.fstat(fd).st_mode):
                    self._itself(fd, source, dest)
                elif not (unpack and self._unpack(fd, dest)):
                    self._source(fd, source, dest)
            finally:
                os.close(fd)

    def write(self, path: str, data: bytes) -> None:
        """Make a file of ``data``; links on the way are followed inside the root."""
        os.close(self.directory(posixpath.dirname(posixpath.normpath(path))))
        parent, name = posixpath.split(self._resolve(path))
        parent_fd = self.directory(parent)
        try:
            make_room(name, parent_fd, path)
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent_fd)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view):]
                if self._look.owner is not None:
                    os.fchown(fd, *self._look.owner)
                mode = self._look.mode
                os.fchmod(fd, 0o644 if mode is None else mode.apply(0o644, directory=False))
                self._time(fd)
            finally:
                os.close(fd)
        finally:
            os.close(parent_fd)

    def directory(self, path: str, mode: int = _DEFAULT_MODE) -> int:
        """Open a directory inside the root, and make what is missing of it. Returns a descriptor.

        What is made has ``mode``, or the mode that all files get if that is a number, less dockerd's umask.

        Raises:
            SyscallError: ENOTDIR where a component is no directory.
        """
        try:
            return safepath.open_in_root(self._root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
        walked = ""
        for part in self._resolve(path).lstrip("/").split("/"):
            parent, walked = walked or "/", f"{walked}/{part}"
            try:
                os.close(safepath.open_in_root(self._root_fd, walked, os.O_PATH | os.O_DIRECTORY))
                continue
            except SyscallError as error:
                if error.errno != errno.ENOENT:
                    raise
            self._make(parent, part, mode)
        return safepath.open_in_root(self._root_fd, path, os.O_RDONLY | os.O_DIRECTORY)

    def _resolve(self, path: str) -> str:
        """Where a destination leads: a link to nothing names what is to be made."""
        try:
            return safepath.resolve_in_root(self._root_fd, path)
        except SyscallError as error:
            message = "too many links"
            raise InvalidParameterError(message) from error

    def _make(self, parent: str, name: str, mode: int) -> None:
        parent_fd = safepath.open_in_root(self._root_fd, parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
            fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
        except FileExistsError as error:
            raise SyscallError("mkdir", errno.ENOENT, f"{parent}/{name}") from error  # a link to nothing
        finally:
            os.close(parent_fd)
        try:
            if self._look.owner is not None:
                os.fchown(fd, *self._look.owner)
            wanted = self._look.mode
            os.fchmod(fd, mode if wanted is None or wanted.number is None else wanted.number & _DEFAULT_MODE)
            self._time(fd)
        finally:
            os.close(fd)

    def _time(self, fd: int) -> None:
        time_ns = self._look.epoch_ns if self._look.time_ns is None else self._look.time_ns
        if time_ns is not None:
            os.utime(fd, ns=(time_ns, time_ns))

    # One source

    def _source(self, fd: int, source: Found, dest: str) -> None:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            self._contents(fd, dest)
            return
        if dest.endswith("/"):
            os.close(self.directory(dest))
        parent, name = posixpath.split(posixpath.normpath(dest))
        if dest.endswith("/") or self._is_directory(dest):
            parent, name = dest, source.name
        else:
            os.close(self.directory(parent))
            parent, name = posixpath.split(self._resolve(dest))
            os.close(self.directory(parent))
        parent_fd = safepath.open_in_root(self._root_fd, parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._place(fd, status, parent_fd, name, posixpath.join(parent, name))
        finally:
            os.close(parent_fd)

    def _itself(self, fd: int, source: Found, dest: str) -> None:
        """Copy a directory to ``dest``, or into it where that is there."""
        if dest.endswith("/"):
            os.close(self.directory(dest))
        path = posixpath.normpath(dest)
        if self._is_directory(path):
            path = posixpath.join(path, source.name)
        if self._is_directory(path):
            self._contents(fd, path)
            return
        os.close(self.directory(posixpath.dirname(path)))
        parent, name = posixpath.split(self._resolve(path))
        parent_fd = self.directory(parent)
        if exists(name, parent_fd):
            os.close(parent_fd)
            message = f"mkdir {path}: not a directory"
            raise InvalidParameterError(message)
        try:
            self._tree(fd, os.fstat(fd), parent_fd, name, posixpath.join(parent, name), relative="", under=False)
        finally:
            os.close(parent_fd)

    def _contents(self, fd: int, dest: str) -> None:
        """Copy what is in a directory; the destination's own attributes stay."""
        try:
            target = self.directory(dest)
        except SyscallError as error:
            if error.errno == errno.ENOTDIR:
                message = f"cannot copy to non-directory: {dest}"
                raise InvalidParameterError(message) from error
            raise
        source = os.open(".", _DIRECTORY, dir_fd=fd)
        try:
            place = self._resolve(dest)
            if self._under_fd >= 0 and not os.listdir(target):
                before = os.fstat(target)
                os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))  # it is in the upper directory then
                target = self._go_under(target, place)
                self._fill(source, target, place)
            else:
                self._entries(source, target, "", place)
            os.utime(target, ns=self._times(os.fstat(fd)))
        finally:
            os.close(source)
            os.close(target)

    def _fill(self, source: int, target: int, place: str) -> None:
        """Copy what is in a directory into an empty one."""
        if not self._helped:
            self._entries(source, target, "", place, fresh=True)
            return
        parent = os.getpid()
        child = os.fork()
        self._half = int(not child)
        if not child:
            status = _FAILED
            try:
                process.set_parent_death_signal(signal.SIGKILL)
                if os.getppid() == parent:
                    # Opened anew: a listing moves the position of its descriptor.
                    self._entries(os.open(".", _DIRECTORY, dir_fd=source), target, "", place, fresh=True)
                    status = 0
            except OSError as error:
                status = error.errno or _FAILED
            finally:
                os._exit(status)
        try:
            self._entries(source, target, "", place, fresh=True)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        _, found = os.waitpid(child, 0)
        if found:
            number = os.waitstatus_to_exitcode(found)
            raise OSError(number if 0 < number < _FAILED else errno.EIO, os.strerror(max(number, 0)), place)
        self._half = None
        self._dress_directories(source, target)

    def _dress_directories(self, source: int, target: int) -> None:
        """Give directories their looks once everything is in them."""
        for name in _names(source, files=False):
            try:
                made = os.open(name, _DIRECTORY, dir_fd=target)
            except FileNotFoundError:  # left out
                continue
            original = os.open(name, _DIRECTORY, dir_fd=source)
            try:
                self._dress_directories(original, made)
                self._dress(original, made, os.fstat(original))
            finally:
                os.close(original)
                os.close(made)

    def _turns(self) -> bool:
        """Whether the files of the directory that comes now are this process's."""
        self._turn += 1
        return self._half is None or self._turn % 2 == self._half

    def _go_under(self, fd: int, path: str) -> int:
        """Give an empty directory for the one that is really written to."""
        below = safepath.open_in_root(self._under_fd, path, os.O_RDONLY | os.O_DIRECTORY)
        os.close(fd)
        return below

    def _is_directory(self, path: str) -> bool:
        try:
            os.close(safepath.open_in_root(self._root_fd, path, os.O_PATH | os.O_DIRECTORY))
        except SyscallError:
            return False
        return True

    def _with_parents(self, source_root_fd: int, fd: int, source: Found, dest: str) -> None:
        """Copy a source and the directories that lead to it below the pivot."""
        inside = posixpath.dirname(source.name)
        base = os.dup(self._root_fd)
        try:
            os.close(base)
            base = self.directory(dest)
            path, walked = posixpath.normpath(dest), source.pivot
            for part in filter(None, inside.split("/")):
                walked = posixpath.join(walked, part)
                path = posixpath.join(path, part)
                original = safepath.open_in_root(source_root_fd, walked, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    below = self._enter(part, base, path, original)
                finally:
                    os.close(original)
                os.close(base)
                base = below
            name = posixpath.basename(source.name)
            status = os.fstat(fd)
            if self._excluder is None or not self._excluder(source.name):
                self._place(fd, status, base, name, posixpath.join(path, name), relative=source.name)
        finally:
            os.close(base)

    def _enter(self, name: str, dir_fd: int, path: str, original: int) -> int:
        """Open a directory below ``dir_fd``; a new one looks like ``original``."""
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=dir_fd)
            fd = open_directory(name, dir_fd, path)
            self._dress(original, fd, os.fstat(original))
            return fd
        return open_directory(name, dir_fd, path)

    # Trees

    def _entries(self, source_fd: int, target_fd: int, relative: str, dest: str, *, fresh: bool = False) -> None:
        """Copy what is in a directory; ``fresh`` says that the target is empty, and no overlay's if it can be."""
        prefix = dest if dest.endswith("/") else f"{dest}/"
        files = frozenset(_names(source_fd, files=True)) if fresh and self._share else ()
        for name in sorted(os.listdir(source_fd) if self._turns() else _names(source_fd, files=False)):
            path = f"{relative}/{name}" if relative else name
            if self._excluder is not None and self._excluder(path):
                continue
            if name in files and _shared(source_fd, target_fd, name):
                continue
            status = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
            place = prefix + name
            if stat.S_ISREG(status.st_mode):
                # Most of what there is: as few calls as it takes.
                if not fresh:
                    make_room(name, target_fd, place, replace=self._look.replaces)
                if not self._linked(status, target_fd, name, place, fresh=fresh):
                    fd = os.open(name, _READ, dir_fd=source_fd)
                    try:
                        self._file(fd, status, target_fd, name)
                    finally:
                        os.close(fd)
                continue
            flags = _DIRECTORY if stat.S_ISDIR(status.st_mode) else os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=source_fd)
            try:
                self._place(fd, status, target_fd, name, place, relative=path, fresh=fresh)
            finally:
                os.close(fd)

    def _place(self, fd: int, status: os.stat_result, dir_fd: int, name: str,
               path: str, *, relative: str = "", fresh: bool = False) -> None:
        """Put the file behind ``fd`` at ``name``; ``path`` is that place in the root."""
        if stat.S_ISDIR(status.st_mode):
            self._tree(fd, status, dir_fd, name, path, relative=relative or name, under=fresh)
            return
        make_room(name, dir_fd, path, replace=self._look.replaces)
        if self._linked(status, dir_fd, name, path, fresh=fresh):
            return
        if stat.S_ISREG(status.st_mode):
            source = os.open(f"/proc/self/fd/{fd}", _READ & ~os.O_NOFOLLOW)
            try:
                self._file(source, status, dir_fd, name)
            finally:
                os.close(source)
        elif not stat.S_ISSOCK(status.st_mode):
            self._special(fd, status, dir_fd, name)

    def _linked(self, status: os.stat_result, dir_fd: int, name: str, path: str, *, fresh: bool) -> bool:
        """Make one more link of a file that was copied already; whether it was."""
        if status.st_nlink == 1:
            return False
        first = self._links.setdefault((status.st_dev, status.st_ino), path)
        if first == path:
            return False
        root_fd = self._under_fd if fresh and self._under_fd >= 0 else self._root_fd
        first_fd = safepath.open_in_root(root_fd, first, os.O_PATH | os.O_NOFOLLOW)
        try:
            os.link(f"/proc/self/fd/{first_fd}", name, dst_dir_fd=dir_fd, follow_symlinks=True)
        finally:
            os.close(first_fd)
        return True

    def _tree(self, fd: int, status: os.stat_result, dir_fd: int, name: str,
              path: str, *, relative: str, under: bool) -> None:
        fresh = self._half is not None
        if self._look.replaces:
            make_way(name, dir_fd)
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=dir_fd)
            fresh = True
        source = os.open(".", _DIRECTORY, dir_fd=fd)
        try:
            target = open_directory(name, dir_fd, path)
            try:
                if fresh and not under and self._under_fd >= 0:
                    target = self._go_under(target, path)
                self._entries(source, target, relative, path, fresh=fresh)
                if self._half is None:
                    self._dress(source, target, status)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _file(self, source: int, status: os.stat_result, dir_fd: int, name: str) -> None:
        mode, size = self._mode(status), status.st_size
        # Root's files without setuid are made as they are to be.
        plain = self._owner(status) == (0, 0) and not mode & _SET_IDS and not os.listxattr(source)
        target = os.open(name, _CREATE, mode if plain else 0o600, dir_fd=dir_fd)
        try:
            if status.st_blocks * 512 < size:
                copy_sparse(source, target, size)
            elif size > _SMALL_BYTES:
                copy_data(source, target)
            elif size:
                copy_small(source, target, size)
            if plain:
                os.utime(target, ns=self._times(status))
            else:
                self._dress(source, target, status)
        finally:
            os.close(target)

    def _special(self, fd: int, status: os.stat_result, dir_fd: int, name: str) -> None:
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink("", dir_fd=fd), name, dir_fd=dir_fd)
        else:
            os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=dir_fd)
            os.chmod(name, self._mode(status), dir_fd=dir_fd)
        os.chown(name, *self._owner(status), dir_fd=dir_fd, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, self._mode(status), dir_fd=dir_fd)
        os.utime(name, ns=self._times(status), dir_fd=dir_fd, follow_symlinks=False)

    def _times(self, status: os.stat_result) -> tuple[int, int]:
        """Times of access and of change that a copy gets."""
        time_ns = status.st_mtime_ns if self._look.time_ns is None else self._look.time_ns
        return time_ns, time_ns

    def _owner(self, status: os.stat_result) -> tuple[int, int]:
        return self._look.owner or (status.st_uid, status.st_gid)

    def _mode(self, status: os.stat_result) -> int:
        mode = stat.S_IMODE(status.st_mode)
        if self._look.mode is None:
            return mode
        return self._look.mode.apply(mode, directory=stat.S_ISDIR(status.st_mode))

    def _dress(self, source: int, target: int, status: os.stat_result) -> None:
        owner = self._owner(status)
        if owner != (0, 0) or stat.S_ISDIR(status.st_mode):
            os.fchown(target, *owner)
        if names := os.listxattr(source):
            path = b"/proc/self/fd/%d" % source
            for key, value in (read_xattrs(path, names, follow=True) or {}).items():
                with suppress(OSError):  # what the file system cannot hold is left out
                    os.setxattr(target, key, value)
        os.fchmod(target, self._mode(status))
        os.utime(target, ns=self._times(status))

    # Archives

    def _unpack(self, fd: int, dest: str) -> bool:
        """Unpack ``fd`` if it is an archive; whether it is one."""
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        source = os.open(f"/proc/self/fd/{fd}", _READ & ~os.O_NOFOLLOW)
        try:
            if not is_archive(source):
                return False
            os.lseek(source, 0, os.SEEK_SET)
            owner = None if self._look.owner is None else Owner(*self._look.owner)
            # Links in an archive mean its own tree: BuildKit unpacks in a chroot.
            target = Copier(self._root_fd, replace(self._look, mode=None)).directory(dest)
            try:
                extract(source, target, "/", owner=owner)
            finally:
                os.close(target)
        finally:
            os.close(source)
        return True


def is_archive(fd: int) -> bool:
    """Whether a file is a tar, plain or compressed, with at least one entry."""
    try:
        stream = ByteStream(chunks(Source(fd), "auto"), _NO_LIMIT, hashed=False)
        return tarheader.TarReader(stream).next() is not None
    except (ArchiveError, InvalidParameterError, OSError, EOFError):
        return False


def _names(fd: int, *, files: bool) -> list[str]:
    """Names of the regular files, or of the directories, in a directory."""
    with os.scandir(fd) as found:
        return [entry.name for entry in found
                if (entry.is_file if files else entry.is_dir)(follow_symlinks=False)]


def _shared(source_fd: int, target_fd: int, name: str) -> bool:
    """Make a link instead of a copy; whether that could be done."""
    try:
        os.link(name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True
