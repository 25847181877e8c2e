"""How a build looks: plain lines as BuildKit's, its JSON, or nothing.

Owns   ``PlainView``, ``RawView``; the picture on a terminal is ``live.py``.
Spec   docker buildx build ``--progress``.
"""

from __future__ import annotations

import binascii
import time

from pallet.cli.build.talk import QuietView
from pallet.cli.format.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TextIO

_NS = 1_000_000_000
_RAW_NAMES = (("vertex", "vertexes"), ("status", "statuses"), ("log", "logs"), ("warning", "warnings"))


def seconds(duration_ns: int) -> str:
    """``0.1s`` of nanoseconds."""
    return f"{duration_ns / _NS:.1f}s"


class RawView(QuietView):
    """One JSON document a line, as BuildKit's ``rawjson``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def events(self, found: Sequence[dict[str, Any]]) -> None:
        """Print them with BuildKit's names."""
        from pallet.client import wire

        out: dict[str, list[dict[str, Any]]] = {}
        for event in found:
            for kind, name in _RAW_NAMES:
                if kind in event:
                    out.setdefault(name, []).append(_with_times(event[kind]))
        self._stream.write(wire.encode_text(out) + "\n")
        self._stream.flush()


def _with_times(fields: dict[str, Any]) -> dict[str, Any]:
    found = dict(fields)
    for name in ("started", "completed", "timestamp"):
        value = found.pop(name, 0)
        if value:
            whole, fraction = divmod(value, _NS)
            found[name] = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{fraction:09d}Z"
    return found


class Vertex:
    """One vertex, as far as it is known."""

    def __init__(self, number: int, fields: dict[str, Any]) -> None:
        self.number = number
        self.name: str = fields["name"]
        self.started = 0
        self.completed = 0
        self.cached = False
        self.error = ""
        self.ended = False
        self.statuses: dict[str, dict[str, Any]] = {}
        self.told: set[str] = set()
        self.rest: dict[int, bytes] = {}
        """Beginning of a line whose end has not come, by stream."""
        self.tail: list[str] = []

    def update(self, fields: dict[str, Any]) -> None:
        """Take what an event says."""
        self.started = fields.get("started", self.started)
        self.completed = fields.get("completed", self.completed)
        self.cached = fields.get("cached", self.cached)
        self.error = fields.get("error", self.error)


class Board:
    """Vertices in the order they came in, and what was said about them."""

    def __init__(self) -> None:
        self.vertices: dict[str, Vertex] = {}
        self.warnings: list[dict[str, Any]] = []

    def vertex(self, fields: dict[str, Any]) -> Vertex:
        """The vertex of an event, brought up to date. It has a number from its start on."""
        found = self.vertices.get(fields["digest"])
        if found is None:
            found = self.vertices[fields["digest"]] = Vertex(0, fields)
        found.update(fields)
        if not found.number and (found.started or found.completed):
            found.number = 1 + sum(1 for vertex in self.vertices.values() if vertex.number)
        return found

    def lines(self, fields: dict[str, Any], vertex: Vertex) -> list[str]:
        """Whole lines of a log event, each with its time since the vertex began."""
        data = vertex.rest.pop(fields["stream"], b"") + binascii.a2b_base64(fields["data"])
        *whole, rest = data.split(b"\n")
        if rest:
            vertex.rest[fields["stream"]] = rest
        return [self._line(vertex, fields["timestamp"], line) for line in whole]

    def last_lines(self, vertex: Vertex) -> list[str]:
        """Lines that never ended."""
        rest, vertex.rest = vertex.rest, {}
        return [self._line(vertex, vertex.completed, line) for line in rest.values()]

    @staticmethod
    def _line(vertex: Vertex, timestamp: int, line: bytes) -> str:
        since = (timestamp - vertex.started) / _NS if vertex.started else 0.0
        text = line.rsplit(b"\r", 1)[-1] if line.endswith(b"\r") is False else line[:-1]
        found = f"{max(since, 0.0):.3f} {text.decode('utf-8', 'replace')}"
        vertex.tail = [*vertex.tail[-19:], found]
        return found


def status_text(fields: dict[str, Any]) -> str:
    """``transferring context: 1.2kB 0.1s`` without the end mark."""
    name = fields["id"] if fields["id"].endswith(":") or not fields.get("name") else fields["name"]
    if fields["id"].startswith("sha256:"):
        name = fields["id"] if not fields.get("name") else f"{fields.get('name')} {fields['id']}"
    text = str(name)
    if fields.get("total"):
        text += f" {human_size(fields['current'], 3)} / {human_size(fields['total'], 3)}"
    elif fields.get("current"):
        text += f" {human_size(fields['current'], 3)}"
    if fields.get("completed") and fields.get("started"):
        duration = fields["completed"] - fields["started"]
        if duration >= _NS // 20:
            text += f" {seconds(duration)}"
    return text


class PlainView:
    """BuildKit's plain lines: ``#5 [2/3] RUN make``, ``#5 DONE 1.2s``, ``#5 CACHED``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._board = Board()
        self._last = 0

    def events(self, found: Sequence[dict[str, Any]]) -> None:
        """Print what is new."""
        out: list[str] = []
        for event in found:
            if "vertex" in event:
                self._vertex(self._board.vertex(event["vertex"]), out)
            elif "status" in event:
                self._status(event["status"], out)
            elif "log" in event:
                self._log(event["log"], out)
            elif "warning" in event:
                self._board.warnings.append(event["warning"])
        if out:
            self._stream.write("".join(f"{line}\n" for line in out))
            self._stream.flush()

    def _head(self, vertex: Vertex, out: list[str]) -> None:
        if self._last != vertex.number:
            if self._last:
                out.append("")
            out.append(f"#{vertex.number} {vertex.name}")
            self._last = vertex.number

    def _vertex(self, vertex: Vertex, out: list[str]) -> None:
        if not vertex.number or vertex.ended:
            return
        if not vertex.completed:
            if vertex.started:
                self._head(vertex, out)
            return
        vertex.ended = True
        self._head(vertex, out)
        out += [f"#{vertex.number} {line}" for line in self._board.last_lines(vertex)]
        if vertex.error:
            out.append(f"#{vertex.number} " + (
                "CANCELED" if vertex.error.endswith("context canceled") else f"ERROR: {vertex.error}"))
        elif vertex.cached:
            out.append(f"#{vertex.number} CACHED")
        else:
            out.append(f"#{vertex.number} DONE {seconds(vertex.completed - vertex.started)}")

    def _status(self, fields: dict[str, Any], out: list[str]) -> None:
        vertex = self._board.vertices.get(fields["vertex"])
        if vertex is None or not vertex.number:
            return
        key = f"{fields['id']} {bool(fields.get('completed'))}"
        if not fields.get("completed") or key in vertex.told:
            return
        vertex.told.add(key)
        self._head(vertex, out)
        out.append(f"#{vertex.number} {status_text(fields)} done")

    def _log(self, fields: dict[str, Any], out: list[str]) -> None:
        vertex = self._board.vertices.get(fields["vertex"])
        if vertex is None:
            return
        lines = self._board.lines(fields, vertex)
        if lines:
            self._head(vertex, out)
            out += [f"#{vertex.number} {line}" for line in lines]

    def tick(self) -> float | None:
        """Nothing to redraw."""
        return None

    def finish(self) -> None:
        """Print the log of what failed, and the warnings."""
        report(self._board, self._stream)


def report(board: Board, stream: TextIO) -> None:
    """Print, after the end, the last lines of failed steps and the warnings."""
    out = []
    for vertex in board.vertices.values():
        if vertex.error and not vertex.error.endswith("context canceled"):
            out += ["------", f" > {vertex.name}:", *vertex.tail, "------"]
    if board.warnings:
        count = len(board.warnings)
        out += ["", f" {count} warning{'s' if count > 1 else ''} found (use docker --debug to expand):".replace(
            "docker --debug", "--check")]
        out += [f" - {warning['rule'] + ': ' if warning.get('rule') else ''}{warning['short']}"
                + (f" (line {warning['start']})" if warning.get("start") else "") for warning in board.warnings]
    if out:
        stream.write("".join(f"{line}\n" for line in out))
        stream.flush()
