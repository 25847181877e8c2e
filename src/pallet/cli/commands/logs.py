"""``pallet logs``."""

from __future__ import annotations

from pallet.cli.errors import CommandError
from pallet.cli.format.units import api_time
from pallet.cli.stream.attach import Demultiplexer, write_all
from pallet.cli.stream.foreground import container_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

LOGS_FLAGS: Table = (
    ("details", "", "bool", "Show extra details provided to logs"),
    ("follow", "f", "bool", "Follow log output"),
    ("since", "", "string", "Show logs since a timestamp (e.g. 2013-01-02T13:23:37Z) or relative "
     "(e.g. 42m for 42 minutes)"),
    ("tail", "n", "string", "Number of lines to show from the end of the logs", "all"),
    ("timestamps", "t", "bool", "Show timestamps"),
    ("until", "", "string", "Show logs before a timestamp or relative time"),
)


def logs(session: Session, flags: Flags) -> int:
    """``pallet logs``: stdout and stderr of the container on ours."""
    try:
        since, until = api_time(flags["since"]), api_time(flags["until"])
    except ValueError as error:
        which = "since" if not _is_time(flags["since"]) else "until"
        raise CommandError(f'invalid value for "{which}": {error}') from None
    engine = session.engine
    path = container_path(flags.args[0])
    tty = engine.json("GET", f"{path}/json")["Config"]["Tty"]
    reply = engine.request("GET", f"{path}/logs", {
        "stdout": True, "stderr": True, "since": since or None, "until": until or None,
        "timestamps": flags["timestamps"], "follow": flags["follow"], "tail": flags["tail"],
        "details": flags["details"]})
    if tty:
        for chunk in reply.chunks():
            write_all(1, chunk)
    else:
        demultiplexer = Demultiplexer(1, 2)
        for chunk in reply.chunks():
            demultiplexer.feed(chunk)
    return 0


def _is_time(text: str) -> bool:
    try:
        api_time(text)
    except ValueError:
        return False
    return True
