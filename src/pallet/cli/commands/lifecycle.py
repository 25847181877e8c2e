"""Commands that take containers one after the other: stop, restart, kill, rm, pause, wait, rename."""

from __future__ import annotations

from pallet.cli.errors import CommandError
from pallet.cli.session import out, warn
from pallet.cli.stream.foreground import container_path
from pallet.client.errors import DaemonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

_STOP: Table = (
    ("signal", "s", "string", "Signal to send to the container", "", "", "1.42"),
    ("time", "", "int", "Seconds to wait", "", "deprecated:timeout:use --timeout instead"),
    ("timeout", "t", "int", "Seconds to wait before killing the container"),
)
STOP_FLAGS: Table = _STOP
RESTART_FLAGS: Table = _STOP
KILL_FLAGS: Table = (("signal", "s", "string", "Signal to send to the container"),)
RM_FLAGS: Table = (
    ("force", "f", "bool", "Force the removal of a running container (uses SIGKILL)"),
    ("link", "l", "bool", "Remove the specified link"),
    ("volumes", "v", "bool", "Remove anonymous volumes associated with the container"),
)
PAUSE_FLAGS: Table = ()
UNPAUSE_FLAGS: Table = ()
WAIT_FLAGS: Table = ()
RENAME_FLAGS: Table = ()


def _each(flags: Flags, act: Callable[[str], str]) -> int:
    """Call ``act`` for every name, print what it returns, and go on after failures."""
    failed = False
    for name in flags.args:
        try:
            out(act(name))
        except DaemonError as error:
            warn(str(error))
            failed = True
    if failed:
        raise CommandError("")
    return 0


def _post(session: Session, name: str, verb: str, query: dict[str, object] | None = None) -> str:
    session.engine.text("POST", f"{container_path(name)}/{verb}", query)
    return name


def _stop_query(flags: Flags) -> dict[str, object]:
    return {"signal": flags["signal"] or None,
            "t": flags["timeout"] if "timeout" in flags or "time" in flags else None}


def stop(session: Session, flags: Flags) -> int:
    """``pallet stop``: prints each name."""
    query = _stop_query(flags)
    return _each(flags, lambda name: _post(session, name, "stop", query))


def restart(session: Session, flags: Flags) -> int:
    """``pallet restart``: prints each name."""
    query = _stop_query(flags)
    return _each(flags, lambda name: _post(session, name, "restart", query))


def kill(session: Session, flags: Flags) -> int:
    """``pallet kill``: prints each name."""
    query: dict[str, object] = {"signal": flags["signal"] or None}
    return _each(flags, lambda name: _post(session, name, "kill", query))


def pause(session: Session, flags: Flags) -> int:
    """``pallet pause``: prints each name."""
    return _each(flags, lambda name: _post(session, name, "pause"))


def unpause(session: Session, flags: Flags) -> int:
    """``pallet unpause``: prints each name."""
    return _each(flags, lambda name: _post(session, name, "unpause"))


def rm(session: Session, flags: Flags) -> int:
    """``pallet rm``: with ``--force`` a missing container is no failure."""
    force = flags["force"]
    query = {"v": flags["volumes"], "link": flags["link"], "force": force}
    failed = False
    for name in flags.args:
        stripped = name.strip("/")
        if not stripped:
            warn("Container name cannot be empty")
            failed = True
            continue
        try:
            session.engine.text("DELETE", container_path(stripped), query)
        except DaemonError as error:
            warn(str(error))
            failed = failed or not (force and error.status == 404)
        else:
            out(name)
    if failed:
        raise CommandError("")
    return 0


def wait(session: Session, flags: Flags) -> int:
    """``pallet wait``: prints each exit code."""
    def exit_code(name: str) -> str:
        result = session.engine.json("POST", f"{container_path(name)}/wait")
        return str(result["StatusCode"])

    return _each(flags, exit_code)


def rename(session: Session, flags: Flags) -> int:
    """``pallet rename``."""
    old, new = (name.strip() for name in flags.args)
    if not old or not new:
        raise CommandError("Error: Neither old nor new names may be empty")
    try:
        session.engine.text("POST", f"{container_path(old)}/rename", {"name": new})
    except DaemonError as error:
        warn(str(error))
        raise CommandError(f"Error: failed to rename container named {old}") from None
    return 0
