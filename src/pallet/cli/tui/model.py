"""What the explorer shows, without any terminal: the tree of files as of a layer.

Runs   in the command line; pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Record = dict[str, Any]

ALL = -1
"""In place of a layer's number: the whole image."""


@dataclass(slots=True)
class Node:
    """A path. ``size`` of a directory is all that is below it."""

    name: str
    path: str
    entry: Record | None = None
    change: str = ""
    """What the chosen layer did: added, changed, deleted, or nothing. A directory's is "changed"
    when something below it changed."""
    size: int = 0
    children: dict[str, Node] = field(default_factory=dict)

    def sorted_children(self, *, by_size: bool) -> list[Node]:
        """Directories first, then by name; or largest first."""
        if by_size:
            return sorted(self.children.values(), key=lambda node: (-node.size, node.name))
        return sorted(self.children.values(), key=lambda node: (not node.children, node.name))


def tree(exploration: Record, layer: int = ALL, *, changes_only: bool = False) -> Node:
    """Build the tree as it is once ``layer`` is on, marked with what that layer did.

    Args:
        layer: number of a layer, base 0; ``ALL`` shows the finished image, without marks.
        changes_only: leave out what the layer did not touch.
    """
    root = Node("/", "/")
    for entry in exploration["Entries"]:
        past = [step for step in entry["History"] if layer == ALL or step["Layer"] <= layer]
        if not past:
            continue
        last = past[-1]
        change = last["Kind"] if last["Layer"] == layer else ""
        if last["Kind"] == "deleted" and not change:
            continue
        if changes_only and not change:
            continue
        _place(root, entry, change, 0 if last["Kind"] == "deleted" else last.get("Size", 0))
    _sum(root)
    return root


def _place(root: Node, entry: Record, change: str, size: int) -> None:
    node = root
    path = ""
    for name in entry["Path"].strip("/").split("/"):
        if not name:
            break
        path += "/" + name
        node = node.children.setdefault(name, Node(name, path))
    node.entry, node.change, node.size = entry, change, size


def _sum(root: Node) -> None:
    """Add sizes and marks up, children before parents."""
    order, pending = [], [root]
    while pending:
        node = pending.pop()
        order.append(node)
        pending += node.children.values()
    for node in reversed(order):
        if node.children:
            node.size += sum(child.size for child in node.children.values())
            if not node.change and any(child.change for child in node.children.values()):
                node.change = "changed"


def history_text(exploration: Record, node: Node) -> list[str]:
    """Say who did what to a path, oldest first."""
    if node.entry is None:
        return []
    lines = []
    for step in node.entry["History"]:
        command = " ".join(exploration["Layers"][step["Layer"]]["CreatedBy"].split())
        size = f" ({step['Size']} bytes)" if step.get("Size") else ""
        lines.append(f"layer {step['Layer']}: {step['Kind']}{size}  {command}".rstrip())
    return lines
