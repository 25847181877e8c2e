"""``pallet history``."""

from __future__ import annotations

import sys

from pallet.cli.format.table import layout_for, render
from pallet.cli.format.views import HISTORY_TABLE, history_view
from pallet.client.engine import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

HISTORY_FLAGS: Table = (
    ("format", "", "string", "Format output: table, table TEMPLATE, json, or a Go template"),
    ("human", "H", "bool", "Print sizes and dates in human readable format", "true"),
    ("no-trunc", "", "bool", "Don't truncate output"),
    ("platform", "", "string", "Show history for the given platform", "", "", "1.48"),
    ("quiet", "q", "bool", "Only show image IDs"),
)


def _platform(text: str) -> str | None:
    if not text:
        return None
    from pallet.cli.commands.images import platform_json

    return platform_json(text)


def history(session: Session, flags: Flags) -> int:
    """``pallet history``: newest layer first."""
    name = flags.args[0]
    layers = session.engine.json("GET", f"/images/{quote(name, '/:@')}/history",
                                 {"platform": _platform(flags["platform"])})
    layout = layout_for(flags["format"], HISTORY_TABLE, quiet=flags["quiet"])
    view = history_view(truncate=not flags["no-trunc"], human=flags["human"])
    sys.stdout.write(render(view, layers, layout))
    return 0
