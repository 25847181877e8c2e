"""Entry points of the zygote's layer workers, and the documents they speak.

Runs   ``run_*`` in a child of the zygote, one request a child: they chroot and never return to
       what they were. The documents and ``ProgressWriter`` are for the daemon's side too.
Needs  CAP_SYS_CHROOT (a second wall; done without where it is lacking), CAP_MKNOD, CAP_CHOWN,
       CAP_SYS_ADMIN for ``trusted.*`` xattrs.

Progress protocol of a source that still grows: fds[1] is the read end of a pipe. The daemon writes
records of 8 bytes, little-endian: how many bytes of the file are there in all; the top bit
(``FINAL``) says that this is all there will be. End of file before ``FINAL`` means that the
download failed, and so does the unpacking.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import msgspec

from pallet import errors
from pallet.errors import InvalidParameterError, PalletError, SystemFailureError
from pallet.layer import model, rootview, whiteout
from pallet.layer.apply import apply
from pallet.layer.copy import copy_tree
from pallet.layer.erofstarget import write_image
from pallet.layer.model import Applied, Limits
from pallet.layer.source import FINAL
from pallet.linux import safepath
from pallet.spec.mounts import RootMount

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

__all__ = ["FINAL", "ApplyReply", "ApplyRequest", "CopyUpReply", "CopyUpRequest", "ProgressWriter",
           "WorkerFailure", "run_apply", "run_copyup"]

_ANNOUNCE_BYTES = 256 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class ApplyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Unpack a layer into ``target``. fds: the source, then the progress pipe if ``growing``.

    A source that is a file is read from offset 0 whatever its own offset; a pipe or socket is read
    to its end.
    """

    target: str
    """``LayerDraft.path``: an empty directory, or an empty file that becomes an EROFS image."""
    compression: str = "auto"
    """See ``pallet.layer.source.chunks``; the stream's first bytes decide."""
    growing: bool = False
    limits: Limits = Limits()
    lower_dirs: list[str] = []
    """Trees of the layers below, topmost first: only needed after ``MissingLinkTargetError``
    (``Snapshotter.layer_dirs`` gives them)."""
    userxattr: bool = False
    """Write ``user.overlay.*`` xattrs, for mounts in a user namespace."""
    hashed: bool = True
    """False: whoever writes the file hashes the very bytes of the tar already. A directory's
    ``Applied.diff_id`` is then empty; an image is named by it and has it in any case."""


class CopyUpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Fill a new volume from an image's directory. No fds."""

    root: RootMount
    """``Snapshotter.root_mount_of_layers`` of the image."""
    path: str
    """Path in the image, absolute."""
    target: str
    """The volume's ``_data``; nothing is done unless it is empty."""


class WorkerFailure(msgspec.Struct, frozen=True, kw_only=True):
    """An error as data: the class's name in ``pallet.errors`` or ``pallet.layer.model``."""

    kind: str
    message: str

    def raise_(self) -> None:
        """Raise it as what it was in the worker."""
        kind: type[PalletError] = getattr(
            model, self.kind, getattr(errors, self.kind, SystemFailureError))
        raise kind(self.message)


class ApplyReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run_apply`` answers: one of the two."""

    applied: Applied | None = None
    failure: WorkerFailure | None = None

    def result(self) -> Applied:
        """Return what was applied or raise what went wrong, as the kind it was in the worker."""
        if self.failure is not None:
            self.failure.raise_()
        assert self.applied is not None
        return self.applied


class CopyUpReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run_copyup`` answers."""

    copied: bool = False
    """False: the image has no such directory, or the volume is not empty."""
    failure: WorkerFailure | None = None

    def result(self) -> bool:
        """Return ``copied`` or raise what went wrong."""
        if self.failure is not None:
            self.failure.raise_()
        return self.copied


class ProgressWriter:
    """The daemon's end of the progress pipe. Owns the read end too until ``hand_over``.

    Never blocks: a record that does not fit is dropped, since the next one says more; only the last
    one waits.
    """

    def __init__(self) -> None:
        self.read_fd, self._fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        self._told = 0

    def handed_over(self) -> None:
        """Close the read end here, once it was sent to the worker."""
        if self.read_fd >= 0:
            os.close(self.read_fd)
            self.read_fd = -1

    def advance(self, available: int) -> None:
        """Tell that ``available`` bytes of the file are there; small steps are saved up."""
        if available - self._told >= _ANNOUNCE_BYTES:
            self._told = available
            self._write(available)

    def finish(self, total: int) -> None:
        """Tell that ``total`` bytes are all."""
        os.set_blocking(self._fd, True)
        self._write(total | FINAL)

    def _write(self, record: int) -> None:
        try:
            os.write(self._fd, record.to_bytes(8, "little"))
        except (BlockingIOError, BrokenPipeError):
            return  # a worker that has gone says why in its reply

    def close(self) -> None:
        """Close both ends; without ``finish`` the worker fails. Idempotent."""
        self.handed_over()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


_apply_request = msgspec.json.Decoder(ApplyRequest)
_copyup_request = msgspec.json.Decoder(CopyUpRequest)
_encoder = msgspec.json.Encoder()


def run_apply(request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``layer.apply``: ``ApplyRequest`` to ``ApplyReply``."""
    wanted = _apply_request.decode(request)
    reply: ApplyReply
    try:
        lower_fds = [os.open(path, _DIRECTORY) for path in wanted.lower_dirs]
        progress_fd = fds[1] if wanted.growing else None
        overlay_xattrs = whiteout.USER if wanted.userxattr else whiteout.TRUSTED
        if stat.S_ISREG(os.lstat(wanted.target).st_mode):
            image_fd = os.open(wanted.target, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            applied = write_image(
                fds[0], image_fd, compression=wanted.compression, progress_fd=progress_fd,
                limits=wanted.limits, lower_fds=lower_fds, overlay_xattrs=overlay_xattrs)
        else:
            root_fd = os.open(wanted.target, _DIRECTORY | os.O_NOFOLLOW)
            applied = apply(
                fds[0], root_fd, confine=True, compression=wanted.compression,
                progress_fd=progress_fd, limits=wanted.limits, lower_fds=lower_fds,
                overlay_xattrs=overlay_xattrs, hashed=wanted.hashed)
        reply = ApplyReply(applied=applied)
    except (PalletError, OSError) as error:
        reply = ApplyReply(failure=failure_of(error))
    return _encoder.encode(reply)


def run_copyup(request: bytes, _fds: Sequence[int]) -> bytes:
    """Worker kind ``layer.copyup``: ``CopyUpRequest`` to ``CopyUpReply``."""
    wanted = _copyup_request.decode(request)
    reply: CopyUpReply
    try:
        reply = CopyUpReply(copied=_copy_up(wanted))
    except (PalletError, OSError) as error:
        reply = CopyUpReply(failure=failure_of(error))
    return _encoder.encode(reply)


def _copy_up(wanted: CopyUpRequest) -> bool:
    """Copy inside this child's own mount namespace, where the image may be mounted anywhere."""
    target_fd = os.open(wanted.target, _DIRECTORY | os.O_NOFOLLOW)
    if os.listdir(target_fd):
        return False
    root_fd = _open_root(wanted.root)
    try:
        source_fd = safepath.open_in_root(root_fd, wanted.path, _DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise
    copy_tree(source_fd, target_fd)
    return True


def _open_root(root: RootMount) -> int:
    if root.upper is not None:
        message = "copy-up takes a read-only root"
        raise InvalidParameterError(message)
    rootview.private_mounts()
    return rootview.open_readonly(root)


def failure_of(error: PalletError | OSError) -> WorkerFailure:
    """Turn an error into data."""
    if isinstance(error, PalletError):
        return WorkerFailure(kind=type(error).__name__, message=str(error))
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    text = os.strerror(error.errno).lower() if error.errno else str(error)
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return WorkerFailure(kind="StorageFullError" if full else "SystemFailureError",
                         message=f"{where.encode(errors='replace').decode()}: {text}" if where
                         else text)
