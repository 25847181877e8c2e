"""``pallet builder prune`` and ``pallet builder du``: the build cache.

Spec   docker builder prune, docker buildx du; Engine API BuildPrune.
"""

from __future__ import annotations

from pallet.cli.commands.ps import api_filters
from pallet.cli.format.units import human_size
from pallet.cli.session import out
from pallet.client import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

PRUNE_FLAGS: Table = (
    ("all", "a", "bool", "Remove all unused build cache, not just dangling ones"),
    ("filter", "", "filter", 'Provide filter values (e.g. "until=24h")'),
    ("force", "f", "bool", "Do not prompt for confirmation"),
    ("keep-storage", "", "bytes", "Amount of disk space to keep for cache"),
    ("max-used-space", "", "bytes", "Maximum amount of disk space allowed to keep for cache"),
    ("min-free-space", "", "bytes", "Target amount of free disk space after pruning"),
    ("reserved-space", "", "bytes", "Amount of disk space always allowed to keep for cache"),
    ("verbose", "", "bool", "Provide a more verbose output", "", "hidden"),
)
DU_FLAGS: Table = (
    ("filter", "", "filter", "Provide filter values"),
    ("format", "", "string", "Format the output", "", "hidden"),
    ("verbose", "", "bool", "Provide a more verbose output"),
)


def prune(session: Session, flags: Flags) -> int:
    """``pallet builder prune``: ends with the space that came free."""
    from pallet.cli.commands.prune import confirm

    words = "all build cache" if flags["all"] else "all dangling build cache"
    confirm(flags, f"WARNING! This will remove {words}.")
    given = flags["filter"]
    reply = session.engine.json("POST", "/build/prune", {
        "all": flags["all"] or None, "filters": wire.encode_text(api_filters(given)) if given else None,
        "reserved-space": flags["reserved-space"] or flags["keep-storage"] or None,
        "max-used-space": flags["max-used-space"] or None,
        "min-free-space": flags["min-free-space"] or None}) or {}
    gone = reply.get("CachesDeleted") or []
    if gone:
        out("\n".join(["Deleted build cache objects:", *gone, ""]))
    out(f"Total reclaimed space: {human_size(reply.get('SpaceReclaimed', 0))}")
    return 0


def du(session: Session, flags: Flags) -> int:
    """``pallet builder du``: what the cache holds, the largest first."""
    records = [record for record in session.engine.json("GET", "/pallet/build/cache") or []
               if _wanted(record, flags["filter"])]
    records.sort(key=lambda record: -record["Size"])
    if flags["verbose"]:
        for record in records:
            out(_details(record))
    else:
        rows = [("ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED")]
        rows += [(record["ID"] + ("*" if record["Type"] == "exec.cachemount" else ""), _yes(not record["InUse"]),
                  human_size(record["Size"]), _ago(record.get("LastUsedAt"))) for record in records]
        widths = [max(len(row[at]) for row in rows) for at in range(3)]
        for row in rows:
            out("   ".join([row[at].ljust(widths[at]) for at in range(3)] + [row[3]]).rstrip())
    shared = sum(record["Size"] for record in records if record["Shared"])
    total = sum(record["Size"] for record in records)
    free = sum(record["Size"] for record in records if not record["InUse"])
    if shared:
        out(f"Shared:\t\t{human_size(shared)}\nPrivate:\t{human_size(total - shared)}")
    out(f"Reclaimable:\t{human_size(free)}\nTotal:\t\t{human_size(total)}")
    return 0


def _wanted(record: dict[str, Any], filters: dict[str, list[str]]) -> bool:
    names = {"id": "ID", "type": "Type", "description": "Description"}
    for name, values in filters.items():
        if name in names and not any(str(record[names[name]]).startswith(value) for value in values):
            return False
        if name == "inuse" and record["InUse"] is not (values[-1] in ("1", "true")):
            return False
        if name == "shared" and record["Shared"] is not (values[-1] in ("1", "true")):
            return False
    return True


def _details(record: dict[str, Any]) -> str:
    lines = [("ID", record["ID"]), *(("Parent", parent) for parent in record.get("Parents") or ()),
             ("Created at", record["CreatedAt"]), ("Mutable", _yes(record["Type"] == "exec.cachemount")),
             ("Reclaimable", _yes(not record["InUse"])), ("Shared", _yes(record["Shared"])),
             ("Size", human_size(record["Size"])), ("Description", record["Description"]),
             ("Usage count", str(record["UsageCount"])), ("Last used", _ago(record.get("LastUsedAt"))),
             ("Type", record["Type"])]
    return "".join(f"{name + ':':<13}{value}\n" for name, value in lines)


def _yes(value: bool) -> str:
    return "true" if value else "false"


def _ago(text: str | None) -> str:
    if not text:
        return ""
    from pallet.cli.format.units import ago, parse_rfc3339

    return ago(parse_rfc3339(text)[0])
