"""``pallet system check``: is everything that is stored what it should be?"""

from __future__ import annotations

import sys

from pallet.cli.errors import CommandError
from pallet.cli.session import out, warn
from pallet.client import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pallet.cli.flags import Flags, Table
    from pallet.cli.session import Session

CHECK_FLAGS: Table = (
    ("json", "", "bool", "Print what the daemon reports, one JSON object a line"),
    ("quiet", "q", "bool", "Print damage only"),
    ("repair", "", "bool", "Rebuild damaged layers and fetch damaged blobs again"),
)


def check(session: Session, flags: Flags) -> int:
    """``pallet system check``: 0 when all is well, 1 while damage remains."""
    ticker = _Ticker(enabled=sys.stderr.isatty() and not (flags["quiet"] or flags["json"]))
    last: dict[str, Any] = {}
    engine = session.engine
    headers: tuple[tuple[str, str], ...] = ()
    if flags["repair"]:
        from pallet.client.credentials import registry_config_header

        headers = (("X-Registry-Config", registry_config_header(session.config_dir, session.env, warn)),)
    reply = engine.request("POST", "/pallet/check", {"repair": flags["repair"] or None}, headers=headers)
    for message in engine.events(reply):
        if "error" in message:
            ticker.clear()
            raise CommandError(str(message["error"]))
        last = message
        if flags["json"]:
            out(wire.encode_text(message))
        elif message.get("Problem"):
            ticker.clear()
            _finding(message)
        else:
            ticker.show(message)
    ticker.clear()
    if last.get("Stage") != "done":
        raise CommandError("the check did not come to its end")
    damaged = int(last.get("Damaged", 0))
    if not flags["json"] and not (flags["quiet"] and not damaged):
        out(_sums(int(last.get("Checked", 0)), damaged, repair=flags["repair"]))
    return 1 if damaged else 0


def _finding(message: dict[str, Any]) -> None:
    out(f"{message['Stage']}: {message['Subject']} {message['Problem']}"
        + (" - repaired" if message.get("Repaired") else ""))
    for container in message.get("Containers") or ():
        out(f"  container {container[:12]} uses it")


def _sums(checked: int, damaged: int, *, repair: bool) -> str:
    if not damaged:
        return f"Checked {checked} things: all is well"
    hint = "" if repair else "; 'pallet system check --repair' mends what it can"
    return f"Checked {checked} things: {damaged} damaged{hint}"


class _Ticker:
    """One line of progress that is written over."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._shown = False

    def show(self, message: dict[str, Any]) -> None:
        if self._enabled and message.get("Total"):
            sys.stderr.write(f"\r\x1b[KChecking {message['Stage']}: {message.get('Done', 0)} of {message['Total']}")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False
