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
from pallet.errors import SyscallError
from pallet.linux import safepath

if TYPE_CHECKING:
    from pallet.build.graph import Vertex
    from pallet.build.ports import ContextTree


def may_link(tree: ContextTree, vertex: Vertex) -> bool:
    """Whether the layer of ``vertex`` may hold links of the tree's files; the first that could may, from then on."""
    path = tree.linker
    if not path or not _takes_directory(tree.root, vertex.op):
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


def _takes_directory(root: str, op: graph.Op) -> bool:
    """Whether it is one COPY of one directory as it is: each file in one place, and enough of them to be worth it."""
    actions = op.actions if isinstance(op, graph.FileOp) else ()
    copy = actions[0] if len(actions) == 1 else None  # a second one might write to a file
    if not isinstance(copy, graph.CopyAction) or len(copy.paths) != 1:
        return False
    if copy.parents or copy.mode or copy.owner or copy.itself or copy.include or copy.time_ns is not None:
        return False
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(safepath.open_in_root(root_fd, copy.paths[0], os.O_PATH | os.O_DIRECTORY))
    except SyscallError:
        return False
    finally:
        os.close(root_fd)
    return True
