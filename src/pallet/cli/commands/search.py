"""``pallet search``."""

from __future__ import annotations

import sys

from pallet.cli.commands.ps import api_filters
from pallet.cli.format.table import View, layout_for, render
from pallet.cli.format.views import ellipsis
from pallet.cli.references import INDEX_SERVER
from pallet.cli.session import warn
from pallet.client import wire
from pallet.client.credentials import registry_auth_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

SEARCH_FLAGS: Table = (
    ("filter", "f", "filter", "Filter output based on conditions provided"),
    ("format", "", "string", "Pretty-print search using a Go template"),
    ("limit", "", "int", "Max number of search results"),
    ("no-trunc", "", "bool", "Don't truncate output"),
)
_TABLE = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"


def search(session: Session, flags: Flags) -> int:
    """``pallet search``: in the index's order."""
    term, filters, limit = flags.args[0], flags["filter"], flags["limit"] or 0
    if "is-automated" in filters:
        warn('WARNING: the "is-automated" filter is deprecated, and searching for '
             '"is-automated=true" will not yield any results in future.')
    header = registry_auth_header(session.config_dir, session.env, _index_key(term))
    found = session.engine.json(
        "GET", "/images/search",
        {"term": term, "limit": limit if limit > 0 else None,
         "filters": wire.encode_text(api_filters(filters)) if filters else None},
        headers=(("X-Registry-Auth", header),))
    view = _view(truncate=not flags["no-trunc"], as_json="json" in flags["format"])
    sys.stdout.write(render(view, found, layout_for(flags["format"], _TABLE)))
    return 0


def _index_key(term: str) -> str:
    head, slash, _ = term.partition("/")
    own = slash and ("." in head or ":" in head or head == "localhost")
    return head if own and head not in ("docker.io", "index.docker.io") else INDEX_SERVER


def _view(*, truncate: bool, as_json: bool) -> View:
    def description(text: str) -> str:
        text = text.replace("\n", " ").replace("\r", " ")
        return ellipsis(text, 45) if truncate else text

    def flag(value: object) -> str:
        if as_json:
            return "true" if value else "false"
        return "[OK]" if value else ""

    return View("*search.searchContext", {
        "Name": ("NAME", lambda r: r["name"]),
        "Description": ("DESCRIPTION", lambda r: description(r.get("description") or "")),
        "StarCount": ("STARS", lambda r: str(r.get("star_count", 0))),
        "IsOfficial": ("OFFICIAL", lambda r: flag(r.get("is_official"))),
    })
