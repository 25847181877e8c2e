"""``--debug-shell``: a shell where a step failed, in its files, mounts, environment and network."""

from __future__ import annotations

import os

from pallet.cli.session import warn
from pallet.cli.stream.attach import Session as Attached

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.session import Session


def open_shell(session: Session, details: dict[str, Any]) -> None:
    """Open it and stay until it ends; what was kept of the step is gone then.

    Raises:
        DaemonError: the step is not kept any more.
    """
    tty = os.isatty(0) and os.isatty(1)
    height = width = 0
    if tty:
        from pallet.cli.stream.terminal import size

        height, width = size()
    warn(f"A shell in the failed step {details['name']}; leave it with exit.")
    connection = session.engine.hijack("/pallet/build/shell", {
        "state": details["state"], "tty": tty, "h": height, "w": width}).stream()
    try:
        attached = Attached(connection, tty=tty, stdin_fd=0)
        if not tty:
            attached.run()
            return
        from pallet.cli.stream.terminal import RawMode

        with RawMode(0):
            attached.run()
    finally:
        connection.close()
