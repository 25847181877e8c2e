"""``pallet images``, ``tag`` and ``rmi``."""

from __future__ import annotations

import sys

from pallet.cli.commands.ps import api_filters, configured_format
from pallet.cli.errors import CommandError
from pallet.cli.format.table import layout_for, render
from pallet.cli.format.views import IMAGE_DIGEST_TABLE, IMAGE_TABLE, image_rows, image_view
from pallet.cli.session import out, warn
from pallet.client import wire
from pallet.client.engine import quote
from pallet.client.errors import DaemonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

LS_FLAGS: Table = (
    ("all", "a", "bool", "Show all images (default hides intermediate images)"),
    ("digests", "", "bool", "Show digests"),
    ("filter", "f", "filter", "Filter output based on conditions provided"),
    ("format", "", "string", "Format output: table, table TEMPLATE, json, or a Go template"),
    ("no-trunc", "", "bool", "Don't truncate output"),
    ("quiet", "q", "bool", "Only show image IDs"),
    ("tree", "", "bool", "List multi-platform images as a tree", "", "", "1.47"),
)
TAG_FLAGS: Table = ()
RM_FLAGS: Table = (
    ("force", "f", "bool", "Force removal of the image"),
    ("no-prune", "", "bool", "Do not delete untagged parents"),
    ("platform", "", "strings", "Remove only the given platform variant", "", "", "1.50"),
)


def ls(session: Session, flags: Flags) -> int:
    """``pallet images``: newest first."""
    filters = dict(flags["filter"])
    if flags.args:
        filters["reference"] = [*filters.get("reference", []), flags.args[0]]
    if flags["tree"]:
        return _tree(session, flags, filters)
    digests = flags["digests"]
    layout = layout_for(
        flags["format"], IMAGE_DIGEST_TABLE if digests else IMAGE_TABLE, quiet=flags["quiet"],
        configured=configured_format(session, flags, "imagesFormat"))
    found = session.engine.json("GET", "/images/json", {
        "all": flags["all"], "digests": digests,
        "filters": wire.encode_text(api_filters(filters)) if filters else None})
    found.sort(key=lambda image: image["Created"], reverse=True)
    pins = ".Pinned" in layout
    if pins:
        pinned = {image["Id"] for image in session.engine.json("GET", "/pallet/disk")["Images"] if image["Pinned"]}
        found = [{**image, "_pinned": image["Id"] in pinned} for image in found]
    rows = image_rows(found, digests=digests or ".Digest" in layout)
    sys.stdout.write(render(image_view(truncate=not flags["no-trunc"], pins=pins), rows, layout))
    return 0


def _tree(session: Session, flags: Flags, filters: dict[str, list[str]]) -> int:
    from pallet.cli.commands import imagetree

    imagetree.refuse_others(flags)
    found = session.engine.json("GET", "/images/json", {
        "all": flags["all"], "manifests": True,
        "filters": wire.encode_text(api_filters(filters)) if filters else None})
    shown = [image for image in found if flags["all"] or image.get("RepoTags")]
    imagetree.show(sorted(shown, key=lambda image: image["Created"], reverse=True))
    return 0


def tag(session: Session, flags: Flags) -> int:
    """``pallet tag``."""
    from pallet.cli.references import parse_reference, repository_and_tag

    source, target = flags.args
    for text in (source, target):
        try:
            parse_reference(text)
        except CommandError as error:
            raise CommandError(f'Error parsing reference: "{text}" is not a valid repository/tag: '
                               f"{error}") from None
    repo, name = repository_and_tag(target)
    session.engine.text("POST", f"/images/{quote(source, '/:@')}/tag",
                        {"repo": repo, "tag": name or None})
    return 0


def rm(session: Session, flags: Flags) -> int:
    """``pallet rmi``: with ``--force`` a missing image is no failure."""
    failures, fatal = [], False
    query = {"force": flags["force"], "noprune": flags["no-prune"],
             "platforms": [platform_json(text) for text in flags["platform"]] or None}
    for name in flags.args:
        try:
            removed = session.engine.json("DELETE", f"/images/{quote(name, '/:@')}", query)
        except DaemonError as error:
            failures.append(str(error))
            fatal = fatal or not (flags["force"] and error.status == 404)
            continue
        for item in removed or ():
            if item.get("Deleted"):
                out(f"Deleted: {item['Deleted']}")
            if item.get("Untagged"):
                out(f"Untagged: {item['Untagged']}")
    if fatal:
        raise CommandError("\n".join(failures))
    for failure in failures:
        warn(failure)
    return 0


def platform_json(text: str) -> str:
    """Return the JSON of a platform such as ``linux/arm64/v8``.

    Raises:
        CommandError: it is none.
    """
    from pallet.errors import InvalidParameterError
    from pallet.spec import platform as platforms

    try:
        platforms.parse(text)
    except InvalidParameterError as error:
        raise CommandError(f"invalid platform: {error}") from None
    system, _, rest = text.partition("/")
    architecture, _, variant = rest.partition("/")
    document = {"os": system, "architecture": architecture, "variant": variant}
    return wire.encode_text({key: value for key, value in document.items() if value})
