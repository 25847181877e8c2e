"""``pallet attach``: join the streams of a running container."""

from __future__ import annotations

from pallet.cli.errors import CommandError
from pallet.cli.stream.foreground import (
    Foreground,
    check_tty,
    configured_detach_keys,
    container_path,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

ATTACH_FLAGS: Table = (
    ("detach-keys", "", "string", "Override the key sequence for detaching a container"),
    ("no-stdin", "", "bool", "Do not attach STDIN"),
    ("sig-proxy", "", "bool", "Proxy all received signals to the process", "true"),
)


def attach(session: Session, flags: Flags) -> int:
    """``pallet attach``: ends with the container's exit code."""
    engine = session.engine
    info = engine.json("GET", f"{container_path(flags.args[0])}/json")
    state, config = info["State"], info["Config"]
    if not state["Running"]:
        raise CommandError("cannot attach to a stopped container, start it first")
    if state["Paused"]:
        raise CommandError("cannot attach to a paused container, unpause it first")
    if state["Restarting"]:
        raise CommandError("cannot attach to a restarting container, wait until it is running")
    tty = config["Tty"]
    stdin = bool(config["OpenStdin"] and not flags["no-stdin"])
    check_tty(stdin=stdin, tty=tty)
    foreground = Foreground(
        engine, f"/containers/{info['Id']}", tty=tty, streams=(stdin, True, True),
        detach_keys=configured_detach_keys(session.config, flags["detach-keys"]),
        sig_proxy=flags["sig-proxy"] and not tty)
    try:
        foreground.open("not-running")
        connection = foreground.opened()
        foreground.stream(connection, lambda: _force_redraw(foreground))
        if foreground.detached:
            raise CommandError("read escape sequence")
        return foreground.exit_code()
    finally:
        foreground.close()


def _force_redraw(foreground: Foreground) -> None:
    """Make the size differ from the real one, sent next: programs redraw on a change only."""
    from pallet.cli.stream.terminal import size
    from pallet.client.errors import DaemonError

    height, width = size()
    if foreground.tty and height and width:
        try:
            foreground.engine.text("POST", f"{foreground.target}/resize",
                                   {"h": height + 1, "w": width + 1})
        except DaemonError:
            return  # it has just ended; the stream says so
