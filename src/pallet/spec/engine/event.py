"""Events of the daemon.

Spec   Engine API SystemEvents; semantics "events".
"""

from __future__ import annotations

from msgspec import UNSET, Struct, field

from pallet.spec.engine.wire import Maybe


class EventActor(Struct, frozen=True, kw_only=True):
    """The object an event is about."""

    id: str = field(name="ID")
    attributes: dict[str, str] = field(name="Attributes", default_factory=dict)


class EventMessage(Struct, frozen=True, kw_only=True):
    """One event; ``time`` in seconds, ``time_nano`` the same moment in nanoseconds.

    ``status``, ``id`` and ``from_`` repeat the action, the id and the image for container and
    image events (Docker sends them to clients below 1.52).
    """

    status: Maybe[str] = UNSET
    id: Maybe[str] = UNSET
    from_: Maybe[str] = field(name="from", default=UNSET)
    type: str = field(name="Type")
    action: str = field(name="Action")
    actor: EventActor = field(name="Actor")
    scope: Maybe[str] = "local"
    time: int
    time_nano: int = field(name="timeNano")
