"""``pallet version``."""

from __future__ import annotations

import sys

from pallet import __version__
from pallet.cli.errors import CommandError
from pallet.cli.session import out, warn
from pallet.client import wire
from pallet.client.errors import ConnectionFailedError, DaemonError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

VERSION_FLAGS: Table = (("format", "f", "string", "Format output: json, or a Go template"),)

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def version(session: Session, flags: Flags) -> int:
    """``pallet version``: the client alone, and exit code 1, when no daemon answers."""
    server: dict[str, Any] | None = None
    problem = ""
    try:
        server = session.engine.json("GET", "/version")
    except (ConnectionFailedError, DaemonError, ProtocolError) as error:
        problem = str(error)
    client = client_version(session, server)
    layout = flags["format"]
    if layout:
        formatted(layout, {"Client": client, "Server": server})
    else:
        _print_client(client)
        if server:
            _print_server(server)
    if problem:
        sys.stdout.flush()
        warn(problem)
        raise CommandError("")
    return 0


def client_version(session: Session, server: dict[str, Any] | None) -> dict[str, Any]:
    """Return the client's half of the version document."""
    import os

    system = os.uname()
    python = ".".join(str(part) for part in sys.version_info[:3])
    return {
        "Version": __version__, "ApiVersion": (server or {}).get("ApiVersion", ""),
        "DefaultAPIVersion": session.env.get("DOCKER_API_VERSION", ""),
        "GitCommit": "", "GoVersion": f"python{python}", "Os": system.sysname.lower(),
        "Arch": _MACHINES.get(system.machine, system.machine), "BuildTime": "",
        "Context": session.endpoint.context,
    }


def formatted(layout: str, document: dict[str, Any]) -> None:
    """Print ``document`` as JSON or through a template.

    Raises:
        CommandError: the template is wrong.
    """
    if layout == "json":
        out(wire.encode_text(document))
        return
    from pallet.cli.format.lexer import TemplateError
    from pallet.cli.format.template import Template
    from pallet.cli.format.values import mark

    try:
        out(Template(layout.replace("\\t", "\t").replace("\\n", "\n")).execute(mark(document)))
    except TemplateError as error:
        raise CommandError(f"template parsing error: {error}") from None


def _print_client(client: dict[str, Any]) -> None:
    out(f"Client:\n Version:           {client['Version']}")
    if client["ApiVersion"]:
        out(f" API version:       {client['ApiVersion']}")
    out(f" Python version:    {client['GoVersion'].removeprefix('python')}\n"
        f" OS/Arch:           {client['Os']}/{client['Arch']}\n"
        f" Context:           {client['Context']}")


def _print_server(server: dict[str, Any]) -> None:
    title = (server.get("Platform") or {}).get("Name", "")
    out(f"\nServer: {title}".rstrip() if title else "\nServer:")
    for part in server.get("Components") or ():
        details = part.get("Details") or {}
        out(f" {part['Name']}:\n  Version:          {part['Version']}")
        for label, key in (
            ("API version", "ApiVersion"), ("Go version", "GoVersion"),
            ("Git commit", "GitCommit"), ("Built", "BuildTime"), ("OS/Arch", "Arch"),
            ("Experimental", "Experimental"),
        ):
            if key not in details:
                continue
            value = details[key]
            if key == "ApiVersion":
                value = f"{value} (minimum version {details.get('MinAPIVersion', '')})"
            elif key == "Arch":
                value = f"{details.get('Os', '')}/{value}"
            elif key == "GitCommit" and part["Name"] != "Engine":
                out(f"  GitCommit:        {value}")
                continue
            if key == "GoVersion" and str(value).startswith("python"):
                out(f"  Python version:   {str(value).removeprefix('python')}")
            else:
                out(f"  {label + ':':<17} {value}")
