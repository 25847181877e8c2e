"""What is wrong with a definition, and where."""

from __future__ import annotations

from pallet.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    Position = tuple[int, int]


class Span:
    """A place in a file; lines and columns count from 1, the end is exclusive."""

    __slots__ = ("end", "file", "source", "start")

    def __init__(self, file: str, source: str, start: Position, end: Position) -> None:
        self.file = file
        self.source = source
        self.start = start
        self.end = end

    def __str__(self) -> str:
        (line, column), (last_line, last_column) = self.start, self.end
        last = f"{last_column}" if last_line == line else f"{last_line},{last_column}"
        return f"{self.file}:{line},{column}-{last}"


class HclError(CommandError):
    """A definition cannot be understood.

    Args:
        summary: the kind of problem, as HCL's diagnostics have it.
        detail: a sentence.
        span: where it is.
    """

    def __init__(self, summary: str, detail: str, span: Span) -> None:
        super().__init__(f"{span}: {summary}; {detail}")
        self.summary = summary
        self.span = span

    def snippet(self) -> str:
        """The lines around the place, as buildx prints them."""
        lines = self.span.source.split("\n")
        first, last = self.span.start[0], min(self.span.end[0], len(lines))
        start, end, padding = first, last, 0
        while padding < (4 if first == last else 2):
            if start > 1:
                start, padding = start - 1, padding + 1
            if end < len(lines):
                end, padding = end + 1, padding + 1
            padding += 1
        rows = [f"{self.span.file}:{first}", "-" * 20]
        for number in range(start, end + 1):
            mark = ">>>" if first <= number <= last else "   "
            rows.append(f" {number:3d} | {mark} {lines[number - 1]}")
        return "\n".join([*rows, "-" * 20])
