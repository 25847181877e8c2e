"""``pallet system df``."""

from __future__ import annotations

import sys

from pallet.cli.errors import CommandError
from pallet.cli.format.lexer import TemplateError
from pallet.cli.format.table import Row, View, layout_for, render
from pallet.cli.format.template import Template
from pallet.cli.format.units import ago, human_size
from pallet.cli.format.views import container_view, image_view, volume_view
from pallet.cli.session import out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

    Record = dict[str, Any]

DF_FLAGS: Table = (
    ("format", "", "string", "Format output: table, table TEMPLATE, json, or a Go template"),
    ("verbose", "v", "bool", "Show detailed information on space usage"),
)


def _reclaimable(row: Record) -> str:
    text = human_size(row["Reclaimable"])
    if row["Size"] > 0 and row["Percent"]:
        text += f" ({int(row['Reclaimable'] * 100 / row['Size'])}%)"
    return text


_TABLE = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
_VIEW = View("*formatter.diskUsageImagesContext", {
    "Type": ("TYPE", lambda r: r["Type"]),
    "TotalCount": ("TOTAL", lambda r: str(r["TotalCount"])),
    "Active": ("ACTIVE", lambda r: str(r["Active"])),
    "Size": ("SIZE", lambda r: human_size(r["Size"])),
    "Reclaimable": ("RECLAIMABLE", _reclaimable),
})


_CACHE_VIEW = View("*formatter.buildCacheContext", {
    "ID": ("CACHE ID", lambda c: c["ID"][:12]),
    "CacheType": ("CACHE TYPE", lambda c: c["Type"]),
    "Size": ("SIZE", lambda c: human_size(c["Size"])),
    "CreatedSince": ("CREATED", lambda c: _since(c.get("CreatedAt"))),
    "LastUsedSince": ("LAST USED", lambda c: _since(c.get("LastUsedAt"))),
    "UsageCount": ("USAGE", lambda c: str(c["UsageCount"])),
    "Shared": ("SHARED", lambda c: "true" if c["Shared"] else "false"),
})


def df(session: Session, flags: Flags) -> int:
    """``pallet system df``."""
    usage = session.engine.json("GET", "/system/df")
    if flags["verbose"] and flags["format"] in ("", "table"):
        _verbose(usage)
        return _hidden(session, usage)
    if flags["verbose"]:
        sys.stdout.write(_verbose_format(usage, flags["format"]))
        return 0
    try:
        sys.stdout.write(render(_VIEW, summary(usage), layout_for(flags["format"], _TABLE)))
    except CommandError as error:
        raise CommandError(f"template parsing error: {str(error).partition(' template: ')[2]}") from None
    return 0


def summary(usage: Record) -> list[Record]:
    """Return the four rows: images, containers, local volumes, build cache."""
    images = usage.get("Images") or []
    containers = usage.get("Containers") or []
    volumes = usage.get("Volumes") or []
    cache = usage.get("BuildCache") or []
    layers = usage.get("LayersSize", 0)
    used = sum(image["Size"] - max(image.get("SharedSize", 0), 0)
               for image in images if image.get("Containers", 0) > 0)
    idle = [volume for volume in volumes if not _usage(volume, "RefCount")]
    stopped = [one for one in containers if one.get("State") not in ("running", "paused",
                                                                     "restarting")]
    return [
        _row("Images", images, sum(1 for image in images if image.get("Containers", 0) > 0),
             layers, layers - used),
        _row("Containers", containers, len(containers) - len(stopped),
             sum(one.get("SizeRw", 0) for one in containers),
             sum(one.get("SizeRw", 0) for one in stopped), percent=True),
        _row("Local Volumes", volumes, len(volumes) - len(idle),
             sum(_usage(volume, "Size") for volume in volumes),
             sum(_usage(volume, "Size") for volume in idle), percent=True),
        _row("Build Cache", cache, sum(1 for item in cache if item.get("InUse")),
             sum(item["Size"] for item in cache if not item.get("Shared")),
             sum(item["Size"] for item in cache
                 if not item.get("InUse") and not item.get("Shared"))),
    ]


def _usage(volume: Record, field: str) -> int:
    value = (volume.get("UsageData") or {}).get(field, 0)
    return max(int(value), 0)


def _row(
    kind: str, items: list[Record], active: int, size: int, free: int, *, percent: bool = False
) -> Record:
    return {"Type": kind, "TotalCount": len(items), "Active": active, "Size": size,
            "Reclaimable": free, "Percent": percent or kind == "Images"}


class _Lists:
    """The four lists as one object, as templates of ``-v`` see it."""

    def __init__(self, usage: Record, *, truncate: bool) -> None:
        lists: list[tuple[str, View, Sequence[Record]]] = [
            ("Images", image_view(truncate=truncate), _image_rows(usage)),
            ("Containers", container_view(truncate=truncate), _without_image(usage)),
            ("Volumes", volume_view(), usage.get("Volumes") or ()),
            ("BuildCache", _CACHE_VIEW, usage.get("BuildCache") or ())]
        self._lists = {name: [Row(view, row) for row in rows] for name, view, rows in lists}

    def method(self, name: str, _args: Sequence[object]) -> list[Row]:
        if name not in self._lists:
            raise TemplateError(f"can't evaluate field {name} in type *formatter.diskUsageContext")
        return self._lists[name]

    def fields(self) -> dict[str, list[Row]]:
        return self._lists


def _verbose_format(usage: Record, layout: str) -> str:
    """Return everything in one go through a template, or as one JSON object. No line end is added.

    Raises:
        CommandError: the template is wrong, with Docker's words.
    """
    is_table = layout.startswith("table")
    text = layout.removeprefix("table").strip()
    text = "{{json .}}" if text == "json" else text
    try:
        template = Template(text.replace("\\t", "\t").replace("\\n", "\n"))
    except TemplateError as error:
        raise CommandError(f"template parsing error: {error}") from None
    try:
        found = template.execute(_Lists(usage, truncate=is_table))
    except TemplateError as error:
        raise CommandError(str(error)) from None
    if text == "{{json .}}":
        from pallet.client.wire import escape_html

        return escape_html(found)
    return found


def _image_rows(usage: Record) -> list[Record]:
    """Return one record an image, under its first tag: unlike ``images``, no image comes twice."""
    rows = []
    for image in usage.get("Images") or ():
        tags = [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
        repo, _, name = (tags[0] if tags else "<none>:<none>").rpartition(":")
        rows.append({**image, "_repo": repo, "_tag": name, "_digest": ""})
    return rows


def _hidden(session: Session, usage: Record) -> int:
    """Print what Docker does not know: bytes that later layers hide. Only Pallet's daemon tells."""
    from pallet.client.errors import DaemonError

    engine = session.engine
    rows = []
    try:
        for image in usage.get("Images") or ():
            found = engine.json("GET", f"/pallet/images/{image['Id']}/explore", {"entries": "0"})
            rows.append(found)
        store = engine.json("GET", "/pallet/disk")
    except DaemonError:
        return 0
    out("\nHidden by later layers:\n")
    out(f"{'IMAGE':<40}{'SIZE':<10}{'HIDDEN':<10}EFFICIENCY")
    for found in rows:
        name = found["RepoTags"][0] if found["RepoTags"] else found["Id"][7:19]
        out(f"{name:<39} {human_size(found['Size']):<10}{human_size(found['HiddenBytes']):<10}"
            f"{found['Efficiency'] * 100:.1f}%")
    budget = f" of a budget of {human_size(store['Budget'])}" if store["Budget"] else ""
    out(f"\nLayers {human_size(store['LayersSize'])}, blobs {human_size(store['BlobsSize'])}{budget}")
    return 0


def _without_image(usage: Record) -> list[Record]:
    """Return the containers without the size of their image, which belongs to another section."""
    return [{**one, "SizeRootFs": 0} for one in usage.get("Containers") or ()]


def _verbose(usage: Record) -> int:
    images = _image_rows(usage)
    out("Images space usage:\n")
    sys.stdout.write(render(
        image_view(truncate=True), images,
        "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t"
        "{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}"))
    out("\nContainers space usage:\n")
    sys.stdout.write(render(
        container_view(truncate=True), _without_image(usage),
        "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t"
        "{{.Status}}\t{{.Names}}"))
    out("\nLocal Volumes space usage:\n")
    sys.stdout.write(render(volume_view(), usage.get("Volumes") or (),
                            "table {{.Name}}\t{{.Links}}\t{{.Size}}"))
    cache = usage.get("BuildCache") or ()
    out(f"\nBuild cache usage: {human_size(sum(item['Size'] for item in cache))}\n")
    sys.stdout.write(render(_CACHE_VIEW, cache, "table {{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t"
                                         "{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}"))
    return 0


def _since(moment: str | None) -> str:
    """Return "3 minutes ago" for an RFC 3339 time; empty for none."""
    from datetime import datetime

    if not moment:
        return ""
    return ago(datetime.fromisoformat(moment[:19] + "+00:00").timestamp())
