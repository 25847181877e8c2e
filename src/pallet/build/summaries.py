"""Digests of directories: how they are made, and of a client's tree without a look at its files.

Runs   anywhere; pure.

What a directory holds is one SHA-256 for all that is no directory in it, and a line with its digest for each
directory: where one file of fifty thousand changed, one directory is read again.
"""

from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING

from pallet.build import contextindex

if TYPE_CHECKING:
    from collections.abc import Mapping

_LINK_MODE = 0o120777
"""Of every symbolic link on a disk."""


def entry_line(name: bytes, mode: int, content: bytes, owner: tuple[int, int] = (0, 0),
               attributes: bytes = b"") -> bytes:
    """What one entry is in the digest of its directory.

    Args:
        content: SHA-256 of a file in hex, digest of a directory, target of a link, number of a device.
    """
    return b"%b\0%o %d %d\0%b%b\n" % (name, mode, *owner, content, attributes)


def directory_digest(plain: bytes, below: bytes) -> bytes:
    """Digest of a directory, in hex.

    Args:
        plain: SHA-256 of the lines of what is no directory, in byte order of names.
        below: the lines of the directories in it, likewise.
    """
    return hashlib.sha256(plain + below).hexdigest().encode()


class Summaries:
    """Digests of the directories of one version of a kept tree; what did not change is remembered."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[bytes, list[tuple[bytes, int]]]] = {}
        """By directory: the digest of its files, names and modes of its directories."""

    def after(self, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Summaries:
        """Those of the tree after a change, without what is no longer so: a changed file changes its directory's block.

        This one stays as it is: builds may hold the tree of before.
        """
        found = Summaries()
        found._known = {path: known for path, known in self._known.items() if old.get(path) == new.get(path)}
        return found

    def digest(self, blocks: Mapping[str, bytes], digests: Mapping[str, str], path: str) -> bytes | None:
        """Digest of a directory and all that is below it; None if it has to be read.

        Args:
            blocks: listings, as ``contextindex`` defines them.
            digests: of files, by path.
        """
        known = self._known.get(path)
        if known is None:
            if path not in blocks or (known := _read(blocks[path], digests, path)) is None:
                return None
            self._known[path] = known
        below = b""
        for name, mode in known[1]:
            inner = self.digest(blocks, digests, contextindex.join(path, name.decode("utf-8", "surrogateescape")))
            if inner is None:
                return None
            below += entry_line(name, mode, inner)
        return directory_digest(known[0], below)


def _read(block: bytes, digests: Mapping[str, str], path: str) -> tuple[bytes, list[tuple[bytes, int]]] | None:
    plain = hashlib.sha256()
    directories: list[tuple[bytes, int]] = []
    listed = [(name.encode("utf-8", "surrogateescape"), name, found) for name, found in contextindex.entries(block)]
    for raw, name, found in sorted(listed):
        if found.is_directory:
            directories.append((raw, found.mode))
            continue
        mode, content = found.mode, b"0"
        if found.is_link:
            mode, content = _LINK_MODE, found.target.encode("utf-8", "surrogateescape")
        elif stat.S_ISREG(mode):
            content = digests.get(contextindex.join(path, name), "").encode()
            if not content:
                return None  # a hard link
        plain.update(entry_line(raw, mode, content))
    return plain.digest(), directories
