"""A strict reader of tar headers: ustar, pax, GNU long names, GNU and pax sparse files.

Owns   the archive format. Gives entries; their data stays in the stream for the caller to take.
Runs   in zygote children.
Needs  nothing.
Spec   POSIX pax(1) "ustar Interchange Format" and "pax Interchange Format"; GNU tar manual
       "Basic Tar Format" and "Storing Sparse Files"; image-spec layer.md.

Strict where Go's reader is: a wrong checksum, a number that is none or a size below zero ends the
archive with an error. The texts are Go's, since they end up in ``docker pull``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from zlib import adler32

from pallet.layer import sparse
from pallet.layer.model import ArchiveError

if TYPE_CHECKING:
    from pallet.layer.source import ByteStream

BLOCK = 512
INVALID = "archive/tar: invalid tar header"
_ZERO = bytes(BLOCK)
_MAX_SPECIAL_BYTES = 1 << 20
"""Longest pax header or GNU long name, as Go has it."""

REGULAR, HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO = (
    b"0", b"1", b"2", b"3", b"4", b"5", b"6")
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK, _GNU_SPARSE = b"x", b"g", b"L", b"K", b"S"
_WITHOUT_DATA = frozenset({HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO})
_COMMON = frozenset({REGULAR}) | _WITHOUT_DATA
_OLD_REGULARS = frozenset({b"\0", b"7"})
_ENDS = b"\0 "

# name mode uid gid size mtime checksum type; the rest is looked at where it matters
_FIELDS = struct.Struct("100s8s8s8s12s12s8sc355x")
_LINK = slice(157, 257)
_PREFIX = slice(345, 500)
_XATTR = b"SCHILY.xattr."
_NANO = 1_000_000_000
_ADLER_MODULUS = 65521
_CACHED_NUMBERS = 4096
_MAX_TIME_NS = 0x7FFF_FFFF_FFFF_FFFF


class Entry:
    """One member of the archive. ``name`` and ``link`` are bytes as stored, nothing is cleaned."""

    __slots__ = ("gid", "link", "mode", "mtime_ns", "name", "rdev", "real_size", "size", "sparse",
                 "type", "uid", "xattrs")

    def __init__(self, kind: bytes, name: bytes, mode: int, uid: int, gid: int, size: int,  # noqa: PLR0917
                 mtime_ns: int) -> None:
        self.type = kind
        """One of this module's type constants, or the raw flag of an unknown type."""
        self.name = name
        self.link = b""
        self.mode = mode
        """Permission bits with setuid, setgid and sticky."""
        self.uid = uid
        self.gid = gid
        self.size = size
        """Bytes of data in the stream."""
        self.mtime_ns = mtime_ns
        self.rdev = (0, 0)
        self.xattrs: dict[bytes, bytes] | None = None
        self.sparse: list[tuple[int, int]] | None = None
        """``(offset, length)`` of the parts that are in the stream; None for a plain file."""
        self.real_size = size
        """Size of the file once unpacked."""


class TarReader:
    """Entries of a stream in order."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._next = 0
        self._padding = 0
        self._numbers: dict[bytes, int] = {}

    def next(self) -> Entry | None:
        """Return the next entry, None at the end of the archive.

        The data of the entry before is skipped if it was not taken.

        Raises:
            ArchiveError: the archive is malformed or ends early.
        """
        stream = self._stream
        pax: dict[bytes, bytes] | None = None
        sparse_parts: list[bytes] = []
        long_name = long_link = None
        while True:
            block = self._header()
            if block is None:
                if pax is None and long_name is None and long_link is None:
                    return None
                raise _error("unexpected EOF")
            entry = self._parse(block)
            kind = entry.type
            self._next = stream.base + stream.pos + entry.size + (-entry.size & 511)
            if kind in _COMMON:
                break
            if kind == _PAX:
                pax, sparse_parts = _pax_records(self._special(entry.size))
            elif kind == _GNU_NAME:
                long_name = _c_string(self._special(entry.size))
            elif kind == _GNU_LINK:
                long_link = _c_string(self._special(entry.size))
            elif kind != _PAX_GLOBAL:  # Docker ignores global headers
                break
        if long_name is not None:
            entry.name = long_name
        if long_link is not None:
            entry.link = long_link
        if pax:
            self._apply_pax(entry, pax, sparse_parts)
        elif kind == _GNU_SPARSE:
            entry.real_size, entry.sparse = sparse.gnu_map(stream, block, self._number)
            self._next = stream.base + stream.pos + entry.size + (-entry.size & 511)
            sparse.check(entry.sparse, entry.size, entry.real_size)
            entry.type = REGULAR
        if kind in _OLD_REGULARS:
            # Old tars have no directory type: the slash says it.
            entry.type = DIRECTORY if kind == b"\0" and entry.name[-1:] == b"/" else REGULAR
        self._padding = -entry.size & 511
        return entry

    def _header(self) -> bytes | None:
        """Return the next header block, None at the end of the archive."""
        stream = self._stream
        # Like Go, take an archive that ends before the padding of its last file: umoci writes such.
        if self._next != stream.base + stream.pos and not stream.skip_to(self._next, padding=self._padding):
            return None
        if stream.end - stream.pos < BLOCK and not stream.need(BLOCK):
            if stream.pos == stream.end:
                return None  # like Go, take a missing end marker for an end
            raise _error("unexpected EOF")
        position = stream.pos
        block = stream.data[position:position + BLOCK]
        stream.pos = position + BLOCK
        if block[0] == 0 and block == _ZERO:
            # Two zero blocks end an archive; a single one at the very end does as well.
            if stream.need(BLOCK) and stream.data[stream.pos:stream.pos + BLOCK] != _ZERO:
                raise _error(INVALID)
            return None
        return block

    def _parse(self, block: bytes) -> Entry:
        name, mode, uid, gid, size, mtime, checksum, kind = _FIELDS.unpack(block)
        # Adler-32's low half is 1 + the sum of all bytes, modulo a prime close to 2**16: the
        # header's checksum at the speed of C. The field itself counts as eight spaces.
        try:
            stored = int(checksum.rstrip(b"\0 ") or b"0", 8)
        except ValueError:
            raise _error(INVALID) from None
        computed = (adler32(block) & 0xFFFF) - 1 - sum(checksum) + 256
        if (computed - stored) % _ADLER_MODULUS and not _signed_checksum(block, stored):
            raise _error(INVALID)
        name = name.rstrip(b"\0")
        if b"\0" in name:
            name = _c_string(name)
        numbers = self._numbers
        try:
            entry = Entry(kind, name, numbers[mode] & 0o7777, numbers[uid], numbers[gid],
                          int(size[:11], 8) if size[:11].isdigit() and size[11] in _ENDS
                          else self._number(size), numbers[mtime] * _NANO)
        except (KeyError, ValueError):
            entry = Entry(kind, name, self._number(mode) & 0o7777, self._number(uid),
                          self._number(gid), self._number(size), self._number(mtime) * _NANO)
        if entry.size < 0 or entry.uid < 0 or entry.gid < 0:
            raise _error(INVALID)
        if kind in _WITHOUT_DATA:
            entry.size = entry.real_size = 0
            if kind in (HARDLINK, SYMLINK):
                entry.link = _c_string(block[_LINK])
            elif kind in (CHAR, BLOCKDEV):
                entry.rdev = (self._number(block[329:337]), self._number(block[337:345]))
        if block[345] and block[257:263] == b"ustar\0":
            entry.name = _c_string(block[_PREFIX]) + b"/" + entry.name
        return entry

    def _number(self, field: bytes) -> int:
        """Decode an octal or base-256 field."""
        if field[0] & 0x80:
            value = int.from_bytes(field, "big", signed=False) & ~(1 << (8 * len(field) - 1))
            if field[0] & 0x40:
                value -= 1 << (8 * len(field) - 1)
            return value
        text = field.strip(b"\0 ")
        if text.strip(b"01234567"):
            raise _error(INVALID)
        value = int(text, 8) if text else 0
        if len(self._numbers) < _CACHED_NUMBERS:
            self._numbers[field] = value
        return value

    def _special(self, size: int) -> bytes:
        if size > _MAX_SPECIAL_BYTES:
            raise _error("archive/tar: header field too long")
        return self._stream.take(size)

    def _apply_pax(self, entry: Entry, pax: dict[bytes, bytes], parts: list[bytes]) -> None:
        for key, value in pax.items():
            if key == b"path":
                entry.name = value
            elif key == b"linkpath":
                entry.link = value
            elif key == b"size":
                entry.size = entry.real_size = _decimal(value)
            elif key == b"uid":
                entry.uid = _decimal(value)
            elif key == b"gid":
                entry.gid = _decimal(value)
            elif key == b"mtime":
                entry.mtime_ns = _pax_time(value)
            elif key.startswith(_XATTR):
                if entry.xattrs is None:
                    entry.xattrs = {}
                entry.xattrs[key[len(_XATTR):]] = value
        if entry.type in _WITHOUT_DATA:
            entry.size = entry.real_size = 0
            return
        stream = self._stream
        self._next = stream.base + stream.pos + entry.size + (-entry.size & 511)
        if entry.type == REGULAR or entry.type in _OLD_REGULARS:
            self._apply_pax_sparse(entry, pax, parts)

    def _apply_pax_sparse(self, entry: Entry, pax: dict[bytes, bytes], parts: list[bytes]) -> None:
        if (pax.get(b"GNU.sparse.major"), pax.get(b"GNU.sparse.minor")) == (b"1", b"0"):
            entry.sparse, used = sparse.pax_map_in_data(self._stream, entry.size)
            entry.size -= used
        elif b"GNU.sparse.map" in pax or parts:
            entry.sparse = sparse.pax_map(pax.get(b"GNU.sparse.map"), parts)
        else:
            return
        real = pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size")
        if real is None:
            raise _error(INVALID)
        entry.real_size = _decimal(real)
        entry.name = pax.get(b"GNU.sparse.name") or entry.name
        sparse.check(entry.sparse, entry.size, entry.real_size)


def times(mtime_ns: int) -> tuple[int, int]:
    """Access and modification time for utime(2): as Docker, zero where no file system can hold it."""
    if not 0 <= mtime_ns <= _MAX_TIME_NS:
        mtime_ns = 0
    return mtime_ns, mtime_ns


def _error(text: str) -> ArchiveError:
    return ArchiveError(text)


def _c_string(field: bytes) -> bytes:
    end = field.find(0)
    return field if end < 0 else field[:end]


def _signed_checksum(block: bytes, stored: int) -> bool:
    """Some old systems summed signed bytes."""
    field = block[148:156]
    unsigned = sum(block) - sum(field) + 256
    high = sum(1 for byte in block[:148] + block[156:] if byte > 127)
    return unsigned - 256 * high == stored


def _decimal(value: bytes) -> int:
    if not value.isdigit():
        raise _error(INVALID)
    return int(value)


def _pax_time(value: bytes) -> int:
    """Nanoseconds of a pax time: decimal seconds with an optional fraction and sign."""
    negative = value[:1] == b"-"
    whole, _, fraction = (value[1:] if negative else value).partition(b".")
    if not whole.isdigit() or (fraction and not fraction.isdigit()):
        raise _error(INVALID)
    nanos = int(whole) * _NANO + int(fraction[:9].ljust(9, b"0"))
    return -nanos if negative else nanos


def _pax_records(data: bytes) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Split a pax header into its records and, apart, the repeated keys of sparse format 0.0."""
    records: dict[bytes, bytes] = {}
    parts: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        length = data[position:space] if space > 0 else b""
        if not length.isdigit():
            raise _error(INVALID)
        end = position + int(length)
        record = data[space + 1:end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(data) or record[-1:] != b"\n" or not equals or not key or b"\0" in key:
            raise _error(INVALID)
        if key in (b"path", b"linkpath") and b"\0" in value:
            raise _error(INVALID)
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            parts.append(value)
        elif value:
            records[key] = value
        else:
            records.pop(key, None)  # an empty value takes back what a header before said
        position = end
    return records, parts
