"""Vertices while a plan is made.

Owns   ``Draft`` and their turning into ``graph.Vertex``.
Runs   on the loop; pure.

The build context is known last (which paths of it anything asks for), though much is made from it:
so vertices are drafts until the plan is whole. A draft's inputs were made before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.build.graph import Vertex

if TYPE_CHECKING:
    from pallet.build.graph import Op, Span
    from pallet.spec.platform import Platform


@dataclass(slots=True, kw_only=True, eq=False)
class Draft:
    """A vertex to be."""

    op: Op
    inputs: tuple[Draft, ...] = ()
    name: str
    span: Span | None = None
    ignore_cache: bool = False
    platform: Platform | None = None
    ready: Vertex | None = None
    """What it is already: a vertex of another plan."""


@dataclass(slots=True)
class Drafts:
    """All drafts of a plan, each after its inputs."""

    made: list[Draft] = field(default_factory=list)
    images: dict[Op, Draft] = field(default_factory=dict)
    """Images by what they are, so that stages on one base share its vertex."""

    def add(self, draft: Draft) -> Draft:
        """Keep a draft."""
        self.made.append(draft)
        return draft

    def finish(self) -> dict[Draft, Vertex]:
        """Make the vertices."""
        vertices: dict[Draft, Vertex] = {}
        for draft in self.made:
            vertices[draft] = draft.ready or Vertex(
                op=draft.op, inputs=tuple(vertices[item] for item in draft.inputs), name=draft.name,
                span=draft.span, ignore_cache=draft.ignore_cache, platform=draft.platform)
        return vertices
