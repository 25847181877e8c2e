"""Which events a subscriber gets. Engine API SystemEvents ``filters``; semantics row "events"."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.spec.engine.event import EventMessage
    from pallet.spec.engine.filters import Filters

_KINDS = ("container", "image", "network", "volume", "daemon", "plugin", "node", "service", "secret", "config")


def _names(event: EventMessage) -> set[str]:
    return {event.actor.id, event.actor.attributes.get("name", "")}


def _is(event: EventMessage, wanted: tuple[str, ...]) -> bool:
    """Whether one of ``wanted`` names the event's actor: id, id prefix or name."""
    return any(value in _names(event) or event.actor.id.startswith(value) for value in wanted)


def _image_matches(event: EventMessage, wanted: tuple[str, ...]) -> bool:
    """By id or name, with or without tag; container events carry their image."""
    candidates = {event.actor.id} if event.type == "image" else set()
    for key in ("name", "image"):
        if key == "name" and event.type != "image":
            continue
        text = event.actor.attributes.get(key, "")
        head, colon, tail = text.rpartition(":")
        candidates |= {text, head if colon and "/" not in tail else text}
    return any(value in candidates for value in wanted)


def _action_matches(event: EventMessage, wanted: tuple[str, ...]) -> bool:
    """``exec_create: ls`` and ``health_status: healthy`` also match by their first word."""
    head = event.action.partition(":")[0]
    return any(value == event.action or (head in {"exec_create", "exec_start", "health_status"} and value == head)
               for value in wanted)


def matcher(filters: Filters) -> Callable[[EventMessage], bool]:
    """The predicate of ``filters``: keys are AND, values of one key OR."""
    if not filters:
        return lambda _event: True

    def wanted(event: EventMessage) -> bool:
        if "event" in filters and not _action_matches(event, filters.get("event")):
            return False
        if not filters.exact("type", event.type) or not filters.exact("scope", event.scope or "local"):
            return False
        if not filters.labels(event.actor.attributes):
            return False
        if "image" in filters and not _image_matches(event, filters.get("image")):
            return False
        return all(event.type == kind and _is(event, filters.get(kind))
                   for kind in _KINDS if kind != "image" and kind in filters)

    return wanted
