"""``pallet doctor``: what this host lacks, what that costs, and how to get it."""

from __future__ import annotations

import sys

from pallet.cli.errors import CommandError
from pallet.cli.format.table import View, render
from pallet.cli.host.checks import CHECKS, Finding
from pallet.cli.host.probe import Host
from pallet.cli.session import out
from pallet.client import wire
from pallet.client.engine import Engine
from pallet.client.errors import ConnectionFailedError, DaemonError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

DOCTOR_FLAGS: Table = (
    ("format", "f", "string", "Format output: json, table TEMPLATE, or a Go template"),
    ("quiet", "q", "bool", "Only show what is not in order"),
)
_VIEW = View("Finding", {
    "Name": ("NAME", lambda finding: finding.name),
    "Level": ("LEVEL", lambda finding: finding.level),
    "Found": ("FOUND", lambda finding: finding.found),
    "Cost": ("COST", lambda finding: finding.cost),
    "Fix": ("FIX", lambda finding: finding.fix),
})


def doctor(session: Session, flags: Flags) -> int:
    """``pallet doctor``: exit code 1 when no container could run."""
    host = Host()
    findings = [finding for check in CHECKS for finding in check(host)]
    findings.append(_daemon(session))
    if flags["quiet"]:
        findings = [finding for finding in findings if finding.level in ("warn", "fail")]
    layout = flags["format"]
    if layout == "json":
        out(wire.indent(wire.encode_text([finding.document() for finding in findings]), "  "))
    elif layout:
        sys.stdout.write(render(_VIEW, findings, layout))
    else:
        sys.stdout.write(table(findings))
    if any(finding.level == "fail" for finding in findings):
        raise CommandError("")
    return 0


def table(findings: list[Finding]) -> str:
    """Return the findings for people: a line each, cost and cure below where there are any."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<5} {finding.name:<{width}}  {finding.found}")
        lines += [f"{'':<{width + 8}}{label}: {text}" for label, text in (
            ("cost", finding.cost), ("fix", finding.fix)) if text]
    counts = {level: sum(1 for finding in findings if finding.level == level)
              for level in ("fail", "warn", "note")}
    if counts["fail"]:
        verdict = "Containers cannot run here until what is marked fail is mended."
    elif counts["warn"]:
        verdict = f"Containers run here; {counts['warn']} thing(s) will not work as they should."
    else:
        verdict = "Everything that containers need is here."
    return "\n".join([*lines, "", verdict, ""])


def _daemon(session: Session) -> Finding:
    endpoint = session.endpoint
    try:
        info = Engine(endpoint).json("GET", "/version")
    except (ConnectionFailedError, DaemonError, ProtocolError) as error:
        if endpoint.implicit:
            return Finding("daemon", "note", "not running", "",
                           "the first command starts it; or: systemctl enable --now palletd")
        return Finding("daemon", "warn", str(error), f"{endpoint.url} was asked for",
                       "start it, or unset DOCKER_HOST")
    return Finding("daemon", "ok", f"{info.get('Version', '')} at {endpoint.url}")
