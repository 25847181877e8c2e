"""``pallet ps`` and ``pallet container ls``."""

from __future__ import annotations

import sys

from pallet.cli.format.table import layout_for, render
from pallet.cli.format.views import CONTAINER_TABLE, container_view
from pallet.client import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

LS_FLAGS: Table = (
    ("all", "a", "bool", "Show all containers (default shows just running)"),
    ("filter", "f", "filter", "Filter output based on conditions provided"),
    ("format", "", "string", "Format output: table, table TEMPLATE, json, or a Go template"),
    ("last", "n", "int", "Show n last created containers (includes all states)", "-1"),
    ("latest", "l", "bool", "Show the latest created container (includes all states)"),
    ("no-trunc", "", "bool", "Don't truncate output"),
    ("quiet", "q", "bool", "Only display container IDs"),
    ("size", "s", "bool", "Display total file sizes"),
)


def ls(session: Session, flags: Flags) -> int:
    """``pallet ps``."""
    last = flags["last"]
    if flags["latest"] and last == -1:
        last = 1
    size = flags["size"]
    layout = layout_for(
        flags["format"], CONTAINER_TABLE + ("\t{{.Size}}" if size else ""), quiet=flags["quiet"],
        configured=configured_format(session, flags, "psFormat"))
    # Docker asks for sizes only where they are shown: they cost the daemon a walk.
    wanted = size or ".Size" in layout
    filters = flags["filter"]
    found = session.engine.json("GET", "/containers/json", {
        "all": flags["all"] or last != -1, "limit": last if last > 0 else None, "size": wanted,
        "filters": wire.encode_text(api_filters(filters)) if filters else None})
    sys.stdout.write(render(container_view(truncate=not flags["no-trunc"]), found, layout))
    return 0


def api_filters(filters: dict[str, list[str]]) -> dict[str, dict[str, bool]]:
    """Return filters in the Engine API's form."""
    return {name: dict.fromkeys(values, True) for name, values in filters.items()}


def configured_format(session: Session, flags: Flags, key: str) -> str:
    """Return the list format of config.json, unless the command line decides."""
    if flags["format"] or ("quiet" in flags.rows() and flags["quiet"]):
        return ""
    value = session.config.get(key, "")
    return value if isinstance(value, str) else ""
