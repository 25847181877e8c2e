"""What the progress calls operations that have no name of their own: BuildKit's words.

Runs   anywhere; pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pallet.api.buildkit.wire import llb_pb2


def of(op: llb_pb2.Op) -> str:
    """Name of an operation."""
    kind = op.WhichOneof("op")
    if kind == "source":
        return op.source.identifier
    if kind == "exec":
        return " ".join(op.exec.meta.args)
    if kind == "file":
        return ", ".join(_action(action) for action in op.file.actions)
    return kind or ""


def _action(action: llb_pb2.FileAction) -> str:
    kind = action.WhichOneof("action")
    if kind == "copy":
        return f"copy {action.copy.src} {action.copy.dest}"
    if kind == "symlink":
        return f"symlink {action.symlink.newpath} -> {action.symlink.oldpath}"
    if kind is None:
        return "unknown"
    return f"{kind} {getattr(action, kind).path}"
