"""What is wrong with a Dockerfile, where, and how the place is shown.

Owns   ``DockerfileError`` and the numbered snippet that BuildKit's clients print under it.
Runs   anywhere; pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_SHOWN = 1000
"""Characters of a line in a snippet; a hostile line must not flood a terminal."""


class DockerfileError(InvalidParameterError):
    """A Dockerfile cannot be understood or built; the text is BuildKit's.

    Args:
        lines: first and last line that it is about, from 1; None where no line is to blame.
    """

    def __init__(self, message: str, lines: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.lines = lines
        self.further: Sequence[tuple[int, int]] = ()
        """Other places that have to do with it."""
        self.unset: Sequence[str] = ()
        """Variables without a value that an expansion met before it failed."""
        self.filename = ""
        """Set by who knows it."""
        self.source = b""
        self.warnings: Sequence[Any] = ()
        """``build.graph.LintWarning``s found before it."""

    def at(self, lines: tuple[int, int] | None) -> DockerfileError:
        """Say where, unless a nearer place was said already."""
        if self.lines is None:
            self.lines = lines
        return self

    def snippet(self) -> str:
        """The lines that it is about with their neighbours; "" without a place."""
        if self.lines is None or not self.source:
            return ""
        return "\n".join(render_snippet(self.filename or "Dockerfile", self.source, *lines)
                         for lines in (self.lines, *self.further))


class ExpansionError(DockerfileError):
    """A word of an instruction cannot be expanded: ``failed to process "…": …``."""


class ParseError(DockerfileError):
    """An instruction is malformed: ``dockerfile parse error on line 3: …``."""


def render_snippet(filename: str, source: bytes, start: int, end: int) -> str:
    """Show lines ``start`` to ``end`` (from 1) marked with ``>>>``, and a few around them.

    "" when the lines are outside of the text.
    """
    lines = source.decode("utf-8", "replace").split("\n")
    if not 1 <= start <= len(lines):
        return ""
    end = min(max(end, start), len(lines))
    first, last = start, end
    wanted, around = (4 if start == end else 2), 0
    while around < wanted:
        if first > 1:
            first -= 1
            around += 1
        if last < len(lines):
            last += 1
            around += 1
        around += 1
    shown = [f"{filename}:{start}", "-" * 20]
    for number in range(first, last + 1):
        mark = ">>>" if start <= number <= end else "   "
        shown.append(f" {number:3d} | {mark} {lines[number - 1][:_MAX_SHOWN]}")
    return "\n".join([*shown, "-" * 20, ""])
