"""``pallet container prune``, ``image prune`` and ``volume prune``."""

from __future__ import annotations

import sys

from pallet.cli.commands.ps import api_filters
from pallet.cli.errors import CommandError
from pallet.cli.format.units import human_size
from pallet.cli.session import out
from pallet.client import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

_FORCE = ("force", "f", "bool", "Do not prompt for confirmation")
CONTAINERS_FLAGS: Table = (
    ("filter", "", "filter", 'Provide filter values (e.g. "until=<timestamp>")'), _FORCE)
IMAGES_FLAGS: Table = (
    ("all", "a", "bool", "Remove all unused images, not just dangling ones"),
    ("filter", "", "filter", 'Provide filter values (e.g. "until=<timestamp>")'), _FORCE)
VOLUMES_FLAGS: Table = (
    ("all", "a", "bool", "Remove all unused volumes, not just anonymous ones", "", "", "1.42"),
    ("filter", "", "filter", 'Provide filter values (e.g. "label=<label>")'), _FORCE)


def containers(session: Session, flags: Flags) -> int:
    """``pallet container prune``."""
    _confirm(flags, "WARNING! This will remove all stopped containers.")
    reply = _prune(session, "/containers/prune", flags["filter"])
    return _report("Deleted Containers:", reply.get("ContainersDeleted") or [], reply)


def images(session: Session, flags: Flags) -> int:
    """``pallet image prune``."""
    words = ("all images without at least one container associated to them" if flags["all"]
             else "all dangling images")
    _confirm(flags, f"WARNING! This will remove {words}.")
    filters = {**flags["filter"], "dangling": ["false" if flags["all"] else "true"]}
    reply = _prune(session, "/images/prune", filters)
    lines = [f"untagged: {item['Untagged']}" if item.get("Untagged") else
             f"deleted: {item['Deleted']}" for item in reply.get("ImagesDeleted") or ()]
    return _report("Deleted Images:", lines, reply)


def volumes(session: Session, flags: Flags) -> int:
    """``pallet volume prune``."""
    filters = dict(flags["filter"])
    if flags["all"]:
        if "all" in filters:
            raise CommandError("conflicting options: cannot specify both --all and --filter all=1")
        filters["all"] = ["true"]
    kind = "local volumes" if flags["all"] else "anonymous local volumes"
    _confirm(flags, f"WARNING! This will remove {kind} not used by at least one container.")
    reply = _prune(session, "/volumes/prune", filters)
    return _report("Deleted Volumes:", reply.get("VolumesDeleted") or [], reply)


def _prune(session: Session, path: str, filters: dict[str, list[str]]) -> dict[str, Any]:
    found = session.engine.json("POST", path, {
        "filters": wire.encode_text(api_filters(filters)) if filters else None})
    return dict(found or {})


def _confirm(flags: Flags, warning: str) -> None:
    if flags["force"]:
        return
    sys.stdout.write(f"{warning}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() != "y":
        raise CommandError("operation aborted")


def _report(title: str, lines: list[str], reply: dict[str, Any]) -> int:
    if lines:
        out("\n".join([title, *lines, ""]))
    out(f"Total reclaimed space: {human_size(reply.get('SpaceReclaimed', 0))}")
    return 0
