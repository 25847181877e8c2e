"""``pallet events``."""

from __future__ import annotations

import sys
import time

from pallet.cli.commands.ps import api_filters
from pallet.cli.errors import CommandError
from pallet.cli.format.units import api_time
from pallet.client import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

EVENTS_FLAGS: Table = (
    ("filter", "f", "filter", "Filter output based on conditions provided"),
    ("format", "", "string", "Format output: json, or a Go template"),
    ("since", "", "string", "Show all events created since timestamp"),
    ("until", "", "string", "Stream events until this timestamp"),
)


def events(session: Session, flags: Flags) -> int:
    """``pallet events``: one line an event until interrupted or ``--until``."""
    try:
        since, until = api_time(flags["since"]), api_time(flags["until"])
    except ValueError as error:
        raise CommandError(str(error)) from None
    filters = flags["filter"]
    show = _formatter(flags["format"])
    engine = session.engine
    reply = engine.request("GET", "/events", {
        "since": since or None, "until": until or None,
        "filters": wire.encode_text(api_filters(filters)) if filters else None})
    for event in engine.events(reply):
        sys.stdout.write(show(event) + "\n")
        sys.stdout.flush()
    return 0


def _formatter(layout: str) -> Any:
    if not layout:
        return event_line
    from pallet.cli.format.lexer import TemplateError
    from pallet.cli.format.template import Template
    from pallet.cli.format.values import mark

    if layout == "json":
        layout = "{{json .}}"
    try:
        template = Template(layout.replace("\\t", "\t").replace("\\n", "\n"))
    except TemplateError as error:
        raise CommandError(f"Error parsing format: {error}", 64) from None

    def show(event: dict[str, Any]) -> str:
        # Go's field names where they are not the JSON ones.
        go_names = {"Time": event.get("time"), "TimeNano": event.get("timeNano"),
                    "Scope": event.get("scope", ""), "ID": event.get("id", ""),
                    "Status": event.get("status", ""), "From": event.get("from", "")}
        value = mark(event)
        try:
            if layout == "{{json .}}":
                return wire.encode_text(event)
            value.update(go_names)
            return template.execute(value)
        except TemplateError as error:
            raise CommandError(str(error)) from None

    return show


def event_line(event: dict[str, Any]) -> str:
    """Return Docker's line: time, type, action, id and the attributes in key order."""
    nano = event.get("timeNano") or event.get("time", 0) * 1_000_000_000
    stamp = time.localtime(nano // 1_000_000_000)
    zone = time.strftime("%z", stamp)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', stamp)}.{nano % 1_000_000_000:09d}{zone}"
    actor = event.get("Actor") or {}
    text = f"{moment} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    attributes = actor.get("Attributes") or {}
    if attributes:
        inner = ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes))
        text += f" ({inner})"
    return text
