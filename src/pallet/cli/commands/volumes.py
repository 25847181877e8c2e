"""``pallet volume ls``, ``create`` and ``rm``."""

from __future__ import annotations

import sys

from pallet.cli.commands.ps import api_filters, configured_format
from pallet.cli.errors import CommandError
from pallet.cli.format.table import layout_for, render
from pallet.cli.format.views import VOLUME_TABLE, volume_view
from pallet.cli.run.files import pairs
from pallet.cli.session import out
from pallet.client import wire
from pallet.client.engine import quote
from pallet.client.errors import DaemonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

LS_FLAGS: Table = (
    ("filter", "f", "filter", 'Provide filter values (e.g. "dangling=true")'),
    ("format", "", "string", "Format output: table, table TEMPLATE, json, or a Go template"),
    ("quiet", "q", "bool", "Only display volume names"),
)
CREATE_FLAGS: Table = (
    ("driver", "d", "string", "Specify volume driver name", "local"),
    ("label", "", "list:label", "Set metadata for a volume"),
    ("name", "", "string", "Specify volume name", "", "hidden"),
    ("opt", "o", "map", "Set driver specific options"),
)
RM_FLAGS: Table = (
    ("force", "f", "bool", "Force the removal of one or more volumes"),
)


def ls(session: Session, flags: Flags) -> int:
    """``pallet volume ls``: by name."""
    filters = flags["filter"]
    layout = layout_for(flags["format"], VOLUME_TABLE, quiet=flags["quiet"], quiet_field="Name",
                        configured=configured_format(session, flags, "volumesFormat"))
    reply = session.engine.json("GET", "/volumes", {
        "filters": wire.encode_text(api_filters(filters)) if filters else None})
    found = sorted(reply.get("Volumes") or (), key=lambda volume: str(volume["Name"]))
    sys.stdout.write(render(volume_view(), found, layout))
    return 0


def create(session: Session, flags: Flags) -> int:
    """``pallet volume create``: prints the name."""
    name = flags["name"]
    if flags.args:
        if name:
            raise CommandError("conflicting options: cannot specify a volume-name through both "
                               "--name and as a positional arg")
        name = flags.args[0]
    volume = session.engine.json("POST", "/volumes/create", body={
        "Name": name, "Driver": flags["driver"], "DriverOpts": flags["opt"],
        "Labels": pairs(flags["label"])})
    out(volume["Name"])
    return 0


def rm(session: Session, flags: Flags) -> int:
    """``pallet volume rm``: prints each name removed."""
    failures = []
    for name in flags.args:
        try:
            session.engine.text("DELETE", f"/volumes/{quote(name)}", {"force": flags["force"]})
        except DaemonError as error:
            failures.append(str(error))
        else:
            out(name)
    if failures:
        raise CommandError("\n".join(failures))
    return 0
