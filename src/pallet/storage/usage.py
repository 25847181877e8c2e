"""How big a tree is, as ``docker ps -s`` counts it.

Runs   in the daemon's workers. No symlink is followed.
"""

from __future__ import annotations

import os
import stat


def tree_size(path: str) -> int:
    """Sum the sizes of all files and links below ``path``, each inode once.

    Raises:
        FileNotFoundError: ``path`` itself is not there; what vanishes below it is skipped.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    pending = [path]
    first = True
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except (FileNotFoundError, NotADirectoryError):
            if first:
                raise
            continue
        first = False
        with entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
                elif status.st_nlink == 1 or (status.st_dev, status.st_ino) not in seen:
                    if status.st_nlink > 1:
                        seen.add((status.st_dev, status.st_ino))
                    total += status.st_size
    return total
