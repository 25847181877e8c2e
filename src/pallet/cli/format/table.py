"""Lists of objects: rows, columns, ``--format`` in all its forms.

Owns   the choice between table, JSON and template; column alignment as Go's tabwriter does it.
Spec   docker CLI "Format command and log output".
"""

from __future__ import annotations

from pallet.cli.errors import CommandError
from pallet.cli.format.lexer import TemplateError
from pallet.cli.format.template import Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    Fields = Mapping[str, tuple[str, Callable[[Any], Any]]]
    Methods = Mapping[str, Callable[[Any, str], Any]]

_MIN_WIDTH, _PADDING = 10, 3


class View:
    """What one kind of object offers to templates."""

    def __init__(self, type_name: str, fields: Fields, methods: Methods | None = None) -> None:
        """Describe a kind.

        Args:
            type_name: Go's type, for error messages.
            fields: name to (column header, function of the record). A header of "" is left out of
                JSON rows.
            methods: name to function of record and one argument, such as ``.Label "x"``.
        """
        self.type_name = type_name
        self.fields = fields
        self.methods = methods or {}


class Row:
    """One object under a view, as templates see it."""

    __slots__ = ("_record", "_view")

    def __init__(self, view: View, record: Any) -> None:
        """Pair ``record`` with ``view``."""
        self._view = view
        self._record = record

    def method(self, name: str, args: list[Any]) -> Any:
        """Return field ``name``, or the result of a method with one argument.

        Raises:
            TemplateError: there is no such field.
        """
        if args and name in self._view.methods:
            return self._view.methods[name](self._record, str(args[0]))
        if name not in self._view.fields:
            raise TemplateError(f"can't evaluate field {name} in type {self._view.type_name}")
        return self._view.fields[name][1](self._record)

    def fields(self) -> dict[str, Any]:
        """Return all fields, sorted, as JSON rows have them."""
        return {name: self._view.fields[name][1](self._record)
                for name in sorted(self._view.fields) if self._view.fields[name][0]}


class _HeaderRow:
    __slots__ = ("_view",)

    def __init__(self, view: View) -> None:
        self._view = view

    def method(self, name: str, args: list[Any]) -> str:
        if args:
            return str(args[0]).rpartition(".")[2].replace("-", " ").replace("_", " ")
        if name not in self._view.fields:
            raise TemplateError(f"can't evaluate field {name} in type {self._view.type_name}")
        return self._view.fields[name][0] or name.upper()

    def fields(self) -> dict[str, str]:
        return {name: header for name, (header, _) in self._view.fields.items()}


def render(view: View, records: Iterable[Any], layout: str) -> str:
    """Return the output for ``records``, each line ended.

    Args:
        view: the kind of object.
        records: in output order.
        layout: ``table TEMPLATE``, ``json`` or a template, from ``layout_for``.

    Raises:
        CommandError: the template is wrong, with Docker's words.
    """
    is_table = layout.startswith("table")
    text = layout.removeprefix("table").strip() if is_table else layout
    if text == "json":
        text = "{{json .}}"
    elif text != "{{json .}}":
        text = text.replace("\\t", "\t").replace("\\n", "\n")
    try:
        template = Template(text)
    except TemplateError as error:
        raise CommandError(f"failed to parse template: {error}") from None
    try:
        header = template.execute(_HeaderRow(view))  # also finds wrong names when no row is there
        lines = [header] if is_table else []
        lines += [template.execute(Row(view, record)) for record in records]
    except TemplateError as error:
        raise CommandError(f"failed to execute template: {error}") from None
    if text == "{{json .}}":
        from pallet.client.wire import escape_html

        lines = [escape_html(line) for line in lines]
    if is_table:
        return align(lines)
    return "".join(line + "\n" for line in lines)


def align(lines: Iterable[str], *, minimum: int = _MIN_WIDTH) -> str:
    """Return ``lines`` with tab-separated cells in columns at least ``minimum`` wide.

    The last cell of a line is not padded.
    """
    rows = [line.split("\t") for text in lines for line in text.split("\n")]
    widths = [[0] * len(row) for row in rows]
    for column in range(max((len(row) for row in rows), default=0)):
        start = 0
        while start < len(rows):
            end = start
            while end < len(rows) and len(rows[end]) > column + 1:
                end += 1
            if end > start:
                wide = max(len(rows[at][column]) for at in range(start, end)) + _PADDING
                for at in range(start, end):
                    widths[at][column] = max(wide, minimum)
            start = max(end, start + 1)
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row[:-1], wide, strict=False)) + row[-1]
        + "\n" for row, wide in zip(rows, widths, strict=True))


def layout_for(
    given: str, default: str, *, quiet: bool = False, quiet_field: str = "ID",
    configured: str = "",
) -> str:
    """Return the layout to render.

    Args:
        given: ``--format``.
        default: the template of the default table, without ``table``.
        quiet: only ids are wanted; ``--format`` wins over it unless it asks for a table.
        quiet_field: the field printed with ``quiet``.
        configured: the format of config.json, used when none is given.
    """
    layout = given or ("" if quiet else configured) or "table"
    if quiet and layout.startswith("table"):
        return f"{{{{.{quiet_field}}}}}"
    if layout == "table":
        return f"table {default}"
    return layout
