"""Deletion in the background: a rename now, the unlinking later, and a sweep after a kill.

Owns   ``snapshots/trash``.
Runs   in the daemon: ``take`` on any thread, the deletions on one thread of its own, started with
       the first and ended by ``close``. The deletions are system calls that release the interpreter
       lock.
Needs  the trash on the file system of what it takes.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
from typing import TYPE_CHECKING

from pallet.layer.remove import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger(__name__)

_PAUSE_S = 0.02
"""From a removal to its deletion: removals come in rows, and whoever asked waits for the reply."""
_NICE = 10
"""Of the thread: what is deleted is nobody's any more, and others want the processor."""


class Trash:
    """Trees on their way out."""

    def __init__(self, directory: Path, *, idle: Callable[[], None] = lambda: None) -> None:
        """Make the directory.

        Args:
            idle: called on the thread after deletions.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = str(directory)
        self._prefix = f"{self._directory}/{os.getpid()}-{os.urandom(4).hex()}-"
        self._numbers = itertools.count()
        self._ready = threading.Condition()
        self._waiting: list[tuple[str, int]] = []
        """Paths, each with the mount to let go of before, -1 for none."""
        self._busy = False
        self._hurry = False
        self._closing = False
        self._idle = idle
        self._thread: threading.Thread | None = None

    def take(self, path: str, mount_fd: int = -1) -> bool:
        """Make ``path`` disappear at once; False when it was not there.

        Args:
            mount_fd: closed in the background, in any case: the last descriptor of a mount takes
                its inodes and its file cache along, which takes a while.

        Raises:
            OSError: it cannot be renamed.
        """
        target = f"{self._prefix}{next(self._numbers)}"
        there = True
        try:
            os.rename(path, target)
        except FileNotFoundError:
            there = False
            if mount_fd < 0:
                return False
        with self._ready:
            self._waiting.append((target if there else "", mount_fd))
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._work, name="pallet-trash", daemon=True)
                self._thread.start()
            self._ready.notify_all()
        return there

    def sweep(self) -> int:
        """Schedule what an earlier daemon left; return how many trees."""
        left = [entry.path for entry in os.scandir(self._directory)
                if not entry.path.startswith(self._prefix)]
        for path in left:
            self.take(path)
        return len(left)

    def drain(self) -> None:
        """Wait until everything taken so far is gone."""
        with self._ready:
            self._hurry = True
            self._ready.notify_all()
            self._ready.wait_for(lambda: not self._waiting and not self._busy)
            self._hurry = False

    def close(self) -> None:
        """Finish the deletion under way and end the thread; the next ``sweep`` takes the rest."""
        with self._ready:
            self._closing = True
            self._ready.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while batch := self._next_batch():
            for path, mount_fd in batch:
                _delete(path, mount_fd)
                if self._closing:
                    break
            self._idle()

    def _next_batch(self) -> list[tuple[str, int]]:
        """Wait for something to delete and let a row of removals pass; empty at the end."""
        with self._ready:
            self._busy = False
            self._ready.notify_all()
            self._ready.wait_for(lambda: self._waiting or self._closing)
            self._ready.wait_for(lambda: self._hurry or self._closing, _PAUSE_S)
            batch, self._waiting = self._waiting, []
            if self._closing:
                for _, mount_fd in batch:
                    _close(mount_fd)
                self._ready.notify_all()
                return []
            self._busy = True
            return batch


def _delete(path: str, mount_fd: int) -> None:
    _close(mount_fd)
    try:
        if path:
            remove_tree(path)
    except OSError as error:
        logger.warning("cannot delete %s: %s", path, error)


def _close(mount_fd: int) -> None:
    if mount_fd >= 0:
        os.close(mount_fd)
