"""A Dockerfile to a build graph: the one entrance of the front end.

Owns   the order of the work: parse, stages, bases, instructions, targets.
Runs   on the loop. Linear in the Dockerfile's length.
Spec   Dockerfile reference; BuildKit's ``dockerfile.v0``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pallet.build.dockerfile import bases
from pallet.build.dockerfile import sources as remote
from pallet.build.dockerfile.arguments import automatic_arguments, global_scope
from pallet.build.dockerfile.commands import carry_out
from pallet.build.dockerfile.draft import Draft, Drafts
from pallet.build.dockerfile.scope import Scope
from pallet.build.dockerfile.stages import FileText, Stages, in_order, read_stages
from pallet.build.graph import CopyAction, FileOp, HistoryStep, HttpSource, LocalSource, Plan, Target, Vertex
from pallet.spec import platform as platforms
from pallet.spec.dockerfile import expand
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.parser import Document, parse
from pallet.spec.image import ImageConfigFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.build.dockerfile.state import StageState
    from pallet.build.ports import BuildClient, FrontendOptions, ImageResolver
    from pallet.build.progress import Watch
    from pallet.spec.platform import Platform


async def plan(source: bytes, options: FrontendOptions, *, resolver: ImageResolver, client: BuildClient,
               watch: Watch, exclude: Sequence[str] = ()) -> Plan:
    """Read a Dockerfile and say what there is to do.

    Args:
        source: the Dockerfile as it is.
        exclude: patterns of ``.dockerignore`` (``spec.ignore.read_patterns``).

    Raises:
        DockerfileError: it cannot be understood, or a base cannot be had; with ``filename``,
            ``lines`` and ``source`` set, so that ``snippet()`` shows the place.
    """
    try:
        return await _Planner(source, options, exclude).run(resolver, client, watch)
    except DockerfileError as error:
        error.filename, error.source = options.filename, source
        raise


class _Planner:
    def __init__(self, source: bytes, options: FrontendOptions, exclude: Sequence[str]) -> None:
        self._source, self._options, self._exclude = source, options, tuple(exclude)
        self._drafts = Drafts()
        self._budget = expand.Budget()
        self._paths: set[str] = set()
        self._context: Draft | None = None

    async def run(self, resolver: ImageResolver, client: BuildClient, watch: Watch) -> Plan:
        document = parse(self._source)
        text = read_stages(document)
        options = self._options
        wanted = options.platforms or (platforms.host(),)
        finder = bases.Resolver(resolver, client, watch, pull=options.pull)
        try:
            finals = [await self._target(document, text, platform, finder) for platform in wanted]
        finally:
            await finder.close()
        self._finish_context()
        vertices = self._drafts.finish()
        targets = tuple(_target(state, options, vertices) for state in finals)
        return Plan(targets=targets, sources={options.filename: self._source})

    async def _target(self, document: Document, text: FileText, platform: Platform,
                      finder: bases.Resolver) -> StageState:
        options = self._options
        build = platforms.host()
        automatic = automatic_arguments(build, platform, options.target)
        scope = Scope(
            options=options, build=build, target=platform, several_platforms=len(options.platforms) > 1,
            globals=global_scope(options, text.arguments, automatic, self._budget, document.escape),
            escape=document.escape, budget=self._budget, drafts=self._drafts,
            context=self._context_draft, paths=self._paths)
        stages = Stages(text, scope)
        target = stages.target(options.target)
        order = in_order(target)
        while await bases.resolve(order, stages, finder):
            order = in_order(target)
        for state in order:
            bases.begin(state, scope)
            if not state.replaced:
                state.total += state.trigger_total
                carry_out(state, scope)
        return target

    # --- the build context ---

    def _context_draft(self) -> Draft:
        """The context's vertex; what it is of is known at the end."""
        if self._context is None:
            self._context = self._remote_context() or self._drafts.add(Draft(
                op=LocalSource(name="context"), name="[internal] load build context"))
        return self._context

    def _remote_context(self) -> Draft | None:
        options = self._options
        url = options.remote_context
        if not url:
            return None
        git = remote.git_source(url)
        name = "[internal] load remote build context"
        if git is not None:
            return self._drafts.add(Draft(op=git, name=name))
        download = self._drafts.add(Draft(op=HttpSource(url=url, filename="context"), name=name))
        action = CopyAction(input=0, paths=("/context",), dest="/", unpack=True, wildcards=False)
        return self._drafts.add(Draft(
            op=FileOp(actions=(action,), has_base=False), inputs=(download,),
            name="[internal] extracting build context"))

    def _finish_context(self) -> None:
        if self._context is not None and isinstance(self._context.op, LocalSource):
            paths = () if "/" in self._paths else _tops(self._paths)
            self._context.op = LocalSource(name="context", exclude=self._exclude, follow=paths)


def _tops(paths: set[str]) -> tuple[str, ...]:
    """Paths without a leading slash, less those that lie under another."""
    found: list[str] = []
    for path in sorted(paths, key=lambda path: path.split("/")):
        if not found or not f"{path}/".startswith(f"{found[-1]}/"):
            found.append(path)
    return tuple(path.lstrip("/") for path in found)


def _target(state: StageState, options: FrontendOptions, vertices: dict[Draft, Vertex]) -> Target:
    if options.labels:
        state.config.labels = {**(state.config.labels or {}), **options.labels}
    base = state.image.config if state.image is not None else None
    platform = base.platform if base is not None and base.os else state.platform
    config = ImageConfigFile(
        architecture=platform.architecture, os=platform.os, variant=platform.variant,
        os_version=platform.os_version, os_features=list(platform.os_features or ()) or None,
        author=state.config.author, config=state.config.config())
    steps = tuple(HistoryStep(
        created_by=entry.created_by, comment="buildkit.dockerfile.v0",
        vertex=vertices[entry.draft] if entry.draft is not None else None) for entry in state.history)
    return Target(
        platform=state.platform, vertex=vertices[state.root()], config=config, steps=steps,
        base_config=base, base_reference=state.image.reference if state.image is not None else "")
