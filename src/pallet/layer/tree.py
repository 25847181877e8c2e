"""The tree that a layer is unpacked into, and the paths in it.

Owns   name resolution. The tree starts empty and nobody else writes to it, so the directories and
       symlinks that exist are known here exactly: a path is only handed to the kernel when every
       directory on it was made by us and is still one. No symlink is ever followed by the kernel.
Runs   in zygote children (which moreover chroot into the tree).
Spec   image-spec layer.md; Docker's rules: names are cleaned lexically, absolute ones are relative
       to the root, ``..`` beyond the root is refused, symlinks in a parent are followed inside the
       root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from pallet.errors import InvalidParameterError
from pallet.layer.model import BreakoutError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.layer.lower import CopiedUp
    from pallet.layer.source import ByteStream
    from pallet.layer.tarheader import Entry

_MAX_LINKS = 40
_MAX_PATH = 4096
_CACHED_PARENTS = 8192
_Value = TypeVar("_Value")


class DirectoryFacts(NamedTuple):
    """What a directory's own entry says; applied once its contents are there."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[bytes, bytes] | None


class Target(Protocol):
    """Where the files of a layer are made. Paths are resolved: their parents are directories.

    What is made raises FileExistsError when there is something of that name.
    """

    def exists(self, path: bytes) -> bool:
        """Whether there is anything at ``path``; a link is not followed."""
        ...

    def early_mode(self, mode: int) -> int:
        """Mode a directory is made with when its entry says ``mode``."""
        ...

    def directory(self, path: bytes, mode: int) -> None:
        """Make a directory, owned by root until ``finish_directory``."""
        ...

    def symlink(self, path: bytes, target: bytes) -> None:
        """Make a symlink; ``dress`` follows."""
        ...

    def whiteout(self, path: bytes) -> None:
        """Make an overlay whiteout."""
        ...

    def regular(self, path: bytes, entry: Entry, stream: ByteStream) -> None:
        """Make a regular file with everything its entry says; its data come next in ``stream``."""
        ...

    def device(self, path: bytes, entry: Entry) -> None:
        """Make a device or fifo; ``dress`` follows."""
        ...

    def dress(self, path: bytes, entry: Entry) -> None:
        """Give owner, xattrs and times to something that must not be opened."""
        ...

    def link(self, target: bytes, path: bytes) -> None:
        """Make ``path`` a hard link to ``target``, which is no directory."""
        ...

    def unlink(self, path: bytes) -> None:
        """Remove what is no directory."""
        ...

    def remove_tree(self, path: bytes) -> None:
        """Remove a directory with everything in it."""
        ...

    def copy_up(self, lower_fds: Sequence[int], path: bytes) -> CopiedUp | None:
        """Bring a file up from the layers below; see ``lower.copy_up``."""
        ...

    def finish_directory(self, path: bytes, facts: DirectoryFacts | None, *, opaque: bool) -> None:
        """Give a directory what its entry says (a mode below zero: it has it) and the opaque mark."""
        ...


class Tree:
    """Paths below one root directory. Paths are relative bytes; ``b""`` is the root itself."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.directories: dict[bytes, DirectoryFacts | None] = {b"": None}
        """Every directory; None for one that no entry has described."""
        self.opaque: set[bytes] = set()
        self.whiteouts: set[bytes] = set()
        self._links: dict[bytes, bytes] = {}
        self._prefixes: dict[bytes, bytes] = {}

    def locate(self, name: bytes) -> bytes:
        """Return the path that an entry of this name is to have; make its parents.

        The parent's symlinks are resolved, the last component's are not.

        Raises:
            BreakoutError: the name leaves the root.
            InvalidParameterError: a parent is not a directory.
        """
        parent, _, base = name.rpartition(b"/")
        if not base or base in (b".", b".."):
            name = self.clean(name)
            parent, _, base = name.rpartition(b"/")
            if not base:
                return b""
        prefix = self._prefixes.get(parent)
        if prefix is None:
            if len(name) >= _MAX_PATH:
                message = f"{_show(name)[:80]}…: file name too long"
                raise InvalidParameterError(message)
            directory = self._resolve(parent, make=True)
            assert directory is not None
            prefix = directory + b"/" if directory else b""
            if len(self._prefixes) >= _CACHED_PARENTS:
                self._prefixes.clear()
            self._prefixes[parent] = prefix
        return prefix + base

    def find(self, name: bytes) -> bytes | None:
        """Like ``locate`` but makes nothing: None when the parent is not in this layer."""
        parent, _, base = self.clean(name).rpartition(b"/")
        if not base:
            return b""
        directory = self._resolve(parent, make=False)
        if directory is None:
            return None
        return directory + b"/" + base if directory else base

    def clean(self, name: bytes) -> bytes:
        """Drop ``.``, empty and ``..`` components lexically.

        Raises:
            BreakoutError: ``..`` leaves the root.
        """
        parts: list[bytes] = []
        for part in name.split(b"/"):
            if part == b"..":
                if not parts:
                    message = f"invalid path {_show(name)!r}: it is outside of the layer"
                    raise BreakoutError(message)
                parts.pop()
            elif part and part != b".":
                parts.append(part)
        return b"/".join(parts)

    def _resolve(self, parent: bytes, *, make: bool) -> bytes | None:
        pending = self.clean(parent).split(b"/")[::-1]
        current = b""
        links = 0
        while pending:
            part = pending.pop()
            if part == b"..":  # from a symlink's target: at the root it stays there, as in a chroot
                current = current.rpartition(b"/")[0]
                continue
            if not part or part == b".":
                continue
            path = current + b"/" + part if current else part
            if path in self.directories:
                current = path
            elif path in self._links:
                links += 1
                if links > _MAX_LINKS:
                    message = f"{_show(parent)}: too many levels of symbolic links"
                    raise InvalidParameterError(message)
                target = self._links[path]
                if target.startswith(b"/"):
                    current = b""
                pending.extend(target.split(b"/")[::-1])
            elif make:
                self._make_parent(path)
                current = path
            else:
                return None
        return current

    def _make_parent(self, path: bytes) -> None:
        if not self.exists(path):
            self.make_directory(path, 0o755)
        elif path in self.whiteouts:
            # The layer removes the old directory and puts things below its name.
            self.remove(path)
            self.make_directory(path, 0o755)
            self.opaque.add(path)
        else:
            message = f"mkdir {_show(path)}: not a directory"
            raise InvalidParameterError(message)

    def exists(self, path: bytes) -> bool:
        """Whether there is something at a path whose parents are in the tree."""
        return self._target.exists(path)

    def make_directory(self, path: bytes, mode: int) -> None:
        """Make a directory that does not exist."""
        self._target.directory(path, mode)
        self.directories[path] = None

    def make_symlink(self, path: bytes, target: bytes) -> None:
        """Make a symlink; its target is stored as it is, wherever it points."""
        self._target.symlink(path, target)
        self._links[path] = target

    def make_whiteout(self, path: bytes) -> None:
        """Hide ``path`` of the layers below, but nothing this layer has itself."""
        if path in self.directories:
            self.opaque.add(path)
        elif not self.exists(path):
            self._target.whiteout(path)
            self.whiteouts.add(path)

    def linked(self, path: bytes, target: bytes) -> None:
        """Note that ``path`` is now a hard link to ``target``, which may be a symlink."""
        if target in self._links:
            self._links[path] = self._links[target]

    def remove(self, path: bytes) -> None:
        """Remove whatever is at ``path``, with everything below a directory."""
        if path in self.directories:
            self._target.remove_tree(path)
            below = path + b"/"
            self.directories = _without(self.directories, path, below)
            self._links = _without(self._links, path, below)
            self.opaque = {item for item in self.opaque
                           if item != path and not item.startswith(below)}
            self.whiteouts = {item for item in self.whiteouts if not item.startswith(below)}
        else:
            self._target.unlink(path)
            self._links.pop(path, None)
            self.whiteouts.discard(path)
        self._prefixes.clear()

    def drop_hidden_whiteouts(self) -> None:
        """Remove whiteouts under opaque directories: there is nothing left for them to hide.

        Overlay lists such a whiteout when the directory exists in one layer only.
        """
        for path in [item for item in self.whiteouts if self.under_opaque(item)]:
            self._target.unlink(path)
            self.whiteouts.discard(path)

    def under_opaque(self, path: bytes) -> bool:
        """Whether a directory above ``path`` is opaque."""
        if not self.opaque:
            return False
        while path:
            path = path.rpartition(b"/")[0]
            if path in self.opaque:
                return True
        return False


def _without(known: dict[bytes, _Value], path: bytes, below: bytes) -> dict[bytes, _Value]:
    return {item: value for item, value in known.items()
            if item != path and not item.startswith(below)}


def _show(name: bytes) -> str:
    return name.decode(errors="replace")
