"""Which operation's layers may hold links of a context's files instead of copies.

Owns   the file beside a tree that names that operation, by its digest.
Runs   in threads; blocking.

A kept tree's files are never written to, and neither are a layer's, so they can be one: a COPY of fifty thousand
files makes none, and what did not change is the same file in every version of the layer. But two places of one
container must not be one file (programs compare inodes), so a tree's files are linked by one operation only: in
all its layers a file has the same path.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pallet.build import graph
from pallet.build.cachekey import op_digest

if TYPE_CHECKING:
    from pallet.build.graph import Vertex


def may_link(path: str, vertex: Vertex) -> bool:
    """Whether the layer of ``vertex`` may hold links of the tree's files; the first one that asks may, from then on.

    Args:
        path: ``ContextTree.linker``.
    """
    if not path or not _each_once(vertex.op):
        return False
    key = op_digest(vertex).encode()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        with open(path, "rb") as file:
            return file.read() == key
    except OSError:
        return False
    try:
        return os.write(fd, key) == len(key)
    finally:
        os.close(fd)


def _each_once(op: graph.Op) -> bool:
    """Whether it puts each file in one place: one plain path of one COPY."""
    copies = [action for action in getattr(op, "actions", ()) if isinstance(action, graph.CopyAction)]
    return len(copies) == 1 and len(copies[0].paths) == 1 and not copies[0].parents
