"""What an attestation of a tree is about: every regular file with its SHA-256.

Owns   the text of an in-toto statement's subjects.
Runs   in a zygote child.
Spec   in-toto Statement v0.1 "subject"; laid out as BuildKit's outputs ``local`` and ``tar`` have it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Level(NamedTuple):
    fd: int
    path: bytes
    names: Iterator[bytes]


def write(root_fd: int, out: BinaryIO) -> int:
    """Write the items of the list ``subject``, parted by commas, in the order of their paths; return how many.

    Precondition: nobody else changes the tree.
    """
    count = 0
    for path, digest in _files(root_fd):
        name = msgspec.json.encode(path.decode(errors="replace"))
        out.write(b",\n" if count else b"")
        out.write(b'    {\n      "name": %b,\n      "digest": {\n        "sha256": "%b"\n      }\n    }' % (
            name, digest.encode()))
        count += 1
    return count


def _files(root_fd: int) -> Iterator[tuple[bytes, str]]:
    """Yield path and hexadecimal digest of every regular file; one descriptor a level of the tree."""
    levels = [_opened(os.dup(root_fd), b"")]
    try:
        while levels:
            level = levels[-1]
            name = next(level.names, None)
            if name is None:
                os.close(levels.pop().fd)
                continue
            path = level.path + name
            mode = os.lstat(name, dir_fd=level.fd).st_mode
            if stat.S_ISDIR(mode):
                levels.append(_opened(os.open(name, _DIRECTORY, dir_fd=level.fd), path + b"/"))
            elif stat.S_ISREG(mode):
                with os.fdopen(os.open(name, _FILE, dir_fd=level.fd), "rb", buffering=0) as file:
                    yield path, hashlib.file_digest(file, "sha256").hexdigest()
    finally:
        for level in levels:
            os.close(level.fd)


def _opened(fd: int, path: bytes) -> _Level:
    return _Level(fd=fd, path=path, names=iter(sorted(map(os.fsencode, os.listdir(fd)))))
