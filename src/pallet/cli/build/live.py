"""A build on a terminal: a line a step, redrawn in place, with times, cached marks and the last output.

Owns   what the picture shows and how it is drawn; ``views.Board`` knows what happened.
Spec   docker buildx build ``--progress tty``.
"""

from __future__ import annotations

import os
import time

from pallet.cli.build.views import Board, Vertex, report, status_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TextIO

_REDRAW_S = 0.1
_LOG_LINES = 6
_BLUE, _RED, _DIM, _PLAIN = "\x1b[34m", "\x1b[31m", "\x1b[2m", "\x1b[0m"


class LiveView:
    """The picture."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._board = Board()
        self._began = time.time()
        self._rows = 0
        self._drawn = 0.0

    def events(self, found: Sequence[dict[str, Any]]) -> None:
        """Take them in; ``tick`` draws."""
        for event in found:
            if "vertex" in event:
                vertex = self._board.vertex(event["vertex"])
                if vertex.completed and not vertex.ended:
                    vertex.ended = True
                    self._board.last_lines(vertex)
            elif "status" in event:
                fields = event["status"]
                owner = self._board.vertices.get(fields["vertex"])
                if owner is not None:
                    owner.statuses[fields["id"]] = fields
            elif "log" in event:
                owner = self._board.vertices.get(event["log"]["vertex"])
                if owner is not None:
                    self._board.lines(event["log"], owner)
            elif "warning" in event:
                self._board.warnings.append(event["warning"])

    def tick(self) -> float | None:
        """Redraw ten times a second."""
        left = self._drawn + _REDRAW_S - time.monotonic()
        if left > 0:
            return left
        self._draw(done=False)
        return _REDRAW_S

    def finish(self) -> None:
        """Draw the last picture and what is to be read afterwards."""
        self._draw(done=True)
        report(self._board, self._stream)

    def _draw(self, *, done: bool) -> None:
        self._drawn = time.monotonic()
        width, height = self._size()
        shown = [vertex for vertex in self._board.vertices.values() if vertex.number]
        ended = sum(1 for vertex in shown if vertex.completed)
        spent = time.time() - self._began
        state = "FINISHED" if done else f"({ended}/{len(shown)})"
        lines = [f"{_BLUE if done else ''}[+] Building {spent:.1f}s {state}{_PLAIN if done else ''}"]
        for vertex in shown:
            lines += self._vertex(vertex, width, done=done)
        if not done and len(lines) > height - 1:
            lines = [lines[0], *lines[len(lines) - height + 2:]]
        out = f"\x1b[{self._rows}A" if self._rows else ""
        out += "".join(f"\x1b[2K{line}\r\n" for line in lines) + "\x1b[J"
        self._rows = len(lines)
        self._stream.write(out)
        self._stream.flush()

    def _size(self) -> tuple[int, int]:
        try:
            found = os.get_terminal_size(self._stream.fileno())
        except OSError:
            return 80, 24
        return max(found.columns, 20), max(found.lines, 5)

    def _vertex(self, vertex: Vertex, width: int, *, done: bool) -> list[str]:
        end = vertex.completed / 1e9 if vertex.completed else time.time()
        spent = max(end - vertex.started / 1e9, 0.0) if vertex.started else 0.0
        mark = "CACHED " if vertex.cached else "ERROR " if vertex.error else ""
        lines = [_row(f" => {mark}{vertex.name}", f"{spent:.1f}s", width,
                      _RED if vertex.error else _BLUE if vertex.completed else "")]
        if vertex.name.partition("]")[0].endswith("internal") and vertex.completed and done:
            return lines
        for fields in list(vertex.statuses.values())[-_LOG_LINES:]:
            colour = _BLUE if fields.get("completed") else ""
            lines.append(_row(f" => => {status_text(fields)}", "", width, colour))
        if not vertex.completed:
            lines += [_row(f" => => # {line.partition(' ')[2]}", "", width, _DIM)
                      for line in vertex.tail[-_LOG_LINES:]]
        return lines


def _row(left: str, right: str, width: int, colour: str) -> str:
    left = "".join(char if char.isprintable() else " " for char in left)
    room = width - len(right) - 1
    if len(left) > room:
        left = left[:room - 3] + "..."
    text = left + (" " * (width - len(left) - len(right)) + right if right else "")
    return f"{colour}{text}{_PLAIN}" if colour else text
