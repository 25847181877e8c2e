"""A finished upper directory as a layer: its DiffID, without a tar anywhere.

Owns   worker kind ``layer.seal`` and ``layer.tar``: the digest of the tar that a tree gives, and that
       tar itself when somebody wants it after all.
Runs   ``run_*`` in a zygote child; blocking.
Needs  CAP_SYS_ADMIN for overlay's xattrs and, where a directory is marked as opaque, a mount.
Spec   image-spec layer.md, config.md#layer-diffid.

The tree is changed so that it gives the same tar by itself, for ever: see ``diff.write_layer(seal=True)``.
"""

from __future__ import annotations

import hashlib
import os
import resource
import stat
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import PalletError
from pallet.layer import changes, diff, halves, rootview
from pallet.layer.worker import WorkerFailure, failure_of
from pallet.spec.mounts import RootMount

if TYPE_CHECKING:
    from collections.abc import Sequence

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class SealRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Seal a snapshot that nothing uses any more. No fds."""

    root: RootMount
    """As it was mounted; mount points of Pallet's own may be among the layers."""
    unpacked: bool = False
    """It was unpacked from a layer's tar: every opaque mark in it was there."""
    points: list[str] = []
    """Paths where something was mounted: empty ones that no layer has are removed again."""


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """What the layer is."""

    diff_id: str
    tar_bytes: int
    size_bytes: int
    """Of regular files."""
    root_entry: bool


class SealReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the two."""

    sealed: Sealed | None = None
    failure: WorkerFailure | None = None

    def result(self) -> Sealed:
        """Return what came out or raise what went wrong."""
        if self.failure is not None:
            self.failure.raise_()
        assert self.sealed is not None
        return self.sealed


class TarRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Write the tar of a sealed layer. fds: where to."""

    tree: str
    root_entry: bool = False
    epoch_s: int | None = None
    """Later times become this one: it is another layer then."""


_seal_request = msgspec.json.Decoder(SealRequest)
_tar_request = msgspec.json.Decoder(TarRequest)
_encoder = msgspec.json.Encoder()


def run_seal(request: bytes, _fds: Sequence[int]) -> bytes:
    """Worker kind ``layer.seal``: ``SealRequest`` to ``SealReply``."""
    wanted = _seal_request.decode(request)
    try:
        reply = SealReply(sealed=seal(wanted.root, wanted.points, unpacked=wanted.unpacked))
    except (PalletError, OSError) as error:
        reply = SealReply(failure=failure_of(error))
    return _encoder.encode(reply)


def run_tar(request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``layer.tar``: ``TarRequest`` to a ``SealReply`` without a DiffID's check."""
    wanted = _tar_request.decode(request)
    digest = hashlib.sha256()
    total = 0

    def write(piece: memoryview) -> None:
        nonlocal total
        digest.update(piece)
        total += len(piece)
        while piece:
            piece = piece[os.write(fds[0], piece):]

    try:
        _raise_limit()
        root_fd = os.open(wanted.tree, _DIRECTORY)
        done = diff.write_layer(root_fd, write, epoch_s=wanted.epoch_s, root_entry=wanted.root_entry)
        reply = SealReply(sealed=Sealed(diff_id=f"sha256:{digest.hexdigest()}", tar_bytes=total,
                                        size_bytes=done.size_bytes, root_entry=wanted.root_entry))
    except (PalletError, OSError) as error:
        reply = SealReply(failure=failure_of(error))
    return _encoder.encode(reply)


def seal(root: RootMount, points: Sequence[str] = (), *, unpacked: bool = False) -> Sealed:
    """Seal the upper directory of ``root``.

    May move this process into a mount namespace of its own and change its working directory.

    Raises:
        SystemFailureError, OSError: as ``diff.write_layer``.
    """
    assert root.upper is not None
    _raise_limit()
    base = _Base(root)
    upper_fd = os.open(os.path.join(root.base_dir, root.upper), _DIRECTORY)
    for point in points:
        _remove_point(upper_fd, base, point)
    top = os.stat(os.path.join(root.base_dir, root.lower[0])) if root.lower else None
    ours = os.fstat(upper_fd)
    plain = (top.st_mode, top.st_uid, top.st_gid) if top is not None else (0o40755, 0, 0)
    root_entry = (ours.st_mode, ours.st_uid, ours.st_gid) != plain
    found = halves.digest(upper_fd, root_entry=root_entry,
                          has_lower_directory=None if unpacked else base.has_directory)
    os.close(upper_fd)
    return Sealed(diff_id=f"sha256:{found.hex}", tar_bytes=found.tar_bytes, size_bytes=found.size_bytes,
                  root_entry=root_entry)


class _Base:
    """The layers below, mounted once somebody asks."""

    def __init__(self, root: RootMount) -> None:
        self._root = msgspec.structs.replace(root, upper=None, work=None)
        self._fd = -1

    def _open(self) -> int:
        if self._fd < 0:
            here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            rootview.private_mounts()
            self._fd = rootview.open_readonly(self._root)
            os.fchdir(here)
            os.close(here)
        return self._fd

    def has_directory(self, path: bytes) -> bool:
        return bool(self._root.lower) and changes.is_directory(self._open(), path)

    def has(self, path: bytes) -> bool:
        return bool(self._root.lower) and changes.lookup(self._open(), path) is not None


def _remove_point(upper_fd: int, base: _Base, point: str) -> None:
    """Remove an empty mount point and the empty directories that were made for it."""
    path = os.fsencode(os.path.normpath("/" + point).lstrip("/"))
    while path:
        found = changes.lookup(upper_fd, path)
        if found is None or base.has(path):
            return
        parent, _, name = path.rpartition(b"/")
        try:
            parent_fd = os.open(parent or b".", _DIRECTORY, dir_fd=upper_fd)
        except OSError:
            return
        try:
            before = os.fstat(parent_fd)
            if stat.S_ISDIR(found.st_mode):
                os.rmdir(name, dir_fd=parent_fd)
            elif found.st_size or not stat.S_ISREG(found.st_mode):
                return
            else:
                os.unlink(name, dir_fd=parent_fd)
            os.utime(parent_fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        except OSError:
            return  # there is something in it
        finally:
            os.close(parent_fd)
        path = parent


def _raise_limit() -> None:
    """One descriptor is open for each level of the tree."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
