"""``pallet context ls`` and ``context show``."""

from __future__ import annotations

import sys

from pallet.cli.format.table import View, layout_for, render
from pallet.cli.session import out, warn
from pallet.client.contexts import list_contexts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

LS_FLAGS: Table = (
    ("format", "", "string", "Format output: table, table TEMPLATE, json, or a Go template"),
    ("quiet", "q", "bool", "Only show context names"),
)
SHOW_FLAGS: Table = ()
_TABLE = ("{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}")
_VIEW = View("*formatter.clientContextContext", {
    "Current": ("", lambda c: c["Current"]),
    "Name": ("NAME", lambda c: c["Name"]),
    "Description": ("DESCRIPTION", lambda c: c["Description"]),
    "DockerEndpoint": ("DOCKER ENDPOINT", lambda c: c["DockerEndpoint"]),
    "Error": ("ERROR", lambda c: c["Error"]),
})


def ls(session: Session, flags: Flags) -> int:
    """``pallet context ls``."""
    endpoint = session.endpoint
    rows: list[dict[str, Any]] = [{
        "Name": "default", "Current": endpoint.context == "default", "Error": "",
        "Description": "Current DOCKER_HOST based configuration",
        "DockerEndpoint": endpoint.url if endpoint.context == "default" else ""}]
    for document in list_contexts(session.config_dir):
        docker = document.get("Endpoints", {}).get("docker", {})
        rows.append({
            "Name": document["Name"], "Current": document["Name"] == endpoint.context,
            "Description": document.get("Metadata", {}).get("Description", ""), "Error": "",
            "DockerEndpoint": docker.get("Host", "")})
    layout = layout_for(flags["format"], _TABLE, quiet=flags["quiet"], quiet_field="Name")
    text = render(_VIEW, rows, layout)
    # Docker's header has no mark although its template would print one.
    sys.stdout.write(text.replace("NAME *", "NAME  ", 1) if layout == f"table {_TABLE}" else text)
    if session.env.get("DOCKER_HOST") and not flags["quiet"]:
        warn("Warning: DOCKER_HOST environment variable overrides the active context. To use a "
             "context, either set the global --context flag, or unset DOCKER_HOST environment "
             "variable.")
    return 0


def show(session: Session, flags: Flags) -> int:
    """``pallet context show``."""
    out(session.endpoint.context)
    return 0
