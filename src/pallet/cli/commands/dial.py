"""``pallet system dial-stdio``: the daemon's connection on stdin and stdout, for ``ssh://`` hosts."""

from __future__ import annotations

from pallet.cli.stream.attach import Session as Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

DIAL_STDIO_FLAGS: Table = ()


def dial_stdio(session: Session, flags: Flags) -> int:
    """Copy both ways until the daemon closes; the end of stdin is passed on as a half-close."""
    connection = session.engine.connect()
    Streams(connection, tty=True, stdin_fd=0).run()
    connection.close()
    return 0
