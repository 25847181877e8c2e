"""Tar headers for layers and exports: ustar, with pax records for what ustar cannot say.

Owns   the bytes of headers. The same member always gives the same bytes: no user names, no access
       times, no process ids, records sorted.
Runs   in zygote children.
Spec   POSIX pax(1) "ustar Interchange Format" and "pax Interchange Format"; image-spec layer.md.

Names and link targets are bytes as the kernel has them. Short ones go into the ustar field
whatever they hold; in a pax record, which POSIX wants in UTF-8, others are marked with
``hdrcharset=BINARY`` (libarchive and Python heed it, Go and GNU tar take the bytes anyway).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from zlib import adler32

from pallet.layer.tarheader import BLOCK, BLOCKDEV, CHAR

if TYPE_CHECKING:
    from collections.abc import Mapping

END = bytes(2 * BLOCK)
"""What an archive ends with."""

_NANO = 1_000_000_000
_MAX_NAME = 100
_MAX_ID = 0o7777777
_MAX_SIZE = _MAX_TIME = 0o77777777777
_PAX_NAME = b"././@PaxHeader"
_XATTR = b"SCHILY.xattr."
_PADDING = tuple(bytes(size) for size in range(BLOCK))

# name mode uid gid size mtime | checksum | type link | magic version uname gname major minor prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s64x8s8s167x")
_MAGIC = b"ustar\x0000"
_NO_CHECKSUM = b"        "
_NO_DEVICE = b"0000000\0"
_CHECKSUM = slice(148, 156)


def padding(size: int) -> bytes:
    """Zeros that fill ``size`` bytes of data up to whole blocks."""
    return _PADDING[-size & (BLOCK - 1)]


class HeaderWriter:
    """Makes headers; keeps what repeats."""

    def __init__(self) -> None:
        self._octal: dict[int, bytes] = {}
        self._times: dict[int, bytes] = {}
        self._pax_heads: dict[int, bytes] = {}

    def header(self, kind: bytes, name: bytes, *, mode: int, uid: int, gid: int, size: int = 0,
               mtime_ns: int = 0, link: bytes = b"", device: tuple[int, int] = (0, 0),
               xattrs: Mapping[bytes, bytes] | None = None) -> bytes:
        """Return the blocks that go before a member's data.

        Args:
            kind: type flag of ``tarheader``.
            name: with a slash at its end for a directory.
            mode: permission bits with setuid, setgid and sticky.
            size: bytes of data that follow.
            xattrs: full name to value.
        """
        records: dict[bytes, bytes] = {}
        seconds, nanos = divmod(mtime_ns, _NANO)
        if nanos or not 0 <= seconds <= _MAX_TIME:
            records[b"mtime"] = _time(mtime_ns)
            seconds = min(max(seconds, 0), _MAX_TIME)
        if len(name) > _MAX_NAME:
            records[b"path"] = name
        if len(link) > _MAX_NAME:
            records[b"linkpath"] = link
        if uid > _MAX_ID:
            records[b"uid"], uid = b"%d" % uid, 0
        if gid > _MAX_ID:
            records[b"gid"], gid = b"%d" % gid, 0
        if size > _MAX_SIZE:
            records[b"size"] = b"%d" % size
        for key, value in (xattrs or {}).items():
            records[_XATTR + key] = value
        octal = self._octal
        major = minor = _NO_DEVICE
        if kind in (CHAR, BLOCKDEV):
            major, minor = b"%07o\0" % device[0], b"%07o\0" % device[1]
        block = self._block(
            name, octal.get(mode) or self._number(mode), octal.get(uid) or self._number(uid),
            octal.get(gid) or self._number(gid), b"%011o\0" % (0 if size > _MAX_SIZE else size),
            self._times.get(seconds) or self._time(seconds), kind, link, major, minor)
        return self._pax(records) + block if records else block

    def _number(self, value: int) -> bytes:
        text = self._octal[value] = b"%07o\0" % value
        return text

    def _time(self, seconds: int) -> bytes:
        if len(self._times) > _MAX_ID:
            self._times.clear()
        text = self._times[seconds] = b"%011o\0" % seconds
        return text

    @staticmethod
    def _block(name: bytes, mode: bytes, uid: bytes, gid: bytes, size: bytes, mtime: bytes,  # noqa: PLR0917
               kind: bytes, link: bytes, major: bytes, minor: bytes) -> bytes:
        block = _HEADER.pack(name, mode, uid, gid, size, mtime, _NO_CHECKSUM, kind, link, _MAGIC,
                             major, minor)
        # Adler-32's low half is 1 + the sum of the bytes modulo 65521, which this sum cannot reach:
        # two hundred bytes of names at most, digits otherwise.
        checksum = b"%06o\0 " % ((adler32(block) & 0xFFFF) - 1)
        return b"%b%b%b" % (block[:148], checksum, block[156:])

    def _pax(self, records: dict[bytes, bytes]) -> bytes:
        if (b"path" in records or b"linkpath" in records) and not _is_text(records):
            records[b"hdrcharset"] = b"BINARY"
        data = b"".join([_record(key, records[key]) for key in sorted(records)])
        size = len(data)
        head = self._pax_heads.get(size)
        if head is None:
            head = self._pax_heads[size] = self._block(
                _PAX_NAME, b"0000644\0", b"0000000\0", b"0000000\0", b"%011o\0" % size,
                b"00000000000\0", b"x", b"", _NO_DEVICE, _NO_DEVICE)
        return b"%b%b%b" % (head, data, padding(size))


def _is_text(records: dict[bytes, bytes]) -> bool:
    try:
        for key in (b"path", b"linkpath"):
            records.get(key, b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _record(key: bytes, value: bytes) -> bytes:
    r"""``length key=value\n``, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    if len(b"%d" % length) != length - rest:
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


def _time(mtime_ns: int) -> bytes:
    """Decimal seconds with a fraction but without zeros at its end, as Go and pax write them."""
    sign = b"-" if mtime_ns < 0 else b""
    seconds, nanos = divmod(abs(mtime_ns), _NANO)
    if not nanos:
        return b"%b%d" % (sign, seconds)
    return b"%b%d.%b" % (sign, seconds, (b"%09d" % nanos).rstrip(b"0"))
