"""What is in a file, on its way into another.

Runs   in zygote children; blocking.
"""

from __future__ import annotations

import errno
import os

_COPY_OUT_BYTES = 1 << 30


def copy_small(source: int, target: int, size: int) -> None:
    """Copy a file whose size is known, mostly by one call."""
    while size > 0:
        sent = os.sendfile(target, source, None, size)
        if not sent:
            return
        size -= sent


def copy_sparse(source: int, target: int, size: int) -> None:
    """Copy a file with its holes."""
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(source, start, os.SEEK_SET)
        os.lseek(target, start, os.SEEK_SET)
        while start < end:
            sent = os.sendfile(target, source, None, min(end - start, _COPY_OUT_BYTES))
            if not sent:
                break
            start += sent
        position = end
    os.ftruncate(target, size)
