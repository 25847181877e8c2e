"""What holds for a whole plan, for one target platform: options, global arguments, budget.

Owns   ``Scope``.
Runs   on the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.build.graph import Span
from pallet.spec.ignore import PathMatcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.build.dockerfile.arguments import GlobalScope
    from pallet.build.dockerfile.draft import Draft, Drafts
    from pallet.build.dockerfile.rules import Linter
    from pallet.build.ports import FrontendOptions
    from pallet.spec.dockerfile import expand
    from pallet.spec.platform import Platform


@dataclass(slots=True, kw_only=True)
class Scope:
    """Everything that instructions look up outside of their stage."""

    options: FrontendOptions
    build: Platform
    """What commands run on here."""
    target: Platform
    several_platforms: bool
    globals: GlobalScope
    escape: str
    budget: expand.Budget
    drafts: Drafts
    linter: Linter
    context: Callable[[], Draft]
    """The build context's vertex."""
    paths: set[str]
    """Paths of the context that anything asks for; ``/`` is all."""
    ignored: PathMatcher = field(default_factory=lambda: PathMatcher(()))
    """What ``.dockerignore`` leaves out; known once the bases are."""

    def span(self, lines: tuple[int, int] | None) -> Span | None:
        """Lines of this Dockerfile."""
        if lines is None:
            return None
        return Span(filename=self.options.filename, start=lines[0], end=lines[1])

    def ignores_cache(self, stage: str) -> bool:
        """Whether a stage of this name is built anew."""
        wanted = {name.lower() for name in self.options.no_cache_stages}
        return self.options.no_cache or (bool(stage) and stage.lower() in wanted)
