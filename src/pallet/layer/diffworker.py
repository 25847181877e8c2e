"""Worker kinds that read a container's files: its layer, its whole tree, its changes.

Runs   ``run_*`` in a child of the zygote, one request a child. The documents are for the daemon too.
Needs  CAP_SYS_ADMIN for the mounts, all of them in a mount namespace of the child.
"""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import PalletError, SyscallError
from pallet.layer import changes, diff, rootview, treediff
from pallet.layer.worker import WorkerFailure, failure_of
from pallet.spec.mounts import RootMount

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class DiffRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Read a container. fds: where the answer goes, then a pidfd if ``running``."""

    root: RootMount
    """As it is or would be mounted; without a writable directory these are layers, to be compared with ``base``."""
    base: RootMount | None = None
    """The image, for a snapshotter without upper directories."""
    stubs: list[str] = []
    """Mount points that count as the image's, where ``base`` lacks them."""
    epoch_s: int | None = None
    """SOURCE_DATE_EPOCH: later times become this one."""
    time_s: int | None = None
    """Of every entry of a whole root."""
    running: bool = False


class DiffReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How it went; the answer itself is in the descriptor."""

    entries: int = 0
    skipped: int = 0
    """Files that a layer cannot hold: their names begin with ``.wh.``."""
    failure: WorkerFailure | None = None

    def result(self) -> DiffReply:
        """Return itself or raise what went wrong."""
        if self.failure is not None:
            self.failure.raise_()
        return self


_request = msgspec.json.Decoder(DiffRequest)
_encoder = msgspec.json.Encoder()


def run_layer(request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``layer.diff``: write what the container adds to its image as a layer's tar."""
    return _answer(_layer, request, fds)


def run_tree(request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``layer.export``: write the container's whole root as a tar."""
    return _answer(_tree, request, fds)


def run_changes(request: bytes, fds: Sequence[int]) -> bytes:
    """Worker kind ``layer.changes``: write ``[{"Path": …, "Kind": …}]`` (Engine API)."""
    return _answer(_changes, request, fds)


def _answer(work: Callable[[DiffRequest, Sequence[int]], DiffReply], request: bytes,
            fds: Sequence[int]) -> bytes:
    wanted = _request.decode(request)
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one descriptor a level of the tree
        rootview.private_mounts()
        reply: DiffReply = work(wanted, fds)
    except (PalletError, OSError) as error:
        reply = DiffReply(failure=failure_of(error))
    return _encoder.encode(reply)


def _layer(wanted: DiffRequest, fds: Sequence[int]) -> DiffReply:
    upper_fd, base_fd = _sides(wanted)
    if wanted.base is not None:
        done = treediff.write_difference(upper_fd, base_fd, fds[0], epoch_s=wanted.epoch_s,
                                        stubs=_paths(wanted), contents=wanted.root.upper is None)
    else:
        done = diff.write_layer(
            upper_fd, fds[0], epoch_s=wanted.epoch_s, root_entry=_root_differs(upper_fd, base_fd),
            has_lower_directory=lambda path: changes.is_directory(base_fd, path))
    return DiffReply(entries=done.entries, skipped=done.skipped)


def _tree(wanted: DiffRequest, fds: Sequence[int]) -> DiffReply:
    try:
        root_fd = rootview.open_running(fds[1]) if wanted.running else -1
    except SyscallError:
        root_fd = -1  # it has ended meanwhile
    if root_fd < 0:
        root_fd = rootview.open_readonly(wanted.root)
    done = diff.write_tree(root_fd, fds[0], time_s=wanted.time_s)
    return DiffReply(entries=done.entries)


def _changes(wanted: DiffRequest, fds: Sequence[int]) -> DiffReply:
    upper_fd, base_fd = _sides(wanted)
    if wanted.base is not None:
        found = treediff.changes(upper_fd, base_fd, stubs=_paths(wanted))
    else:
        found = changes.of_upper(upper_fd, base_fd)
    body = _encoder.encode([{"Path": "/" + item.path.decode(errors="replace"), "Kind": item.kind}
                            for item in found] or None)
    view = memoryview(body)
    while view:
        view = view[os.write(fds[0], view):]
    return DiffReply(entries=len(found))


def _sides(wanted: DiffRequest) -> tuple[int, int]:
    """Open the container's own files and what they are compared with."""
    root = wanted.root
    if root.upper is None:
        assert wanted.base is not None, "layers are compared with others"
        return rootview.open_readonly(root), rootview.open_readonly(wanted.base)
    upper_fd = os.open(os.path.join(root.base_dir, root.upper), _DIRECTORY | os.O_NOFOLLOW)
    base = wanted.base or msgspec.structs.replace(root, upper=None, work=None)
    return upper_fd, rootview.open_readonly(base)


def _root_differs(upper_fd: int, base_fd: int) -> bool:
    """Whether the root directory's own attributes were changed: only then it has an entry."""
    ours, theirs = os.fstat(upper_fd), os.fstat(base_fd)
    return (ours.st_mode, ours.st_uid, ours.st_gid) != (
        theirs.st_mode, theirs.st_uid, theirs.st_gid)


def _paths(wanted: DiffRequest) -> frozenset[bytes]:
    return frozenset(map(os.fsencode, wanted.stubs))
