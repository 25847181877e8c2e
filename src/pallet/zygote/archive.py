"""Files in and out of a container: stat, get and put of one path (``docker cp``).

Owns   the tree as these calls see it: the container's root with its volumes and binds, without
       tmpfs and kernel file systems.
Runs   in a zygote child with mounts of its own.
Spec   Engine API ContainerArchive, ContainerArchiveInfo, PutContainerArchive.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from typing import TYPE_CHECKING, Literal

import msgspec

from pallet.errors import InvalidParameterError, PalletError, SyscallError
from pallet.layer import diff, rootview
from pallet.layer.extract import Owner, extract
from pallet.layer.rootview import Bind
from pallet.layer.worker import WorkerFailure, failure_of
from pallet.linux import safepath
from pallet.runtime import user as users
from pallet.spec.mounts import RootMount

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOK = os.O_PATH | os.O_NOFOLLOW
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR})
# Go's os.FileMode
_GO_KINDS = {stat.S_IFDIR: 1 << 31, stat.S_IFLNK: 1 << 27, stat.S_IFBLK: 1 << 26,
             stat.S_IFIFO: 1 << 25, stat.S_IFSOCK: 1 << 24, stat.S_IFCHR: 1 << 26 | 1 << 21}
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


class ArchiveRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """fds: the tar's pipe for get and put, then a pidfd if ``running``."""

    action: Literal["stat", "get", "put"]
    root: RootMount
    binds: list[Bind]
    path: str
    running: bool = False
    read_only: bool = False
    """The container's root is."""
    keep_kinds: bool = False
    make_places: bool = False
    """The container never ran: make its mount points. It must not be started meanwhile."""
    user: str | None = None
    """Who is to own what is put; None is what the archive says."""


class PathStat(msgspec.Struct, frozen=True, kw_only=True):
    """A file as Docker describes it."""

    name: str
    size: int
    mode: int
    """Go's FileMode."""
    mtime_ns: int
    link_target: str


class ArchiveReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of it."""

    found: PathStat | None = None
    failure: WorkerFailure | None = None

    def result(self) -> PathStat | None:
        """Return what ``stat`` found or raise what went wrong."""
        if self.failure is not None:
            self.failure.raise_()
        return self.found


_request = msgspec.json.Decoder(ArchiveRequest)


def run(request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``container.archive``: ``ArchiveRequest`` to ``ArchiveReply``."""
    wanted = _request.decode(request)
    try:
        reply = ArchiveReply(found=_run(wanted, fds))
    except SyscallError as error:
        if error.errno in _MISSING:
            reply = ArchiveReply(failure=WorkerFailure(kind="NotFoundError", message=str(error)))
        else:
            reply = ArchiveReply(failure=failure_of(error))
    except (PalletError, OSError) as error:
        reply = ArchiveReply(failure=failure_of(error))
    return msgspec.json.encode(reply)


def _run(wanted: ArchiveRequest, fds: Sequence[int]) -> PathStat | None:
    root_fd = _open_root(wanted, fds)
    if wanted.action == "stat":
        return _stat(root_fd, wanted.path)
    if wanted.action == "get":
        _get(root_fd, wanted.path, fds[0])
    else:
        _put(root_fd, wanted, fds[0])
    return None


def _open_root(wanted: ArchiveRequest, fds: Sequence[int]) -> int:
    rootview.private_mounts()
    writable = wanted.action == "put" or wanted.make_places
    if wanted.running:
        try:
            return rootview.assemble(wanted.root, wanted.binds, pidfd=fds[-1])
        except SyscallError as error:
            if error.errno != errno.ESRCH:
                raise
    return rootview.assemble(wanted.root, wanted.binds, writable=writable)


def _split(path: str) -> tuple[str, str]:
    """Directory, to be resolved, and base name, to be taken as it is: "" or "." follow a link."""
    absolute = "/" + posixpath.normpath("/" + path).lstrip("/")
    if path.endswith("/.") or path == ".":
        return absolute, "."
    if path.endswith("/") or absolute == "/":
        return absolute, ""
    return posixpath.split(absolute)


def _lookup(root_fd: int, path: str) -> tuple[int, str]:
    """Open the file itself, O_PATH; return it and the name it has in a tar."""
    directory, base = _split(path)
    name = base if base else posixpath.basename(directory) or "/"
    if base in ("", "."):
        return safepath.open_in_root(root_fd, directory, os.O_PATH), name
    directory_fd = safepath.open_in_root(root_fd, directory, os.O_PATH | os.O_DIRECTORY)
    try:
        return os.open(base, _LOOK | os.O_CLOEXEC, dir_fd=directory_fd), name
    except OSError as error:
        raise SyscallError("lstat", error.errno or errno.EIO, path) from error
    finally:
        os.close(directory_fd)


def _stat(root_fd: int, path: str) -> PathStat:
    fd, name = _lookup(root_fd, path)
    status = os.fstat(fd)
    mode = stat.S_IMODE(status.st_mode) & 0o777
    mode |= _GO_KINDS.get(stat.S_IFMT(status.st_mode), 0)
    mode |= sum(go for bit, go in _GO_BITS if status.st_mode & bit)
    target = ""
    if stat.S_ISLNK(status.st_mode):
        target = safepath.resolve_in_root(root_fd, path)
    return PathStat(name=name, size=status.st_size, mode=mode, mtime_ns=status.st_mtime_ns,
                    link_target=target)


def _get(root_fd: int, path: str, out_fd: int) -> None:
    fd, name = _lookup(root_fd, path)
    raw = os.fsencode(name)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        directory_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        diff.write_tree(directory_fd, out_fd, name=raw)
        return
    directory, base = _split(path)
    if base in ("", "."):
        raise SyscallError("lstat", errno.ENOTDIR, path)
    parent_fd = safepath.open_in_root(root_fd, directory, os.O_RDONLY | os.O_DIRECTORY)
    diff.write_file(parent_fd, os.fsencode(base), out_fd, name=raw)


def _put(root_fd: int, wanted: ArchiveRequest, in_fd: int) -> None:
    place_fd = safepath.open_in_root(root_fd, wanted.path or "/")
    if not safepath.is_directory(place_fd):
        message = "extraction point is not a directory"
        raise InvalidParameterError(message)
    if wanted.read_only and _is_root_mount(root_fd, place_fd):
        message = "container rootfs is marked read-only"
        raise InvalidParameterError(message)
    if os.fstatvfs(place_fd).f_flag & os.ST_RDONLY:
        message = "mounted volume is marked read-only"
        raise InvalidParameterError(message)
    owner = None if wanted.user is None else _owner(root_fd, wanted.user)
    extract(in_fd, root_fd, wanted.path or "/", keep_kinds=wanted.keep_kinds, owner=owner)


def _is_root_mount(root_fd: int, place_fd: int) -> bool:
    return _mount_id(root_fd) == _mount_id(place_fd)


def _mount_id(fd: int) -> str:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return next((line for line in file if line.startswith("mnt_id:")), "")


def _owner(root_fd: int, user: str) -> Owner:
    texts = []
    for name in ("/etc/passwd", "/etc/group"):
        try:
            fd = safepath.open_in_root(root_fd, name)
        except SyscallError:
            texts.append("")
            continue
        texts.append(users.read_database(f"/proc/self/fd/{fd}"))
        os.close(fd)
    found = users.resolve(user, [], texts[0], texts[1])
    return Owner(found.uid, found.gid)
