"""``--debug-shell``: a shell where a step failed."""

from __future__ import annotations

from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.session import Session


def open_shell(session: Session, details: dict[str, Any]) -> None:
    """Open it."""
    del session, details
    raise CommandError("no shell")
