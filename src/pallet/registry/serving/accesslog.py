"""The access log: a line a request, as JSON or in Apache's combined format.

Owns   the lines and the file they go to.
Runs   on the loop; lines are written once a turn, each turn's with one append, so that those of
       several workers do not mix.
Needs  nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pallet.registry.config import LogConfig

_APPEND_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One request and how it was answered."""

    remote: str
    user: str
    method: str
    target: str
    status: int
    sent: int
    """Bytes of the reply's body."""
    seconds: float
    agent: str
    referer: str
    request_id: str
    received: int = 0
    """Bytes of the request's body."""


class AccessLog:
    """Writes lines to a file, or to standard output when ``path`` is ""."""

    def __init__(self, config: LogConfig) -> None:
        """Open the file; one that cannot be opened ends the start (OSError)."""
        self.on = config.access in {"json", "text"}
        self._text = config.access == "text"
        self._path = config.file
        self._lines: list[str] = []
        self._size = 0
        self._fd = self._open() if self.on else -1

    def _open(self) -> int:
        if not self._path:
            return os.dup(sys.stdout.fileno())
        path = Path(self._path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def reopen(self) -> None:
        """Go on in a new file, after the old one was renamed."""
        self.flush()
        if self._fd >= 0 and self._path:
            fresh = self._open()
            os.close(self._fd)
            self._fd = fresh

    def add(self, served: Served) -> None:
        """Note one request."""
        line = _text(served) if self._text else _json(served)
        self._lines.append(line)
        self._size += len(line)
        if self._size > _APPEND_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was noted."""
        if not self._lines:
            return
        data = "".join(self._lines).encode("utf-8", "replace")
        self._lines.clear()
        self._size = 0
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view):]
        except OSError:
            pass  # a full disk or a closed pipe must not stop the registry

    def close(self) -> None:
        """Write the rest."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _json(served: Served) -> str:
    now = time.time()
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return json.dumps({
        "time": f"{moment}.{int(now % 1 * 1e6):06}Z", "remote": served.remote, "user": served.user,
        "method": served.method, "path": served.target, "status": served.status,
        "bytes": served.sent, "received": served.received,
        "duration": round(served.seconds, 6), "user_agent": served.agent,
        "request_id": served.request_id}) + "\n"


def _text(served: Served) -> str:
    moment = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
    return (f'{served.remote} - {_quoted(served.user) or "-"} [{moment}] '
            f'"{served.method} {_quoted(served.target)} HTTP/1.1" {served.status} {served.sent} '
            f'"{_quoted(served.referer) or "-"}" "{_quoted(served.agent) or "-"}"\n')


def _quoted(text: str) -> str:
    """``text`` that cannot end a quoted string or a line."""
    return text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
