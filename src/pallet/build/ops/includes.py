"""Copies of only what matches: patterns of what is taken of a directory.

Owns   BuildKit's include patterns: directories that hold something that is taken come along.
Runs   in zygote children; blocking.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from pallet.spec.ignore import PathMatcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.build.ops.selection import Excluder

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def excluder(fd: int, include: Sequence[str], exclude: Sequence[str]) -> Excluder:
    """What leaves out the paths of a directory that no pattern takes.

    Args:
        fd: the directory; a file is always taken.
        exclude: patterns of what is left out of that.
    """
    taken: set[str] = set()
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        wanted = PathMatcher(include).excludes
        unwanted = PathMatcher(exclude).excludes if exclude else lambda _: False
        root = os.open(".", _DIRECTORY, dir_fd=fd)
        try:
            _walk(root, "", wanted, unwanted, taken)
        finally:
            os.close(root)
    return lambda path: path not in taken


def _walk(fd: int, relative: str, wanted: Excluder, unwanted: Excluder, taken: set[str]) -> bool:
    """Add what is taken of a directory; whether anything is."""
    found = False
    with os.scandir(fd) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, directory in names:
        path = f"{relative}/{name}" if relative else name
        if unwanted(path):
            continue
        take = wanted(path)
        if directory:
            below = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                take = _walk(below, path, wanted, unwanted, taken) or take
            finally:
                os.close(below)
        if take:
            taken.add(path)
            found = True
    return found
