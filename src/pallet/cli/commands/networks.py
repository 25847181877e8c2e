"""``pallet network ls``."""

from __future__ import annotations

import sys

from pallet.cli.commands.ps import api_filters, configured_format
from pallet.cli.format.table import layout_for, render
from pallet.cli.format.views import NETWORK_TABLE, network_view
from pallet.client import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

LS_FLAGS: Table = (
    ("filter", "f", "filter", 'Provide filter values (e.g. "driver=bridge")'),
    ("format", "", "string", "Format output: table, table TEMPLATE, json, or a Go template"),
    ("no-trunc", "", "bool", "Do not truncate the output"),
    ("quiet", "q", "bool", "Only display network IDs"),
)


def ls(session: Session, flags: Flags) -> int:
    """``pallet network ls``: by name."""
    filters = flags["filter"]
    layout = layout_for(flags["format"], NETWORK_TABLE, quiet=flags["quiet"],
                        configured=configured_format(session, flags, "networksFormat"))
    found = session.engine.json("GET", "/networks", {
        "filters": wire.encode_text(api_filters(filters)) if filters else None})
    found.sort(key=lambda network: network["Name"])
    sys.stdout.write(render(network_view(truncate=not flags["no-trunc"]), found, layout))
    return 0
