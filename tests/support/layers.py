"""Layer tars for tests, built entry by entry with full control of what is wrong with them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import zstandard

from pallet.layer.apply import apply

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from pallet.layer.model import Applied

EPOCH = 1_600_000_000

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data, "gzip": gzip.compress, "bzip2": bz2.compress,
    "xz": lzma.compress, "zstd": zstandard.ZstdCompressor().compress,
    "gzip members": lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
    "gzip padded": lambda data: gzip.compress(data) + bytes(1000),
    "zstd frames": lambda data: (zstandard.ZstdCompressor().compress(data[:700])
                                 + b"\x50\x2a\x4d\x18\x03\0\0\0abc"
                                 + zstandard.ZstdCompressor().compress(data[700:])),
}


@dataclass
class Member:
    """One entry; ``kind`` is a tarfile type constant."""

    name: str
    data: bytes = b""
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    link: str = ""
    uid: int = 0
    gid: int = 0
    mtime: float = EPOCH
    dev: tuple[int, int] = (0, 0)
    pax: dict[str, str] = field(default_factory=dict)


def directory(name: str, mode: int = 0o755, **rest: Any) -> Member:
    """A directory entry."""
    return Member(name, kind=tarfile.DIRTYPE, mode=mode, **rest)


def symlink(name: str, target: str, **rest: Any) -> Member:
    """A symlink entry."""
    return Member(name, kind=tarfile.SYMTYPE, link=target, mode=0o777, **rest)


def hardlink(name: str, target: str, **rest: Any) -> Member:
    """A hard link entry."""
    return Member(name, kind=tarfile.LNKTYPE, link=target, **rest)


def build(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of the members, in order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.type, info.mode, info.linkname = member.kind, member.mode, member.link
            info.uid, info.gid, info.mtime = member.uid, member.gid, member.mtime
            info.devmajor, info.devminor = member.dev
            info.pax_headers = dict(member.pax)
            info.size = len(member.data)
            tar.addfile(info, io.BytesIO(member.data))
    return buffer.getvalue()


def unpack(archive: bytes, target: Path, **options: Any) -> Applied:
    """Apply ``archive`` from a file into ``target``, which is made."""
    target.mkdir(exist_ok=True)
    source = target.with_name(target.name + ".tar")
    source.write_bytes(archive)
    fd = os.open(source, os.O_RDONLY)
    try:
        return apply(fd, str(target), **options)
    finally:
        os.close(fd)


def tree(root: Path) -> dict[str, str]:
    """What is below ``root``: path to a short description of kind and content."""
    found = {}
    for base, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(base, name)
            found[os.path.relpath(path, root)] = describe(path)
    return found


def describe(path: str | Path) -> str:
    """Kind and content of one file: ``dir``, ``file:…``, ``link:…``, ``whiteout``, ``char:1:3``."""
    status = os.lstat(path)
    if stat.S_ISDIR(status.st_mode):
        return "dir"
    if stat.S_ISLNK(status.st_mode):
        return f"link:{os.readlink(path)}"
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            return f"file:{file.read().decode(errors='replace')}"
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return "whiteout"
    kind = "char" if stat.S_ISCHR(status.st_mode) else "block" if stat.S_ISBLK(status.st_mode) \
        else "fifo"
    return f"{kind}:{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
