"""``pallet container prune``, ``image prune``, ``network prune``, ``volume prune``, ``system prune``."""

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


NETWORKS_FLAGS: Table = (
    ("filter", "", "filter", 'Provide filter values (e.g. "until=<timestamp>")'), _FORCE)
SYSTEM_FLAGS: Table = (
    ("all", "a", "bool", "Remove all unused images, not just dangling ones"),
    ("filter", "", "filter", 'Provide filter values (e.g. "label=<key>=<value>")', "", "", "1.28"),
    _FORCE, ("volumes", "", "bool", "Prune anonymous volumes"))


def containers(session: Session, flags: Flags) -> int:
    """``pallet container prune``."""
    confirm(flags, "WARNING! This will remove all stopped containers.")
    return _report(_containers(session, flags["filter"]))


def images(session: Session, flags: Flags) -> int:
    """``pallet image prune``."""
    words = ("all images without at least one container associated to them" if flags["all"]
             else "all dangling images")
    confirm(flags, f"WARNING! This will remove {words}.")
    return _report(_images(session, flags["filter"], everything=flags["all"]))


def networks(session: Session, flags: Flags) -> int:
    """``pallet network prune``: networks take no space."""
    confirm(flags, "WARNING! This will remove all custom networks not used by at least one container.")
    text, _ = _networks(session, flags["filter"])
    if text:
        out(text)
    return 0


def volumes(session: Session, flags: Flags) -> int:
    """``pallet volume prune``."""
    filters = dict(flags["filter"])
    if flags["all"]:
        if "all" in filters:
            raise CommandError("conflicting options: cannot specify both --all and --filter all=1")
        filters["all"] = ["true"]
    kind = "local volumes" if flags["all"] else "anonymous local volumes"
    confirm(flags, f"WARNING! This will remove {kind} not used by at least one container.")
    return _report(_volumes(session, filters))


def system(session: Session, flags: Flags) -> int:
    """``pallet system prune``: containers, networks, with ``--volumes`` volumes, images, build cache."""
    if flags["volumes"] and "until" in flags["filter"]:
        raise CommandError('ERROR: The "until" filter is not supported with "--volumes"')
    filters = flags["filter"]
    confirm(flags, _system_warning(flags))
    reclaimed = 0
    steps = [_containers(session, filters), _networks(session, filters)]
    if flags["volumes"]:
        steps.append(_volumes(session, filters))
    steps.append(_images(session, filters, everything=flags["all"]))
    steps.append(_build_cache(session, filters, everything=flags["all"]))
    for text, size in steps:
        reclaimed += size
        if text:
            out(text)
    out(f"Total reclaimed space: {human_size(reclaimed)}")
    return 0


def _system_warning(flags: Flags) -> str:
    """Say what goes, as Docker does."""
    items = ["all stopped containers", "all networks not used by at least one container"]
    if flags["volumes"]:
        items.append("all anonymous volumes not used by at least one container")
    items.append("all images without at least one container associated to them" if flags["all"]
                 else "all dangling images")
    items.append("all build cache" if flags["all"] else "unused build cache")
    text = "WARNING! This will remove:\n" + "".join(f"  - {item}\n" for item in items)
    chosen = sorted(f"{key}={value}" for key, values in flags["filter"].items() for value in values)
    if chosen:
        text += "\n  Items to be pruned will be filtered with:\n"
        text += "".join(f"  - {item}\n" for item in chosen)
    return text


def _containers(session: Session, filters: dict[str, list[str]]) -> tuple[str, int]:
    reply = _prune(session, "/containers/prune", filters)
    return _section("Deleted Containers:", reply.get("ContainersDeleted") or [], reply)


def _networks(session: Session, filters: dict[str, list[str]]) -> tuple[str, int]:
    reply = _prune(session, "/networks/prune", filters)
    return _section("Deleted Networks:", reply.get("NetworksDeleted") or [], reply)


def _volumes(session: Session, filters: dict[str, list[str]]) -> tuple[str, int]:
    reply = _prune(session, "/volumes/prune", filters)
    return _section("Deleted Volumes:", reply.get("VolumesDeleted") or [], reply)


def _images(session: Session, given: dict[str, list[str]], *, everything: bool) -> tuple[str, int]:
    filters = {**given, "dangling": ["false" if everything else "true"]}
    reply = _prune(session, "/images/prune", filters)
    lines = [f"untagged: {item['Untagged']}" if item.get("Untagged") else
             f"deleted: {item['Deleted']}" for item in reply.get("ImagesDeleted") or ()]
    return _section("Deleted Images:", lines, reply)


def _build_cache(session: Session, filters: dict[str, list[str]], *, everything: bool) -> tuple[str, int]:
    reply = session.engine.json("POST", "/build/prune", {
        "all": everything or None,
        "filters": wire.encode_text(api_filters(filters)) if filters else None}) or {}
    return _section("Deleted build cache objects:", reply.get("CachesDeleted") or [], reply)


def _section(title: str, lines: list[str], reply: dict[str, Any]) -> tuple[str, int]:
    text = "\n".join([title, *lines, ""]) if lines else ""
    return text, int(reply.get("SpaceReclaimed", 0))


def _prune(session: Session, path: str, filters: dict[str, list[str]]) -> dict[str, Any]:
    found = session.engine.json("POST", path, {
        "filters": wire.encode_text(api_filters(filters)) if filters else None})
    return dict(found or {})


def confirm(flags: Flags, warning: str) -> None:
    """Ask; another answer than yes ends the command, which is no failure."""
    if flags["force"]:
        return
    sys.stdout.write(f"{warning}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() != "y":
        raise CommandError("", code=0)


def _report(section: tuple[str, int]) -> int:
    text, reclaimed = section
    if text:
        out(text)
    out(f"Total reclaimed space: {human_size(reclaimed)}")
    return 0
