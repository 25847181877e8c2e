"""Entry points of the zygote's layer workers, and the documents they speak.

Runs   ``run_*`` in a child of the zygote, one request a child; the documents on both sides.
Needs  for ``run_apply``: CAP_SYS_CHROOT (used when there), CAP_MKNOD, CAP_CHOWN, CAP_SYS_ADMIN for
       ``trusted.*`` xattrs.

Progress protocol of a source that still grows: fds[1] is the read end of a pipe (or a stream
socket). The daemon writes records of 8 bytes, little-endian: how many bytes of the file are there
in all; the top bit (``FINAL``) says that this is all there will be. Writes may be as rare as wished
(some MiB apart); end of file before ``FINAL`` means that the download failed, and so does the apply.
"""

from __future__ import annotations

import msgspec

from pallet.layer.model import Applied, Limits

FINAL = 1 << 63


class ApplyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Unpack a layer into ``target``. fds: the source, then the progress pipe if ``growing``.

    The source is read with ``pread`` from offset 0 when it is a file, and to its end when it is a
    pipe or socket.
    """

    target: str
    """``LayerDraft.path``."""
    compression: str = "auto"
    growing: bool = False
    limits: Limits = Limits()
    lower_dirs: list[str] = []
    """Trees of the layers below, topmost first: only needed after ``MissingLinkTargetError``."""


class WorkerFailure(msgspec.Struct, frozen=True, kw_only=True):
    """An error as data: the kind's class name in ``pallet.errors`` or ``layer.model``, the text."""

    kind: str
    message: str


class ApplyReply(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run_apply`` answers."""

    applied: Applied | None = None
    failure: WorkerFailure | None = None

    def result(self) -> Applied:
        """Return what was applied or raise what went wrong, as the kind it was in the worker."""
        raise_failure(self.failure)
        assert self.applied is not None
        return self.applied
