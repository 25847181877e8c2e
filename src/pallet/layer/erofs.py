"""EROFS images: the on-disk format, as far as a layer needs it.

Owns   how inodes, directories, xattrs and the superblock are laid out; no reading of archives.
Runs   in zygote children; ``root_attributes`` and ``patch_directory`` in the daemon's workers.
Spec   Linux Documentation/filesystems/erofs.rst; fs/erofs/erofs_fs.h.

An image is ``superblock | the layer's tar as it came | data that the tar cannot serve | inodes and
directories``. Blocks are 512 bytes, the tar's own unit, so that a file's data are used where the tar
has them: nothing is copied, and the image is written once, front to back, while the tar arrives.
Inodes are in the long form (64 bytes): the short one has no time of its own.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from pallet.errors import InvalidParameterError

BLOCK = 512
DATA_START = 4096
"""Where the tar begins: behind the superblock, on a page."""

_MAGIC = 0xE0F5E1E2
_SUPER_OFFSET = 1024
_SLOT = 32
"""Inodes are numbered by their place in units of this."""
_ROOT_NID = 4
_INCOMPAT_CHUNKED = 4
_PLAIN, _INLINE, _CHUNKED = 0 << 1, 2 << 1, 4 << 1
_EXTENDED = 1
_HOLE = 0xFFFFFFFF
_MAX_BLOCKS = 0xFFFFFFFE
_MAX_XATTR_VALUE = 0xFFFF
_ADOPTED_XATTR_BYTES = 1024
"""Room kept behind the inode of an implied directory for the xattrs it may take over."""

# i_format, i_xattr_icount, i_mode, i_nb, i_size, i_u, i_ino, i_uid, i_gid, i_mtime, nsec, i_nlink
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBx")
_XATTR_ENTRY = struct.Struct("<BBH")
# magic, checksum, compat, blkszbits, extslots, root_nid, inos, build_time, nsec, blocks,
# meta_blkaddr, xattr_blkaddr, uuid, volume_name, incompat
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sI44x")
_XATTR_INDEX = (
    (b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3), (b"user.", 1),
    (b"trusted.", 4), (b"security.", 6))
_FILE_TYPES = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4,
               stat.S_IFIFO: 5, stat.S_IFSOCK: 6, stat.S_IFLNK: 7}
_NANO = 1_000_000_000


@dataclass(slots=True, eq=False)
class Node:
    """One inode on its way into an image."""

    mode: int
    """With the file type."""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    position: int = 0
    """Byte offset of the data in the image, for a regular file or a symlink that is not inlined."""
    rdev: int = 0
    links: int = 1
    target: bytes = b""
    """Of a symlink."""
    xattrs: dict[bytes, bytes] | None = None
    chunk_bits: int = 0
    """Of a sparse file: log2 of its chunks' blocks."""
    chunks: list[int] | None = None
    """Of a sparse file: the first block of each chunk, -1 for a hole."""
    implied: bool = False
    """A directory that ``patch_directory`` may still change."""
    entries: dict[bytes, Node] = field(default_factory=dict)
    """Of a directory."""
    nid: int = -1


class Attributes(NamedTuple):
    """What an inode says of its owner and times."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int


def stored_xattrs(xattrs: dict[bytes, bytes] | None) -> bytes:
    """Encode xattrs as they follow an inode; names of no known kind are left out."""
    body = bytearray()
    for name, value in sorted((xattrs or {}).items()):
        for prefix, index in _XATTR_INDEX:
            whole = not prefix.endswith(b".")
            if name == prefix if whole else name.startswith(prefix):
                rest = b"" if whole else name[len(prefix):]
                if len(rest) > 255 or len(value) > _MAX_XATTR_VALUE:
                    break
                body += _XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value
                body += bytes(-len(body) & 3)
                break
    return bytes(12) + bytes(body) if body else b""


class _Layout:
    """Places inodes one after another and, apart, the data blocks of directories."""

    def __init__(self, root: Node, block: int) -> None:
        self.nodes: list[tuple[Node, int, bytes, int]] = []
        """Node, offset from the start of the inodes, xattrs, offset of its inline data or -1."""
        self.end = _ROOT_NID * _SLOT
        self._base = block
        self._blocks: list[tuple[Node, Node, int]] = []
        self._visit(root)
        self._inodes_end = -(-self.end // BLOCK) * BLOCK
        self.image = bytearray(self._inodes_end)
        self._write(root)

    def _visit(self, root: Node) -> None:
        pending = [root]
        while pending:
            node = pending.pop()
            if node.nid >= 0:
                continue
            self._place(node)
            if node.entries:
                pending.extend(node.entries.values())

    def _place(self, node: Node) -> None:
        xattrs = stored_xattrs(node.xattrs) if node.xattrs else b""
        kind = stat.S_IFMT(node.mode)
        head = 64 + len(xattrs)
        inline = 0
        if kind == stat.S_IFLNK:
            inline = node.size
        elif kind == stat.S_IFDIR and not node.implied:
            inline = _directory_size(node.entries)
        if inline >= BLOCK - 64:
            inline = 0
        start = self.end
        if inline and (start + head) // BLOCK != (start + head + inline - 1) // BLOCK:
            # Inline data lie within one block: move the inode until they do.
            start += -(start + head) % BLOCK
            start = -(-start // _SLOT) * _SLOT
            while (start + head) // BLOCK != (start + head + inline - 1) // BLOCK:
                start += _SLOT
        node.nid = start // _SLOT
        self.nodes.append((node, start, xattrs, start + head if inline else -1))
        end = start + head + inline
        if node.chunks is not None:
            end = -(-end // 4) * 4 + 4 * len(node.chunks)
        elif node.implied:
            end = start + 64 + max(len(xattrs), 12) + _ADOPTED_XATTR_BYTES
        self.end = -(-end // _SLOT) * _SLOT

    def _write(self, root: Node) -> None:
        parents = {id(root): root}
        pack = _INODE.pack_into
        image = self.image
        for node, start, xattrs, inline in self.nodes:
            kind = stat.S_IFMT(node.mode)
            form, size, unit = _PLAIN, node.size, node.position // BLOCK
            if kind == stat.S_IFDIR:
                for child in node.entries.values():
                    if child.mode & 0o170000 == stat.S_IFDIR:
                        parents[id(child)] = node
                data = _directory_data(node, parents[id(node)])
                size = len(data)
                if inline >= 0:
                    image[inline:inline + size] = data
                    form, unit = _INLINE, 0
                else:
                    unit = self._append(data)
            elif kind == stat.S_IFLNK:
                if inline >= 0:
                    image[inline:inline + size] = node.target
                    form, unit = _INLINE, 0
                else:
                    unit = self._append(node.target)
            elif kind != stat.S_IFREG:
                unit = node.rdev
            elif node.chunks is not None:
                form, unit = _CHUNKED, node.chunk_bits
                place = -(-(start + 64 + len(xattrs)) // 4) * 4
                struct.pack_into(f"<{len(node.chunks)}I", image, place,
                                 *(chunk if chunk >= 0 else _HOLE for chunk in node.chunks))
            seconds, nanos = divmod(node.mtime_ns, _NANO)
            pack(image, start, _EXTENDED | form, 1 + (len(xattrs) - 12) // 4 if xattrs else 0,
                 node.mode, 0, size, unit, node.nid & 0xFFFFFFFF, node.uid, node.gid, seconds,
                 nanos, node.links)
            if xattrs:
                image[start + 64:start + 64 + len(xattrs)] = xattrs

    def _append(self, data: bytes) -> int:
        """Put data behind the inodes; return its block."""
        place = len(self.image)
        self.image += data
        self.image += bytes(-len(data) % BLOCK)
        return self._base + place // BLOCK


def _directory_size(entries: dict[bytes, Node]) -> int:
    """Bytes of a directory whose entries fit in one block; BLOCK when they do not."""
    if len(entries) > BLOCK // 13:
        return BLOCK
    return min(12 * (len(entries) + 2) + 3 + sum(map(len, entries)), BLOCK)


def _directory_data(node: Node, parent: Node) -> bytes:
    names: dict[bytes, Node] = {b".": node, b"..": parent, **node.entries}
    blocks: list[bytes] = []
    waiting: list[tuple[bytes, Node]] = []
    used = 0
    for name in sorted(names):
        needed = 12 + len(name)
        if used + needed > BLOCK:
            blocks.append(_directory_block(waiting).ljust(BLOCK, b"\0"))
            waiting, used = [], 0
        waiting.append((name, names[name]))
        used += needed
    blocks.append(_directory_block(waiting))
    return b"".join(blocks)


def _directory_block(entries: list[tuple[bytes, Node]]) -> bytes:
    offset = 12 * len(entries)
    head = bytearray()
    for name, node in entries:
        head += _DIRENT.pack(node.nid, offset, _FILE_TYPES[node.mode & 0o170000])
        offset += len(name)
    return bytes(head) + b"".join([name for name, _ in entries])


def count_directory_links(root: Node) -> None:
    """Set ``links`` of every directory: its name, its ``.`` and each directory in it."""
    pending = [root]
    while pending:
        node = pending.pop()
        below = [child for child in node.entries.values()
                 if child.mode & 0o170000 == stat.S_IFDIR]
        node.links = 2 + len(below)
        pending.extend(below)


def write_metadata(fd: int, root: Node, end: int, identity: bytes) -> None:
    """Write the inodes from offset ``end`` on, and the superblock last.

    Args:
        end: bytes of superblock, tar and further data so far.
        identity: 16 bytes that tell file systems apart; the start of the DiffID.

    Raises:
        InvalidParameterError: the image is larger than block numbers reach (2 TiB).
        OSError: the disk refused.
    """
    start = -(-end // BLOCK) * BLOCK
    layout = _Layout(root, start // BLOCK)
    blocks = (start + len(layout.image)) // BLOCK
    if blocks > _MAX_BLOCKS:
        message = "layer is too large for an EROFS image"
        raise InvalidParameterError(message)
    write_at(fd, memoryview(layout.image), start)
    # The kernel maps whole pages: the file ends on one.
    os.ftruncate(fd, -(-(start + len(layout.image)) // 4096) * 4096)
    header = _SUPER.pack(_MAGIC, 0, 0, 9, 0, _ROOT_NID, len(layout.nodes), 0, 0, blocks,
                         start // BLOCK, 0, identity, bytes(16), _INCOMPAT_CHUNKED)
    write_at(fd, memoryview(header), _SUPER_OFFSET)


def write_at(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    while data:
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written


def root_attributes(fd: int) -> Attributes:
    """Attributes of an image's root directory.

    Raises:
        InvalidParameterError: the file holds no image of ours.
    """
    inode = _INODE.unpack(os.pread(fd, _INODE.size, _inode_offset(fd, _ROOT_NID)))
    return Attributes(inode[2] & 0o7777, inode[7], inode[8], inode[9] * _NANO + inode[10])


def _inode_offset(fd: int, nid: int) -> int:
    header = os.pread(fd, _SUPER.size, _SUPER_OFFSET)
    if len(header) < _SUPER.size:
        message = "not an EROFS image"
        raise InvalidParameterError(message)
    fields = _SUPER.unpack(header)
    if fields[0] != _MAGIC or fields[3] != 9:
        message = "not an EROFS image"
        raise InvalidParameterError(message)
    return int(fields[10]) * BLOCK + nid * _SLOT


def patch_directory(fd: int, nid: int, attributes: Attributes, xattrs: dict[bytes, bytes]) -> bool:
    """Give an implied directory of an unmounted image other attributes, in place.

    Returns False when the xattrs did not all fit; the rest is done then.

    Preconditions:
        ``nid`` (the directory's inode number) was written with ``Node.implied``.
    """
    offset = _inode_offset(fd, nid)
    fields = list(_INODE.unpack(os.pread(fd, _INODE.size, offset)))
    stored = stored_xattrs(xattrs)
    fits = len(stored) <= _ADOPTED_XATTR_BYTES
    if stored and fits:
        write_at(fd, memoryview(stored), offset + _INODE.size)
        fields[1] = 1 + (len(stored) - 12) // 4
    seconds, nanos = divmod(attributes.mtime_ns, _NANO)
    fields[2] = stat.S_IFDIR | attributes.mode
    fields[7], fields[8], fields[9], fields[10] = (attributes.uid, attributes.gid, seconds, nanos)
    write_at(fd, memoryview(_INODE.pack(*fields)), offset)
    return fits
