"""Maps of sparse files in tars: GNU's old format and its pax formats 0.0, 0.1 and 1.0.

Runs   in zygote children.
Spec   GNU tar manual "Storing Sparse Files".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.layer.model import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pallet.layer.source import ByteStream

SparseMap = list[tuple[int, int]]
"""``(offset, length)`` of each part that has data, ascending."""

_BLOCK = 512
_MAX_MAP_BYTES = 1 << 20
_PAIR_BYTES = 24
_MAX_SIZE = (1 << 63) - 1


def _invalid() -> ArchiveError:
    return ArchiveError("archive/tar: invalid tar header")


def check(parts: SparseMap, stored: int, real: int) -> None:
    """Refuse a map that overlaps, leaves the file or disagrees with the stored size.

    Raises:
        ArchiveError: it does.
    """
    end = total = 0
    for offset, length in parts:
        if offset < end or length < 0 or offset + length > real:
            raise _invalid()
        end = offset + length
        total += length
    if total != stored or real > _MAX_SIZE:
        raise _invalid()


def _pairs(numbers: Iterable[bytes]) -> SparseMap:
    flat = list(numbers)
    if len(flat) % 2 or not all(number.isdigit() for number in flat):
        raise _invalid()
    values = [int(number) for number in flat]
    return list(zip(values[::2], values[1::2], strict=True))


def pax_map(text: bytes | None, parts: list[bytes]) -> SparseMap:
    """Map of formats 0.1 (``GNU.sparse.map``) and 0.0 (repeated records, ``parts``)."""
    if text is not None:
        return _pairs(text.split(b","))
    return _pairs(parts)


def pax_map_in_data(stream: ByteStream, size: int) -> tuple[SparseMap, int]:
    """Read the map of format 1.0 from the start of the data; return it and the bytes it took."""
    text = b""
    used = 0
    wanted = 1
    while text.count(b"\n") < wanted:
        if used + _BLOCK > min(size, _MAX_MAP_BYTES):
            raise _invalid()
        text += stream.take(_BLOCK)
        used += _BLOCK
        if wanted == 1 and b"\n" in text:
            count = text.partition(b"\n")[0]
            if not count.isdigit() or int(count) > _MAX_MAP_BYTES:
                raise _invalid()
            wanted = 1 + 2 * int(count)
    return _pairs(text.split(b"\n")[1:wanted]), used


def gnu_map(stream: ByteStream, header: bytes,
            number: Callable[[bytes], int]) -> tuple[int, SparseMap]:
    """Read an old GNU sparse header and its extension blocks; return real size and map."""
    parts: SparseMap = []
    _collect(header[386:386 + 4 * _PAIR_BYTES], parts, number)
    real = number(header[483:495])
    extended = header[482]
    while extended:
        if len(parts) * _PAIR_BYTES > _MAX_MAP_BYTES:
            raise _invalid()
        block = stream.take(_BLOCK)
        _collect(block[:21 * _PAIR_BYTES], parts, number)
        extended = block[504]
    return real, parts


def _collect(field: bytes, parts: SparseMap, number: Callable[[bytes], int]) -> None:
    for start in range(0, len(field), _PAIR_BYTES):
        if field[start] == 0:
            return
        parts.append((number(field[start:start + 12]), number(field[start + 12:start + 24])))
