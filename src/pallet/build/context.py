"""The last copy of every client's tree, so that only what changed has to travel.

Owns   ``<data-root>/contexts``: a directory a key, in it one generation or more and the index of the
       newest.
Runs   in the daemon: transfers on the loop with their disk work in threads.
Needs  one transfer a key at a time: ``transfer`` waits for the one before.

A tree that a build holds is never changed: when it has to, a copy of hard links is made first, and
files are replaced by a rename, never written in place. The index is removed before a tree is changed
and written anew after it, with the boot's id: a tree without an index of this boot is dropped, so
neither kill -9 nor a power cut leaves a tree that is not what its index says.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import os
import shutil
import stat
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from pallet.aio import run_blocking
from pallet.build import contextindex
from pallet.build.ports import ContextTree
from pallet.build.summaries import Summaries
from pallet.errors import DataLossError, InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

    from pallet.build.contextindex import FileStat

logger = logging.getLogger(__name__)

_INDEX = "index"
_LINKER = "linker"
_DEFAULT_LIMIT_BYTES = 4 << 30
_MAX_ENTRIES = 4_000_000
_MAX_LISTING_BYTES = 1 << 30
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class _Index(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a tree's index file holds."""

    boot: str
    key: str
    generation: str
    size_bytes: int
    blocks: dict[bytes, bytes]
    """By path as the disk has it: names need not be text."""
    digests: dict[bytes, str]


_decoder = msgspec.msgpack.Decoder(_Index)
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextUsage:
    """One kept tree, for ``builder du`` and ``prune``."""

    id: str
    key: str
    size_bytes: int
    used_at: float
    """Unix seconds."""
    in_use: bool


@dataclass(slots=True)
class _Tree:
    """One key's newest tree."""

    id: str
    key: str
    directory: str
    generation: str = ""
    blocks: dict[str, bytes] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    used_at: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    loaded: bool = False
    summaries: Summaries = field(default_factory=Summaries)

    @property
    def root(self) -> str:
        return f"{self.directory}/{self.generation}"


class ContextStore:
    """Trees by key."""

    def __init__(self, root: Path, *, limit_bytes: int = _DEFAULT_LIMIT_BYTES,
                 discard: Callable[[str], None] | None = None) -> None:
        """Nothing is read before ``sweep``.

        Args:
            discard: removes a file, a tree of any depth, or nothing; without one, no deeper than recursion goes.
        """
        self.discard = discard or _discard
        self._root = os.fspath(root)
        self._limit_bytes = limit_bytes
        self._trees: dict[str, _Tree] = {}
        self._holders: dict[str, int] = {}
        """Builds that hold a generation, by its path."""
        self._noting: set[asyncio.Future[None]] = set()
        self._numbers = itertools.count()
        self._boot = _boot_id()

    def sweep(self) -> None:
        """Drop what an earlier daemon did not finish, take over the rest. At start-up only; blocking."""
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        with os.scandir(self._root) as found:
            names = [entry.name for entry in found]
        for name in names:
            directory = f"{self._root}/{name}"
            index = self._read(directory)
            if index is None:
                self.discard(directory)
                continue
            tree = _Tree(id=name, key=index.key, directory=directory, generation=index.generation,
                         size_bytes=index.size_bytes, used_at=os.stat(f"{directory}/{_INDEX}").st_mtime)
            self._trees[name] = tree
            for other in os.listdir(directory):
                if other not in {_INDEX, _LINKER, index.generation}:
                    self.discard(f"{directory}/{other}")

    def _read(self, directory: str) -> _Index | None:
        try:
            with open(f"{directory}/{_INDEX}", "rb") as file:
                index = _decoder.decode(file.read())
        except (OSError, msgspec.DecodeError):
            return None
        whole = index.boot == self._boot and os.path.isdir(f"{directory}/{index.generation}")
        return index if whole else None

    # Transfers

    @asynccontextmanager
    async def transfer(self, key: str) -> AsyncIterator[Transfer]:
        """Begin to bring a tree up to date; what is not finished at the end is dropped.

        Args:
            key: whose tree it is and how it is filtered; see ``tree_key``. "" is a tree that is kept
                for no later build.
        """
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32] if key else (
            f"once-{os.getpid()}-{next(self._numbers)}-{os.urandom(4).hex()}")
        tree = self._trees.setdefault(name, _Tree(id=name, key=key, directory=f"{self._root}/{name}"))
        async with tree.lock:
            if not tree.loaded:
                await run_blocking(self._load, tree)
            transfer = Transfer(self, tree)
            try:
                yield transfer
            finally:
                if not transfer.finished:
                    await transfer.stop()
                    await asyncio.shield(run_blocking(self._forget, tree))

    def _load(self, tree: _Tree) -> None:
        index = self._read(tree.directory) if tree.generation else None
        if index is not None:
            tree.blocks = {os.fsdecode(path): block for path, block in index.blocks.items()}
            tree.digests = {os.fsdecode(path): digest for path, digest in index.digests.items()}
        tree.loaded = True

    def _forget(self, tree: _Tree) -> None:
        """Drop a tree whose transfer broke off after it had been changed."""
        if not tree.key:
            self._trees.pop(tree.id, None)
            self.discard(tree.directory)
            return
        if os.path.exists(f"{tree.directory}/{_INDEX}") or not tree.generation:
            return
        if not self._holders.get(tree.root):
            self.discard(tree.root)
        tree.summaries = Summaries()
        tree.generation, tree.blocks, tree.digests, tree.size_bytes = "", {}, {}, 0

    def begin_changes(self, tree: _Tree) -> None:
        """Make the tree one that may be changed: nobody's, and without an index. Blocking."""
        os.makedirs(tree.directory, mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(f"{tree.directory}/{_INDEX}")
        before = tree.root if tree.generation else ""
        if before and not self._holders.get(before):
            return
        tree.generation = f"{os.getpid()}-{next(self._numbers)}"
        os.mkdir(tree.root, 0o755)
        if before:
            _link_tree(before, tree.root)

    def write_index(self, tree: _Tree) -> None:
        """Make the tree one that a later build and a later daemon may use. Blocking."""
        if not tree.key:
            return
        index = _Index(boot=self._boot, key=tree.key, generation=tree.generation, size_bytes=tree.size_bytes,
                       blocks={os.fsencode(path): block for path, block in tree.blocks.items()},
                       digests={os.fsencode(path): digest for path, digest in tree.digests.items()})
        path = f"{tree.directory}/{_INDEX}"
        with open(f"{path}.new", "wb") as file:
            file.write(_encoder.encode(index))
        os.rename(f"{path}.new", path)

    def hold(self, tree: _Tree) -> ContextTree:
        """Hand a finished tree out."""
        tree.used_at = time.time()
        self._holders[tree.root] = self._holders.get(tree.root, 0) + 1
        # Of a tree that came as an archive nothing is listed: it has to be read.
        listed = partial(tree.summaries.digest, tree.blocks, tree.digests) if tree.blocks.get("") else None
        return ContextTree(root=tree.root, digest_of=tree.digests, linker=f"{tree.directory}/{_LINKER}",
                           listed=listed)

    async def release(self, held: ContextTree) -> None:
        """Let go of a tree; older generations and trees beyond the limit go with the last holder."""
        left = self._holders.get(held.root, 0) - 1
        if left > 0:
            self._holders[held.root] = left
            return
        self._holders.pop(held.root, None)
        directory, _, _ = held.root.rpartition("/")
        tree = self._trees.get(os.path.basename(directory))
        if tree is None or tree.root != held.root:
            await run_blocking(self.discard, held.root)
        elif not tree.key:
            self._trees.pop(tree.id, None)
            await run_blocking(self.discard, tree.directory)
        else:
            noting = asyncio.ensure_future(run_blocking(_touch, f"{tree.directory}/{_INDEX}"))
            self._noting.add(noting)  # nobody waits for it
            noting.add_done_callback(self._noting.discard)
        await self._shrink(self._limit_bytes)

    # What is kept

    def usage(self) -> list[ContextUsage]:
        """Every kept tree, the longest unused first."""
        found = [ContextUsage(id=tree.id, key=tree.key, size_bytes=tree.size_bytes, used_at=tree.used_at,
                              in_use=self._in_use(tree))
                 for tree in self._trees.values() if tree.key and tree.generation]
        return sorted(found, key=lambda usage: usage.used_at)

    def _in_use(self, tree: _Tree) -> bool:
        return tree.lock.locked() or bool(self._holders.get(tree.root))

    async def remove(self, ids: Iterable[str]) -> int:
        """Remove trees that nobody uses; return the bytes that went."""
        freed = 0
        for name in ids:
            tree = self._trees.get(name)
            if tree is None or self._in_use(tree):
                continue
            del self._trees[name]
            freed += tree.size_bytes
            await run_blocking(self.discard, tree.directory)
        return freed

    async def _shrink(self, limit_bytes: int) -> None:
        kept = self.usage()
        total = sum(usage.size_bytes for usage in kept)
        for usage in kept:
            if total <= limit_bytes:
                return
            total -= await self.remove([usage.id])


class Transfer:
    """One tree on its way here.

    First every directory is listed (``listing``, or ``entry`` for each path), then ``settle`` says
    which files have to come, ``write`` takes them in any order, and ``finish`` hands the tree out.
    """

    def __init__(self, store: ContextStore, tree: _Tree) -> None:
        self._store = store
        self._tree = tree
        self._blocks: dict[str, bytes] = {}
        self._listed: dict[str, list[tuple[bytes, bytes]]] = {}
        self._count = self._entries = self._listed_bytes = 0
        self._difference: contextindex.Difference | None = None
        self._digests: dict[str, str] = {}
        self._work: asyncio.Future[None] | None = None
        self.finished = False

    @property
    def root(self) -> str:
        """Where the tree grows, after ``settle``: for one that comes as a whole (an archive)."""
        return self._tree.root

    async def in_thread(self, work: Callable[[], None]) -> None:
        """Do a part of the transfer in a thread; ``stop`` waits for it, whoever is cancelled."""
        self._work = asyncio.ensure_future(run_blocking(work))
        await asyncio.shield(self._work)

    async def stop(self) -> None:
        """Wait for what runs in a thread."""
        if self._work is not None:
            await asyncio.wait([self._work])

    def listing(self, directory: str, block: bytes) -> None:
        """Take the listing of one directory ("" is the root) as ``contextindex`` defines it."""
        self._count += block.count(b"\0") // 3 + 1
        self._listed_bytes += len(block)
        if self._count > _MAX_ENTRIES or self._listed_bytes > _MAX_LISTING_BYTES:
            raise _too_many()
        if directory:
            _check_clean(directory)
        self._blocks[directory] = block

    def entry(self, path: str, entry: FileStat) -> None:
        """Take one entry, in any order.

        Raises:
            InvalidParameterError: the path is not clean and relative.
        """
        _check_clean(path)
        if "\0" in entry.target:
            message = f"invalid link {path!r} in a context"
            raise InvalidParameterError(message)
        self._entries += 1
        if self._entries > _MAX_ENTRIES:
            raise _too_many()
        parent, _, name = path.rpartition("/")
        raw = name.encode("utf-8", "surrogateescape")
        self._listed.setdefault(parent, []).append((raw, contextindex.encode_entry(raw, entry)))
        if entry.is_directory:
            self._listed.setdefault(path, [])

    async def settle(self) -> Mapping[str, FileStat]:
        """End the listing; return the files whose content has to come.

        Raises:
            InvalidParameterError: the listing is hostile or broken.
        """
        for directory, listed in self._listed.items():
            self.listing(directory, b"".join(block for _, block in sorted(listed)))
        self._blocks.setdefault("", b"")
        tree = self._tree
        if tree.generation and tree.blocks == self._blocks:
            self._difference = contextindex.Difference()
            return {}
        found = await run_blocking(contextindex.compare, tree.blocks, self._blocks)
        self._difference = found
        if found or not tree.generation:
            await self.in_thread(partial(self._prepare, found))
        return found.wanted

    def _prepare(self, found: contextindex.Difference) -> None:
        self._store.begin_changes(self._tree)
        root = self._tree.root
        for path in found.removed:
            self._store.discard(f"{root}/{path}")
        for path, _ in found.directories:
            os.mkdir(f"{root}/{path}", 0o700)
        for path, entry in found.specials:
            _make_special(f"{root}/{path}", entry)

    def write(self, path: str) -> FileWriter:
        """Open one of the wanted files for writing; used by one thread at a time.

        Raises:
            InvalidParameterError: it was not asked for.
        """
        assert self._difference is not None, "settle comes first"
        entry = self._difference.wanted.get(path)
        if entry is None:
            message = f"{path}: not asked for"
            raise InvalidParameterError(message)
        return FileWriter(self._tree.root, path, entry, self._digests)

    async def finish(self) -> ContextTree:
        """End the transfer; the tree is held until ``ContextStore.release``.

        Raises:
            DataLossError: a file did not come.
        """
        assert self._difference is not None, "settle comes first"
        tree, found = self._tree, self._difference
        if found or not tree.generation or tree.blocks != self._blocks:
            lacking = [path for path in found.wanted if path not in self._digests]
            if lacking:
                message = f"the client did not send {lacking[0]}"
                raise DataLossError(message)
            await self.in_thread(partial(self._complete, found))
        self.finished = True
        return self._store.hold(tree)

    def _complete(self, found: contextindex.Difference) -> None:
        tree = self._tree
        for path, entry in found.hard_links:
            _make_hard_link(tree.root, path, entry)
        for path, entry in reversed(found.settled):
            full = f"{tree.root}/{path}"
            os.chmod(full, stat.S_IMODE(entry.mode))
            os.utime(full, ns=(entry.mtime_ns, entry.mtime_ns))
        gone = found.removed
        digests = dict(tree.digests)
        if gone:
            names, prefixes = set(gone), tuple(f"{path}/" for path in gone)
            digests = {path: digest for path, digest in digests.items()
                       if path not in names and not path.startswith(prefixes)}
        tree.summaries = tree.summaries.after(tree.blocks, self._blocks)
        tree.digests = digests | self._digests
        tree.blocks = self._blocks
        tree.size_bytes += found.size_change
        self._store.write_index(tree)


class FileWriter:
    """One file on its way in: written beside its place, hashed, and renamed there."""

    def __init__(self, root: str, path: str, entry: FileStat, digests: dict[str, str]) -> None:
        self._root = root
        self._path = path
        self._entry = entry
        self._digests = digests
        self._hash = hashlib.sha256()
        self._temporary = f"{root}/{path}"[:-len(os.path.basename(path)) or None] + f".pallet-{os.urandom(8).hex()}"
        self._fd = os.open(self._temporary, _CREATE, 0o600)

    def write(self, data: bytes) -> None:
        """Append."""
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view):]

    def close(self) -> None:
        """Put the file in its place."""
        try:
            os.fchmod(self._fd, stat.S_IMODE(self._entry.mode))
            os.utime(self._fd, ns=(self._entry.mtime_ns, self._entry.mtime_ns))
            os.rename(self._temporary, f"{self._root}/{self._path}")
        except BaseException:
            self.abort()
            raise
        os.close(self._fd)
        self._fd = -1
        self._digests[self._path] = self._hash.hexdigest()

    def abort(self) -> None:
        """Drop it. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with suppress(FileNotFoundError):
                os.unlink(self._temporary)


def tree_key(shared_key: str, name: str, include: Iterable[str], exclude: Iterable[str],
             follow: Iterable[str]) -> str:
    """The key of a client's tree: whose directory it is and what of it is sent; "" for a client without one."""
    if not shared_key:
        return ""
    parts = (shared_key, name, "\1".join(include), "\1".join(exclude), "\1".join(follow))
    return "\0".join(parts)


def _check_clean(path: str) -> None:
    """Refuse a second name for a place: two listings of one directory could differ."""
    if "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
        message = f"invalid path {path!r} in a context"
        raise InvalidParameterError(message)


def _too_many() -> InvalidParameterError:
    return InvalidParameterError("the context has too many files")


def _make_special(path: str, entry: FileStat) -> None:
    if entry.is_link:
        os.symlink(entry.target, path)
    else:
        os.mkfifo(path, stat.S_IMODE(entry.mode))
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


def _make_hard_link(root: str, path: str, entry: FileStat) -> None:
    target = entry.target.lstrip("/")
    if any(part in {"", ".", ".."} for part in target.split("/")):
        message = f"invalid hard link {path!r} in a context"
        raise InvalidParameterError(message)
    parents = itertools.accumulate(target.split("/")[:-1], lambda a, b: f"{a}/{b}")
    if any(os.path.islink(f"{root}/{parent}") for parent in parents):
        message = f"invalid hard link {path!r} in a context"
        raise InvalidParameterError(message)
    try:
        os.link(f"{root}/{target}", f"{root}/{path}", follow_symlinks=False)
    except OSError as error:
        message = f"hard link {path!r} in a context: {error.strerror}"
        raise InvalidParameterError(message) from error


def _link_tree(source: str, target: str) -> None:
    """Copy a tree by hard links; directories get modes and times of their own."""
    with os.scandir(source) as found:
        for entry in found:
            there = f"{target}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                os.mkdir(there, 0o700)
                _link_tree(entry.path, there)
            else:
                os.link(entry.path, there, follow_symlinks=False)
    shutil.copystat(source, target)


def _discard(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        shutil.rmtree(path, ignore_errors=True)


def _touch(path: str) -> None:
    with suppress(FileNotFoundError):
        os.utime(path)


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
