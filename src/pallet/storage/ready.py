"""Writable layers made ahead: a container's creation then renames one instead of making three directories.

Owns   ``snapshots/ready``.
Runs   ``take`` on any thread; ``refill`` on the trash's, after deletions: where containers come and
       go, and out of the way of whoever creates the next one.
Needs  the directory on the file system of the active snapshots.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_COUNT = 4


def make(directory: str) -> None:
    """Make the directories of a writable layer; its ``lower`` comes last and is the caller's."""
    os.mkdir(directory, 0o700)
    os.mkdir(f"{directory}/upper", 0o755)
    os.mkdir(f"{directory}/work", 0o700)


class ReadyLayers:
    """A few writable layers without an owner."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = str(directory)
        self._numbers = itertools.count()
        self._paths: deque[str] = deque()
        self._closed = False

    def take(self, target: str) -> bool:
        """Give one the name ``target``, which is free; False when there is none."""
        try:
            os.rename(self._paths.popleft(), target)
        except (IndexError, OSError):
            return False
        return True

    def refill(self) -> None:
        """Make some. A full disk is the next creation's to report."""
        while len(self._paths) < _COUNT and not self._closed:
            path = f"{self._directory}/{os.getpid()}-{next(self._numbers)}"
            try:
                make(path)
            except OSError:
                return
            self._paths.append(path)

    def left(self) -> list[str]:
        """Paths that an earlier daemon left. Before the first ``refill`` only."""
        return [entry.path for entry in os.scandir(self._directory)]

    def close(self) -> None:
        """Remove them. Nothing may refill any more."""
        self._closed = True
        while self._paths:
            path = self._paths.pop()
            for name in ("upper", "work", ""):
                os.rmdir(f"{path}/{name}")
