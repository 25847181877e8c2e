"""``pallet image explore``, ``pin`` and ``unpin``."""

from __future__ import annotations

import sys

from pallet.cli.errors import CommandError
from pallet.cli.format.units import human_size
from pallet.cli.session import out, warn
from pallet.client.engine import quote
from pallet.client.errors import DaemonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

    Record = dict[str, Any]

EXPLORE_FLAGS: Table = (
    ("json", "", "bool", "Print everything as JSON"),
    ("plain", "", "bool", "Print a report even on a terminal"),
    ("top", "n", "int", "Lines of each list of a report", "10"),
)
PIN_FLAGS: Table = ()
UNPIN_FLAGS: Table = ()


def explore(session: Session, flags: Flags) -> int:
    """``pallet image explore``: full-screen on a terminal, else a report."""
    interactive = (sys.stdin.isatty() and sys.stdout.isatty()
                   and not (flags["json"] or flags["plain"]))
    path = f"/pallet/images/{quote(flags.args[0], '/:@')}/explore"
    if flags["json"]:
        sys.stdout.write(session.engine.text("GET", path).rstrip("\n") + "\n")
        return 0
    found = session.engine.json("GET", path, {"entries": "1" if interactive else "0"})
    if interactive and _show(found):
        return 0
    sys.stdout.write(report(found, flags["top"]))
    return 0


def _show(found: Record) -> bool:
    try:
        from pallet.cli.tui.explorer import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"textual", "rich"}:
            raise
        warn("the full-screen view needs the package textual (pallet[tui]): here is the report\n")
        return False
    run(found)
    return True


def report(found: Record, top: int) -> str:
    """Return the plain text of an exploration."""
    name = ", ".join(found["RepoTags"]) or found["Id"]
    lines = [
        f"Image        {name}",
        f"ID           {found['Id']}",
        f"Size         {human_size(found['Size'])}, of which visible {human_size(found['VisibleBytes'])}, "
        f"hidden {human_size(found['HiddenBytes'])}",
        f"Efficiency   {found['Efficiency'] * 100:.1f}%",
        "",
        "LAYER   SIZE      HIDDEN    ADDED   CHANGED   DELETED   CREATED BY",
    ]
    lines += [f"{number:<8}{human_size(layer['Size']):<10}{human_size(layer['HiddenBytes']):<10}"
              f"{layer['Added']:<8}{layer['Changed']:<10}{layer['Deleted']:<10}{_command(layer['CreatedBy'])}".rstrip()
              for number, layer in enumerate(found["Layers"])]
    if found["Hidden"]:
        lines += ["", "Hidden by later layers", "SIZE      TIMES   PATH"]
        lines += [f"{human_size(row['Bytes']):<10}{row['Times']:<8}{row['Path']}" for row in found["Hidden"][:top]]
    if found["Largest"]:
        lines += ["", "Largest files", "SIZE      LAYER   PATH"]
        lines += [f"{human_size(row['Size']):<10}{row['Layer']:<8}{row['Path']}" for row in found["Largest"][:top]]
    return "\n".join(lines) + "\n"


def _command(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else flat[:59] + "…"


def pin(session: Session, flags: Flags) -> int:
    """``pallet image pin``: the disk budget leaves it alone."""
    return _each(session, flags, "pin")


def unpin(session: Session, flags: Flags) -> int:
    """``pallet image unpin``."""
    return _each(session, flags, "unpin")


def _each(session: Session, flags: Flags, verb: str) -> int:
    failures = []
    for name in flags.args:
        try:
            session.engine.text("POST", f"/pallet/images/{quote(name, '/:@')}/{verb}")
        except DaemonError as error:
            failures.append(str(error))
        else:
            out(name)
    if failures:
        raise CommandError("\n".join(failures))
    return 0
