"""The full-screen explorer of an image: layers on the left, their files on the right.

Runs   in the command line, on a terminal. Needs textual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import DataTable, Footer, Static, Tree

from pallet.cli.format.units import human_size
from pallet.cli.tui.model import ALL, Node, history_text, tree

if TYPE_CHECKING:
    from textual.widgets.tree import TreeNode

    Record = dict[str, Any]

_COLOURS = {"added": "green", "changed": "yellow", "deleted": "red"}
_MARKS = {"added": "+", "changed": "~", "deleted": "-"}


class ExplorerApp(App[None]):
    """Shows one exploration."""

    CSS = """
    #left { width: 45%; }
    #layers { height: 1fr; }
    #facts, #detail { height: auto; max-height: 12; padding: 0 1; border-top: solid $primary; }
    #files { width: 1fr; border-left: solid $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,escape", "quit", "Quit"),
        Binding("tab", "focus_next", "Layers/files"),
        Binding("c", "toggle_changes", "Changes only"),
        Binding("s", "toggle_order", "By size"),
    ]

    def __init__(self, exploration: Record) -> None:
        """Take what ``GET /pallet/images/{name}/explore`` answered."""
        super().__init__()
        self._exploration = exploration
        self.layer = ALL
        self.changes_only = False
        self.by_size = False

    def compose(self) -> ComposeResult:
        """Lay the widgets out."""
        with Horizontal():
            with Vertical(id="left"):
                table: DataTable[Text] = DataTable(id="layers", cursor_type="row", zebra_stripes=True)
                yield table
                yield Static(self._facts(), id="facts", markup=False)
            with Vertical():
                files: Tree[Node] = Tree("/", id="files")
                yield files
                yield Static("", id="detail", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Fill the table of layers and show the whole image."""
        self.title = ", ".join(self._exploration["RepoTags"]) or self._exploration["Id"]
        table = self.query_one("#layers", DataTable)
        table.add_columns("LAYER", "SIZE", "HIDDEN", "CREATED BY")
        table.add_row("all", human_size(self._exploration["Size"]), human_size(self._exploration["HiddenBytes"]), "",
                      key=str(ALL))
        for number, layer in enumerate(self._exploration["Layers"]):
            table.add_row(str(number), human_size(layer["Size"]), human_size(layer["HiddenBytes"]),
                          Text(" ".join(layer["CreatedBy"].split())), key=str(number))
        table.focus()
        self._refill()

    def _facts(self) -> str:
        found = self._exploration
        lines = [f"{human_size(found['VisibleBytes'])} visible, {human_size(found['HiddenBytes'])} hidden, "
                 f"efficiency {found['Efficiency'] * 100:.1f}%"]
        lines += [f"{human_size(row['Bytes']):>9}  {row['Path']}" for row in found["Hidden"][:8]]
        return "\n".join(lines)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show the files of the layer under the cursor."""
        chosen = int(event.row_key.value or ALL)
        if chosen != self.layer:
            self.layer = chosen
            self._refill()

    def on_tree_node_expanded(self, event: Tree.NodeExpanded[Node]) -> None:
        """Make a directory's lines when it is opened: there may be fifty thousand in all."""
        self._fill(event.node)

    def on_tree_node_highlighted(self, event: Tree.NodeHighlighted[Node]) -> None:
        """Tell the history of the path under the cursor."""
        node = event.node.data
        if node is None:
            return
        entry = node.entry or {}
        owner = f"{entry.get('Mode', 0):04o} {entry.get('Uid', 0)}:{entry.get('Gid', 0)} " if node.entry else ""
        target = f" -> {entry['Target']}" if entry.get("Target") else ""
        self.query_one("#detail", Static).update("\n".join(
            [f"{node.path}{target}", f"{owner}{human_size(node.size)}", *history_text(self._exploration, node)]))

    def action_toggle_changes(self) -> None:
        """Show all files, or only those that the layer touched."""
        self.changes_only = not self.changes_only
        self._refill()

    def action_toggle_order(self) -> None:
        """Sort by name or by size."""
        self.by_size = not self.by_size
        self._refill()

    def _refill(self) -> None:
        files = self.query_one("#files", Tree)
        root = tree(self._exploration, self.layer, changes_only=self.changes_only and self.layer != ALL)
        files.reset(_label(root), root)
        self._fill(files.root)
        files.root.expand()

    def _fill(self, at: TreeNode[Node]) -> None:
        if at.data is None or at.children:
            return
        for child in at.data.sorted_children(by_size=self.by_size):
            if child.children:
                at.add(_label(child), child)
            else:
                at.add_leaf(_label(child), child)


def _label(node: Node) -> Text:
    mark = _MARKS.get(node.change, " ")
    return Text(f"{mark} {human_size(node.size):>9}  {node.name}", style=_COLOURS.get(node.change, ""))


def run(exploration: Record) -> None:
    """Show it until the user quits."""
    ExplorerApp(exploration).run()
