"""How a build fails.

Owns   ``BuildError``: one vertex failed. What is wrong with a Dockerfile itself is
       ``spec/dockerfile/errors.py``'s.
Runs   anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.errors import SystemFailureError
from pallet.spec.dockerfile.errors import render_snippet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pallet.build.graph import Span, Vertex
    from pallet.types import Digest


class BuildError(SystemFailureError):
    """One vertex of a build failed; the text is BuildKit's, without ``failed to solve:``."""

    def __init__(self, message: str, *, vertex: Vertex | None = None, digest: Digest | None = None,
                 exit_code: int | None = None, command: str = "", state: str = "",
                 classic: str = "") -> None:
        """Describe a failure.

        Args:
            digest: the vertex's, as in the progress.
            exit_code: of a command; None where none ran to its end.
            command: the command line, for the classic builder's words.
            state: names what is kept of the failed step for a debug shell; "" nothing.
            classic: the classic builder's words where they follow from nothing else.
        """
        super().__init__(message)
        self.vertex = vertex
        self.digest = digest
        self.exit_code = exit_code
        self.command = command
        self.state = state
        self._classic = classic
        self.sources: Mapping[str, bytes] = {}
        """Text by file name, set by who has the plan."""

    @property
    def span(self) -> Span | None:
        """Where the vertex stands in its Dockerfile."""
        return self.vertex.span if self.vertex is not None else None

    @property
    def classic(self) -> str:
        """The classic builder's words."""
        if self.exit_code is None or not self.command:
            return self._classic or str(self)
        return f"The command '{self.command}' returned a non-zero code: {self.exit_code}"

    def snippet(self) -> str:
        """The Dockerfile's lines with a mark; "" where there are none to show."""
        span = self.span
        source = self.sources.get(span.filename) if span is not None else None
        return render_snippet(span.filename, source, span.start, span.end) if span and source else ""


class FrontEndError(SystemFailureError):
    """What a front end that is an image said went wrong."""

    def __init__(self, message: str, details: Sequence[tuple[str, bytes]] = ()) -> None:
        """Describe a failure.

        Args:
            details: typed details, for clients that know the types: their URLs and contents.
        """
        super().__init__(message)
        self.details = details

    @property
    def has_source(self) -> bool:
        """Whether the details say where it stands in a source."""
        return any(".Source" in url for url, _ in self.details)
