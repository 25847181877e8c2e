"""A layer as an EROFS image: the ``Target`` that keeps inodes in memory and the tar as it is.

Owns   the way from a layer's tar to an image file. ``erofs`` knows the format, ``apply`` what the
       entries mean.
Runs   in a zygote child; blocking, no threads. About 700 bytes of memory an entry.
Needs  nothing: no file is made but the image, so neither CAP_MKNOD nor CAP_CHOWN is needed.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError
from pallet.layer import erofs, lower, tarheader, whiteout
from pallet.layer.apply import byte_limit, unpack
from pallet.layer.erofs import BLOCK, DATA_START, Node
from pallet.layer.model import Limits
from pallet.layer.source import ByteStream, Source, chunks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pallet.layer.lower import CopiedUp
    from pallet.layer.model import Applied
    from pallet.layer.tarheader import Entry
    from pallet.layer.tree import DirectoryFacts

_DEVICE_MODES = {tarheader.CHAR: stat.S_IFCHR, tarheader.BLOCKDEV: stat.S_IFBLK,
                 tarheader.FIFO: stat.S_IFIFO}
_MAX_NAME, _MAX_LINK = 255, 4095
_MAX_CHUNKS = 1 << 14
_MIN_CHUNK_BITS = 3
"""Chunks of sparse files are pages at least."""
_MAX_FILE_BYTES = 1 << 44
"""As ext4: 16 TiB."""
_COPY_BYTES = 1 << 20
_MOST_ENTRIES = 2_000_000
"""All of them are in memory at once, where a directory's are on the disk: 1.4 GB."""


def write_image(source_fd: int, image_fd: int, *, compression: str = "auto",
                progress_fd: int | None = None, limits: Limits | None = None,
                lower_fds: Sequence[int] = (), overlay_xattrs: str = whiteout.TRUSTED) -> Applied:
    """Make the empty file ``image_fd`` an image of the layer read from ``source_fd``.

    Arguments and errors are those of ``apply.apply``. On an error the file holds rubbish.
    """
    limits = limits or Limits()
    limits = Limits(max_bytes=limits.max_bytes, max_entries=min(limits.max_entries, _MOST_ENTRIES))
    source = Source(source_fd, progress_fd)
    pieces = _kept(chunks(source, compression), image_fd)
    stream = ByteStream(pieces, byte_limit(limits, image_fd), room=limits.max_bytes is None)
    target = ImageTarget(image_fd, overlay_xattrs)
    applied = unpack(stream, source, target, limits, lower_fds)
    target.finish(DATA_START + stream.length, applied.implied_dirs,
                  bytes.fromhex(applied.diff_id.partition(":")[2])[:16])
    return applied


def _kept(pieces: Iterator[bytes], image_fd: int) -> Iterator[bytes]:
    """Write what passes to the image."""
    offset = DATA_START
    for piece in pieces:
        erofs.write_at(image_fd, memoryview(piece), offset)
        offset += len(piece)
        yield piece


class ImageTarget:
    """``tree.Target`` in memory, its data in the tar."""

    def __init__(self, image_fd: int, overlay_xattrs: str) -> None:
        self.root = Node(stat.S_IFDIR | 0o755)
        self._image_fd = image_fd
        self._opaque = f"{overlay_xattrs}opaque".encode()
        self._directories: dict[bytes, Node] = {b"": self.root}
        self._sparse: list[tuple[Node, int, list[tuple[int, int]]]] = []
        """Node, offset of the first part in the tar, parts."""
        self._copied: list[tuple[Node, int]] = []
        """Node, descriptor of the file in a lower layer."""

    def exists(self, path: bytes) -> bool:
        parent, _, name = path.rpartition(b"/")
        return not path or name in self._directories[parent].entries

    def early_mode(self, mode: int) -> int:
        return mode

    def directory(self, path: bytes, mode: int) -> None:
        node = Node(stat.S_IFDIR | mode)
        self._add(path, node)
        self._directories[path] = node

    def symlink(self, path: bytes, target: bytes) -> None:
        if len(target) > _MAX_LINK or b"\0" in target:
            message = f"symlink {_show(path)}: file name too long"
            raise InvalidParameterError(message)
        self._add(path, Node(stat.S_IFLNK | 0o777, size=len(target), target=target))

    def whiteout(self, path: bytes) -> None:
        self._add(path, Node(stat.S_IFCHR))

    def regular(self, path: bytes, entry: Entry, stream: ByteStream) -> None:
        at = stream.base + stream.pos
        node = Node(stat.S_IFREG | entry.mode, entry.uid, entry.gid,
                    tarheader.times(entry.mtime_ns)[0], entry.real_size, DATA_START + at)
        if entry.real_size > _MAX_FILE_BYTES:
            message = f"{_show(path)}: file too large"
            raise InvalidParameterError(message)
        if entry.xattrs:
            node.xattrs = _own_xattrs(entry.xattrs)
        self._add(path, node)
        if entry.sparse is not None:
            self._sparse.append((node, DATA_START + at, entry.sparse))
        stream.skip_to(at + entry.size)

    def device(self, path: bytes, entry: Entry) -> None:
        major, minor = entry.rdev if entry.type != tarheader.FIFO else (0, 0)
        if major > 0xFFF or minor > 0xFFFFF:
            message = f"mknod {_show(path)}: invalid argument"
            raise InvalidParameterError(message)
        # As the kernel's new_encode_dev.
        device = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
        self._add(path, Node(_DEVICE_MODES[entry.type] | entry.mode, rdev=device))

    def dress(self, path: bytes, entry: Entry) -> None:
        node = self._node(path)
        node.uid, node.gid = entry.uid, entry.gid
        node.mtime_ns = tarheader.times(entry.mtime_ns)[0]
        if entry.xattrs:
            # user.* is refused on links and devices.
            node.xattrs = {name: value for name, value in _own_xattrs(entry.xattrs).items()
                           if not name.startswith(b"user.")}

    def link(self, target: bytes, path: bytes) -> None:
        node = self._node(target)
        self._add(path, node)
        node.links += 1

    def unlink(self, path: bytes) -> None:
        parent, _, name = path.rpartition(b"/")
        self._directories[parent].entries.pop(name).links -= 1

    def remove_tree(self, path: bytes) -> None:
        pending = [self._directories[path]]
        while pending:
            for child in pending.pop().entries.values():
                if stat.S_ISDIR(child.mode):
                    pending.append(child)
                else:
                    child.links -= 1
        below = path + b"/"
        for name in [name for name in self._directories
                     if name == path or name.startswith(below)]:
            del self._directories[name]
        parent, _, name = path.rpartition(b"/")
        del self._directories[parent].entries[name]

    def copy_up(self, lower_fds: Sequence[int], path: bytes) -> CopiedUp | None:
        found = lower.find_file(lower_fds, path)
        if found is None:
            return None
        status = found.status
        if found.symlink is None:
            node = Node(stat.S_IFREG | stat.S_IMODE(status.st_mode), size=status.st_size)
            node.xattrs = {os.fsencode(name): value for name, value in found.xattrs.items()}
            node.uid, node.gid, node.mtime_ns = status.st_uid, status.st_gid, status.st_mtime_ns
            self._add(path, node)
            # Data go behind the tar, whose length is not known yet.
            self._copied.append((node, found.fd))
        return lower.CopiedUp(status.st_size if found.symlink is None else 0, found.symlink)

    def finish_directory(self, path: bytes, facts: DirectoryFacts | None, *, opaque: bool) -> None:
        node = self._directories[path]
        if facts is not None:
            node.uid, node.gid = facts.uid, facts.gid
            node.mtime_ns = tarheader.times(facts.mtime_ns)[0]
            if facts.mode >= 0:
                node.mode = stat.S_IFDIR | facts.mode
            if facts.xattrs:
                node.xattrs = _own_xattrs(facts.xattrs)
        if opaque:
            node.xattrs = {**(node.xattrs or {}), self._opaque: b"y"}

    def finish(self, end: int, implied_dirs: Sequence[bytes], identity: bytes) -> None:
        """Write everything behind the tar, which ends at offset ``end`` of the image."""
        for path in implied_dirs:
            self._directories[path].implied = True
        end = -(-end // 4096) * 4096
        for node, fd in self._copied:
            node.position = end
            self._copy(fd, node.size, end)
            end += -(-node.size // 4096) * 4096
        for node, offset, parts in self._sparse:
            end = self._place_sparse(node, offset, parts, end)
        erofs.count_directory_links(self.root)
        erofs.write_metadata(self._image_fd, self.root, end, identity)

    def _copy(self, fd: int, size: int, offset: int) -> None:
        with os.fdopen(fd, "rb", buffering=0) as reader:
            while size and (data := reader.read(min(size, _COPY_BYTES))):
                erofs.write_at(self._image_fd, memoryview(data), offset)
                offset += len(data)
                size -= len(data)

    def _place_sparse(self, node: Node, offset: int, parts: Sequence[tuple[int, int]],
                      end: int) -> int:
        """Copy a sparse file's parts to chunks of their own at ``end``; return the new end.

        The image has holes where the chunks are not filled: only the parts take space.
        """
        bits = _MIN_CHUNK_BITS
        while -(-node.size // (BLOCK << bits)) > _MAX_CHUNKS:
            bits += 1
        chunk_bytes = BLOCK << bits
        node.chunk_bits = bits
        node.chunks = [-1] * -(-node.size // chunk_bytes)
        for at, left in parts:
            start, length = at, left
            while length:
                index, inside = divmod(start, chunk_bytes)
                if node.chunks[index] < 0:
                    node.chunks[index] = end // BLOCK
                    end += chunk_bytes
                size = min(length, chunk_bytes - inside, _COPY_BYTES)
                data = os.pread(self._image_fd, size, offset)
                erofs.write_at(self._image_fd, memoryview(data),
                               node.chunks[index] * BLOCK + inside)
                start, offset, length = start + size, offset + size, length - size
        return end

    def _node(self, path: bytes) -> Node:
        parent, _, name = path.rpartition(b"/")
        return self._directories[parent].entries[name]

    def _add(self, path: bytes, node: Node) -> None:
        parent, _, name = path.rpartition(b"/")
        entries = self._directories[parent].entries
        if name in entries:
            raise FileExistsError
        if len(name) > _MAX_NAME:
            message = f"{_show(name)[:80]}…: file name too long"
            raise InvalidParameterError(message)
        entries[name] = node


def _own_xattrs(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in xattrs.items() if not whiteout.is_overlay_xattr(name)}


def _show(name: bytes) -> str:
    return name.decode(errors="replace")
