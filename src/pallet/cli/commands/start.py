"""``pallet start``: start stopped containers, one of them in the foreground if asked."""

from __future__ import annotations

from pallet.cli.errors import CommandError
from pallet.cli.session import Session, out, warn
from pallet.cli.stream.foreground import container_path
from pallet.client.errors import DaemonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table

START_FLAGS: Table = (
    ("attach", "a", "bool", "Attach STDOUT/STDERR and forward signals"),
    ("interactive", "i", "bool", "Attach container's STDIN"),
    ("detach-keys", "", "string", "Override the key sequence for detaching a container"),
    ("checkpoint", "", "string", "Restore from this checkpoint", "", "hidden"),
    ("checkpoint-dir", "", "string", "Use a custom checkpoint storage directory", "", "hidden"),
)


def start(session: Session, flags: Flags) -> int:
    """``pallet start``: prints each name as given."""
    if flags["attach"] or flags["interactive"]:
        if len(flags.args) > 1:
            raise CommandError("you cannot start and attach multiple containers at once")
        return _start_attached(session, flags, flags.args[0])
    failed = []
    query = {"checkpoint": flags["checkpoint"] or None,
             "checkpoint-dir": flags["checkpoint-dir"] or None}
    for name in flags.args:
        try:
            session.engine.text("POST", f"{container_path(name)}/start", query)
        except DaemonError as error:
            warn(str(error))
            failed.append(name)
        else:
            out(name)
    if failed:
        raise CommandError(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _start_attached(session: Session, flags: Flags, name: str) -> int:
    from pallet.cli.stream.foreground import Foreground, configured_detach_keys

    engine = session.engine
    info = engine.json("GET", f"{container_path(name)}/json")
    config, container_id = info["Config"], info["Id"]
    tty = config["Tty"]
    stdin = bool(flags["interactive"] and config["OpenStdin"])
    keys = flags["detach-keys"]
    if tty and stdin:
        keys = configured_detach_keys(session.config, keys)
    foreground = Foreground(
        engine, f"/containers/{container_id}", tty=tty, streams=(stdin, True, True),
        detach_keys=keys, sig_proxy=not tty)
    try:
        foreground.open("removed" if info["HostConfig"]["AutoRemove"] else "next-exit")
        connection = foreground.opened()
        foreground.stream(
            connection, lambda: engine.text("POST", f"/containers/{container_id}/start"))
        if foreground.detached:
            return 0
        return foreground.exit_code()
    finally:
        foreground.close()
