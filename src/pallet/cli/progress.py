"""Progress of pulls and pushes: bars that move on a terminal, plain lines elsewhere.

Owns   Docker's display of the JSON progress stream: one line an id, redrawn in place.
Spec   Engine API ImageCreate and ImagePush; docker CLI "jsonmessage" output.
"""

from __future__ import annotations

import os
import time

from pallet.cli.errors import CommandError
from pallet.cli.format.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TextIO

_BAR = 50
_REDRAW_S = 0.02


def show(
    messages: Iterable[dict[str, Any]], stream: TextIO,
    on_aux: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Print progress ``messages`` to ``stream`` as they come.

    Raises:
        CommandError: the stream carries an error.
    """
    screen = _Screen(stream) if stream.isatty() else None
    for message in messages:
        error = message.get("errorDetail") or message.get("error")
        if error:
            if screen:
                screen.flush()
            text = error.get("message", "") if isinstance(error, dict) else str(error)
            raise CommandError(text or str(message.get("error", "")))
        if "aux" in message:
            if on_aux and isinstance(message["aux"], dict):
                on_aux(message["aux"])
            continue
        if screen:
            screen.update(message)
        else:
            _plain(message, stream)
    if screen:
        screen.flush()


def drain(messages: Iterable[dict[str, Any]]) -> None:
    """Read all ``messages`` without printing any.

    Raises:
        CommandError: the stream carries an error.
    """
    for message in messages:
        if message.get("error"):
            detail = message.get("errorDetail") or {}
            raise CommandError(detail.get("message") or str(message["error"]))


def _plain(message: dict[str, Any], stream: TextIO) -> None:
    if _has_bar(message):
        return  # without a terminal Docker shows no moving progress
    if "stream" in message:
        stream.write(message["stream"])
        stream.flush()
        return
    prefix = f"{message['id']}: " if message.get("id") else ""
    stream.write(f"{prefix}{message.get('status', '')}\n")
    stream.flush()


def _has_bar(message: dict[str, Any]) -> bool:
    detail = message.get("progressDetail") or {}
    return bool(detail.get("current") or detail.get("total"))


def bar(detail: dict[str, Any], width: int) -> str:
    """Return ``[=====>     ]   1.2MB/3.4MB`` for a progressDetail on a terminal ``width`` wide."""
    current, total = detail.get("current", 0), detail.get("total", 0)
    units = detail.get("units")
    if not current and not total:
        return ""
    if not total:
        return f"{current} {units}" if units else f"{human_size(current):>8}"
    if units:
        counts = f"{current}/{total} {units}"
    elif current > total:
        counts = f"{human_size(current):>8}"
    else:
        counts = f"{human_size(current):>8}/{human_size(total)}"
    if width <= 110:
        return counts
    percent = min(current * 100 // total // 2, _BAR)
    return f"[{'=' * percent}>{' ' * (_BAR - percent)}] {counts}"


class _Screen:
    """Lines by id, each redrawn where it stands."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._fd = stream.fileno()
        self._rows: dict[str, int] = {}
        self._waiting: dict[str, str] = {}
        self._drawn_at = 0.0

    def update(self, message: dict[str, Any]) -> None:
        """Draw ``message``; moving bars are drawn fifty times a second at most."""
        if "stream" in message:
            self.flush()
            self._stream.write(message["stream"])
            self._stream.flush()
            return
        identity = message.get("id", "")
        status = message.get("status", "")
        if not identity:
            self.flush()
            self._rows.clear()
            self._stream.write(f"{status}\n")
            self._stream.flush()
            return
        text = f"{identity}: {status}"
        if _has_bar(message):
            text += f" {bar(message['progressDetail'], self._width())}"
        self._waiting[identity] = text
        if not _has_bar(message) or time.monotonic() - self._drawn_at >= _REDRAW_S:
            self.flush()

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._fd).columns
        except OSError:
            return 200

    def flush(self) -> None:
        """Draw every line that changed."""
        out = []
        for identity, text in self._waiting.items():
            if identity not in self._rows:
                self._rows[identity] = len(self._rows)
                out.append(f"\x1b[2K{text}\r\n")
                continue
            up = len(self._rows) - self._rows[identity]
            out.append(f"\x1b[{up}A\x1b[2K\r{text}\r\x1b[{up}B")
        self._waiting.clear()
        if out:
            self._stream.write("".join(out))
            self._stream.flush()
        self._drawn_at = time.monotonic()
