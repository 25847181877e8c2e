"""The container state machine, as data.

Docker's booleans (``Running``, ``Paused``, ``Restarting``, ``Dead``) are computed from ``Status``
when a reply is made; nothing else stores them.
"""

from __future__ import annotations

from enum import StrEnum

from pallet.errors import ConflictError


class Status(StrEnum):
    """``State.Status`` of the Engine API."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


class Change(StrEnum):
    """What can happen to a container."""

    START = "start"
    """Its init process runs."""
    START_FAILED = "start_failed"
    EXIT = "exit"
    """Its init process ended, and nothing restarts it."""
    EXIT_RESTART = "exit_restart"
    """Its init process ended; the restart policy starts it again after a delay."""
    GIVE_UP_RESTART = "give_up_restart"
    """A stop, or a failed start, ends the waiting for a restart."""
    REMOVE = "remove"
    REMOVE_FAILED = "remove_failed"


_S, _C = Status, Change

TRANSITIONS: dict[tuple[Status, Change], Status] = {
    (_S.CREATED, _C.START): _S.RUNNING,
    (_S.EXITED, _C.START): _S.RUNNING,
    (_S.RESTARTING, _C.START): _S.RUNNING,
    (_S.CREATED, _C.START_FAILED): _S.CREATED,
    (_S.EXITED, _C.START_FAILED): _S.EXITED,
    (_S.RESTARTING, _C.START_FAILED): _S.EXITED,
    (_S.RUNNING, _C.EXIT): _S.EXITED,
    (_S.PAUSED, _C.EXIT): _S.EXITED,
    (_S.RUNNING, _C.EXIT_RESTART): _S.RESTARTING,
    (_S.RESTARTING, _C.EXIT_RESTART): _S.RESTARTING,
    (_S.RESTARTING, _C.GIVE_UP_RESTART): _S.EXITED,
    (_S.CREATED, _C.REMOVE): _S.REMOVING,
    (_S.EXITED, _C.REMOVE): _S.REMOVING,
    (_S.DEAD, _C.REMOVE): _S.REMOVING,
    (_S.REMOVING, _C.REMOVE): _S.REMOVING,
    (_S.REMOVING, _C.REMOVE_FAILED): _S.DEAD,
}


def advance(status: Status, change: Change) -> Status:
    """Return the status after ``change``.

    Raises:
        ConflictError: the change is not possible in ``status``.
    """
    try:
        return TRANSITIONS[status, change]
    except KeyError:
        msg = f"cannot {change.value} a container that is {status.value}"
        raise ConflictError(msg) from None


def is_running(status: Status) -> bool:
    """Docker's ``State.Running``: true also while paused and while waiting for a restart."""
    return status in {Status.RUNNING, Status.PAUSED, Status.RESTARTING}
