"""Worker kinds ``build.files`` and ``build.digest``: file operations on a snapshot, and what a tree holds.

Owns   the mounts that both need, and the documents they speak.
Runs   ``run_*`` in a zygote child, one request a child; the documents are for the daemon, too.
Needs  CAP_SYS_ADMIN for the mounts, all of them in a mount namespace of the child.

``build.files`` seals the snapshot afterwards (``layer/seal.py``): one child a step.
"""

from __future__ import annotations

import errno
import os
import posixpath
import resource
import sys
from typing import TYPE_CHECKING, Literal

import msgspec

from pallet.build.graph import OR_ROOT
from pallet.build.ops import editing, modes, selection
from pallet.build.ops.copying import Copier, Look
from pallet.build.ops.selection import Selection, SourceError, SourceMissingError
from pallet.errors import InvalidParameterError, PalletError, SyscallError
from pallet.layer import rootview
from pallet.layer.seal import Sealed, seal
from pallet.layer.worker import WorkerFailure, failure_of
from pallet.linux import mount as m
from pallet.linux import safepath
from pallet.runtime import user as users
from pallet.runtime.failure import StartFailureError
from pallet.spec.ignore import PathMatcher
from pallet.spec.mounts import RootMount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.build.ops.selection import Excluder

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PLAIN_LOWER = ["empty"]
_NANO = 1_000_000_000
_MAX_ID = 1 << 32
_MAX_FRAMES = 20_000
_MANY_FILES = 4000


class Input(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tree that is read: layers, or a directory of this host."""

    root: RootMount | None = None
    path: str = ""
    share: bool = False
    """Its files are never written to: a layer may hold links of them."""
    files: int = 0
    """About how many it has."""


class FileAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of ``graph.Action``."""

    kind: Literal["copy", "write", "directory", "remove", "link"]
    path: str
    """Destination, or what goes."""
    input: int = 0
    """In ``FilesRequest.inputs``."""
    paths: list[str] = []
    exclude: list[str] = []
    wildcards: bool = True
    parents: bool = False
    unpack: bool = False
    owner: str = ""
    keep_owner: bool = False
    mode: str = ""
    data: bytes = b""
    include: list[str] = []
    itself: bool = False
    follow: bool = True
    matches: bool = False
    lenient: bool = False
    makes_parents: bool = True
    replaces: bool = False
    may_be_absent: bool = False
    target: str = ""
    time_ns: int | None = None


class FilesRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Carry actions out on a snapshot and seal it. No fds."""

    root: RootMount
    """``Snapshotter.root_mount`` of the snapshot."""
    inputs: list[Input] = []
    actions: list[FileAction]
    epoch_s: int | None = None
    """SOURCE_DATE_EPOCH: time of what is made without one of its own."""
    seal: bool = True
    """False: the tree is a directory that goes on being used."""


class DigestRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Digest selections of one tree. No fds."""

    input: Input
    paths: list[str]
    exclude: list[str] = []
    wildcards: bool = True
    parents: bool = False
    follow: bool = True
    lenient: bool = False


class FilesReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came out: ``sealed`` of ``build.files``, ``digest`` of ``build.digest``, or a failure."""

    sealed: Sealed | None = None
    digest: str = ""
    missing: str | None = None
    """A path that is not in its input."""
    leads_to: str = ""
    """The same, links followed."""
    problem: str | None = None
    """Why else no digest can be made of an input."""
    failure: WorkerFailure | None = None

    def check(self) -> FilesReply:
        """Return itself or raise what went wrong.

        Raises:
            SourceMissingError: a path is not there.
        """
        if self.missing is not None:
            raise SourceMissingError(self.missing, self.leads_to)
        if self.problem is not None:
            raise SourceError(self.problem)
        if self.failure is not None:
            self.failure.raise_()
        return self


_files = msgspec.json.Decoder(FilesRequest)
_digest = msgspec.json.Decoder(DigestRequest)
_encoder = msgspec.json.Encoder()


def run_files(request: bytes, _fds: Sequence[int]) -> bytes:
    """Worker kind ``build.files``: ``FilesRequest`` to ``FilesReply``."""
    wanted = _files.decode(request)
    try:
        os.umask(0)
        _go_deep()
        _carry_out(wanted)
        reply = FilesReply(sealed=seal(wanted.root) if wanted.seal else None)
    except (PalletError, OSError, StartFailureError, RecursionError) as error:
        reply = _failed(error)
    return _encoder.encode(reply)


def run_digest(request: bytes, _fds: Sequence[int]) -> bytes:
    """Worker kind ``build.digest``: ``DigestRequest`` to ``FilesReply``."""
    wanted = _digest.decode(request)
    try:
        _go_deep()
        if wanted.input.root is not None:
            rootview.private_mounts()
        fd = open_input(wanted.input)
        found = selection.digest(
            fd, Selection(paths=tuple(wanted.paths), exclude=tuple(wanted.exclude),
                          wildcards=wanted.wildcards, parents=wanted.parents, follow=wanted.follow,
                          lenient=wanted.lenient),
            excluder=excluder_of(wanted.exclude))
        reply = FilesReply(digest=found)
    except (PalletError, OSError, RecursionError) as error:
        reply = _failed(error)
    return _encoder.encode(reply)


def _go_deep() -> None:
    """Let this child follow trees of thousands of levels: a step can make them."""
    sys.setrecursionlimit(_MAX_FRAMES)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _failed(error: Exception) -> FilesReply:
    if isinstance(error, RecursionError):
        error = InvalidParameterError("directories are nested too deeply")
    if isinstance(error, SourceMissingError):
        return FilesReply(missing=error.path, leads_to=error.leads_to)
    if isinstance(error, SourceError):
        return FilesReply(problem=str(error))
    if isinstance(error, StartFailureError):
        return FilesReply(failure=WorkerFailure(kind="InvalidParameterError", message=str(error)))
    assert isinstance(error, PalletError | OSError)
    return FilesReply(failure=failure_of(error))


def open_input(given: Input) -> int:
    """Open a tree for reading. Precondition for layers: ``rootview.private_mounts``."""
    if given.root is not None:
        return rootview.open_readonly(given.root)
    return os.open(given.path, _DIRECTORY)


def excluder_of(patterns: Sequence[str]) -> Excluder | None:
    """What leaves out the paths that ``--exclude`` names."""
    if not patterns:
        return None
    try:
        return PathMatcher(patterns).excludes
    except InvalidParameterError as error:
        message = f"invalid excludepatterns: [{' '.join(patterns)}]: {error}"
        raise SourceError(message) from error


def _carry_out(wanted: FilesRequest) -> None:
    root = wanted.root
    assert root.upper is not None
    direct = root.lower in ([], _PLAIN_LOWER)  # [] is a copy of everything
    if not direct or any(given.root is not None for given in wanted.inputs):
        rootview.private_mounts()
    inputs = [open_input(given) for given in wanted.inputs]
    upper_fd = root_fd = os.open(os.path.join(root.base_dir, root.upper), _DIRECTORY)
    if not direct:
        _mount(root)
        root_fd = os.open(root.base_dir, _DIRECTORY)
    for number, action in enumerate(wanted.actions, 1):
        # Writing past an overlay is only for who comes last: the others' look-ups are remembered in it.
        under_fd = upper_fd if direct or number == len(wanted.actions) else -1
        try:
            _act(action, root_fd, under_fd, inputs, wanted)
        except SyscallError as error:
            path = posixpath.normpath(action.path)
            if error.errno == errno.ENOTDIR:
                message = f"mkdir {path}: not a directory"
            elif error.errno == errno.ELOOP:
                message = "too many links"
                if action.kind != "copy":
                    message = f"lstat {path}: too many levels of symbolic links"
            else:
                raise
            raise InvalidParameterError(message) from error
    for fd in {upper_fd, root_fd, *inputs}:
        os.close(fd)
    os.chdir("/")
    if not direct:
        m.unmount(root.base_dir, m.MNT_DETACH)


def _mount(root: RootMount) -> None:
    os.chdir(root.base_dir)
    # Volatile: the unmount would wait until everything dirty on the host's disk is written.
    data = ["lowerdir=" + ":".join(root.lower), f"upperdir={root.upper}", f"workdir={root.work}",
            *root.options, *([] if "volatile" in root.options else ["volatile"])]
    m.mount("overlay", root.base_dir, "overlay", data=",".join(data))


def _act(action: FileAction, root_fd: int, under_fd: int, inputs: Sequence[int], wanted: FilesRequest) -> None:
    owner = _owner(root_fd, action)
    mode = modes.parse(action.mode) if action.mode else None
    look = Look(owner=owner, mode=mode, epoch_ns=None if wanted.epoch_s is None else wanted.epoch_s * _NANO,
                time_ns=action.time_ns, replaces=action.replaces)
    if action.kind == "remove":
        editing.remove(root_fd, action.path, may_be_absent=action.may_be_absent, wildcards=action.wildcards)
    elif action.kind == "link":
        editing.link(root_fd, action.path, action.target, owner=owner or (0, 0), time_ns=action.time_ns)
    elif action.kind != "copy":
        _make(action, root_fd, look)
    else:
        chosen = Selection(paths=tuple(action.paths), exclude=tuple(action.exclude), wildcards=action.wildcards,
                           parents=action.parents, follow=action.follow, lenient=action.lenient)
        if not action.makes_parents:
            editing.check_parent(root_fd, action.path)
        if action.matches and not selection.find(inputs[action.input], chosen):
            message = f"{action.paths[0]} not found"
            raise InvalidParameterError(message)
        given = wanted.inputs[action.input]
        share = wanted.seal and given.share
        helped = share and given.files >= _MANY_FILES and len(os.sched_getaffinity(0)) > 1
        Copier(root_fd, look, excluder_of(action.exclude), under_fd=under_fd, share=share,
               helped=helped).copy(
            inputs[action.input], chosen, action.path, unpack=action.unpack, itself=action.itself,
            include=action.include)


def _make(action: FileAction, root_fd: int, look: Look) -> None:
    """Make a directory or a file."""
    number = look.mode.number if look.mode is not None and look.mode.number is not None else None
    owner = look.owner or (0, 0)
    if action.kind == "directory":
        mode = 0o755 if number is None else number
        if action.makes_parents:
            os.close(Copier(root_fd, look).directory(action.path, mode))
        else:
            editing.directory(root_fd, action.path, mode=mode, owner=owner, time_ns=action.time_ns)
    elif action.makes_parents:
        Copier(root_fd, look).write(action.path, action.data)
    else:
        editing.write(root_fd, action.path, action.data, mode=0o644 if number is None else number, owner=owner,
                      time_ns=action.time_ns)


def _owner(root_fd: int, action: FileAction) -> tuple[int, int] | None:
    if action.owner:
        return lookup_owner(root_fd, action.owner)
    # What an archive says of its files stands, whoever owns the archive.
    return None if action.keep_owner or action.unpack or action.kind != "copy" else (0, 0)


def lookup_owner(root_fd: int, text: str) -> tuple[int, int]:
    """``user[:group]`` by names or numbers, looked up in a tree's own files.

    A number without a colon is the group's, too; with nothing after the colon the group is root's. An unknown
    name with ``OR_ROOT`` behind it is root, as a group that of the user.

    Raises:
        InvalidParameterError: an unknown name; the classic builder's words.
    """
    user, colon, group = text.partition(":")
    user, user_or_root = user.removesuffix(OR_ROOT), user.endswith(OR_ROOT)
    group, group_or_user = group.removesuffix(OR_ROOT), group.endswith(OR_ROOT)
    passwd, groups = [_read(root_fd, path) for path in ("/etc/passwd", "/etc/group")]
    if _is_number(user):
        uid = gid = int(user)
    else:
        try:
            found = users.resolve(user, [], passwd, "")
            uid, gid = found.uid, found.gid
        except StartFailureError as error:
            if not user_or_root:
                raise _unknown("uid", "user", user) from error
            uid = gid = 0
    if colon and not group:
        gid = 0
    if _is_number(group):
        gid = int(group)
    elif group:
        try:
            gid = users.resolve(f"0:{group}", [], "", groups).gid
        except StartFailureError as error:
            if not group_or_user:
                raise _unknown("gid", "group", group) from error
    return uid, gid


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) < _MAX_ID


def _unknown(what: str, kind: str, name: str) -> InvalidParameterError:
    return InvalidParameterError("unable to convert uid/gid chown string to host mapping: "
                                 f"can't find {what} for {kind} {name}: no such {kind}: {name}")


def _read(root_fd: int, path: str) -> str:
    try:
        fd = safepath.open_in_root(root_fd, path)
    except SyscallError:
        return ""
    try:
        return users.read_database(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
