"""``pallet network ls`` and ``rm``."""

from __future__ import annotations

import sys

from pallet.cli.commands.ps import api_filters, configured_format
from pallet.cli.errors import CommandError
from pallet.cli.format.table import layout_for, render
from pallet.cli.format.views import NETWORK_TABLE, network_view
from pallet.cli.session import out, warn
from pallet.client import wire
from pallet.client.engine import quote
from pallet.client.errors import DaemonError

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
RM_FLAGS: Table = (("force", "f", "bool", "Do not error if the network does not exist"),)


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


def rm(session: Session, flags: Flags) -> int:
    """``pallet network rm``: prints each name removed; ``--force`` forgives missing ones."""
    failed = False
    for name in flags.args:
        try:
            session.engine.text("DELETE", f"/networks/{quote(name)}")
        except DaemonError as error:
            if flags["force"] and error.status == 404:
                continue
            warn(str(error))
            failed = True
        else:
            out(name)
    if failed:
        raise CommandError("")
    return 0
