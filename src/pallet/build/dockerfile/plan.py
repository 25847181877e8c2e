"""A Dockerfile to a build graph: the one entrance of the front end.

Owns   the order of the work: parse, stages, bases, instructions, targets.
Runs   on the loop. Linear in the Dockerfile's length.
Spec   Dockerfile reference; BuildKit's ``dockerfile.v0``.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.build.dockerfile import bases
from pallet.build.dockerfile import sources as remote
from pallet.build.dockerfile.arguments import automatic_arguments, global_scope
from pallet.build.dockerfile.commands import carry_out
from pallet.build.dockerfile.draft import Draft, Drafts
from pallet.build.dockerfile.lint import lint_base, lint_bases, lint_file, lint_instructions, lint_lines
from pallet.build.dockerfile.rules import CheckOptions, Linter, read_check
from pallet.build.dockerfile.scans import scanned
from pallet.build.dockerfile.scope import Scope
from pallet.build.dockerfile.stages import FileText, Stages, check_order, in_order, read_stages
from pallet.build.graph import (
    CopyAction,
    FileOp,
    HistoryStep,
    HttpSource,
    LocalSource,
    Plan,
    Span,
    Target,
    Vertex,
)
from pallet.errors import InvalidParameterError
from pallet.spec import platform as platforms
from pallet.spec.dockerfile import expand
from pallet.spec.dockerfile.errors import DockerfileError
from pallet.spec.dockerfile.parser import Document, parse
from pallet.spec.dockerfile.syntax import detect_syntax, is_builtin
from pallet.spec.ignore import PathMatcher
from pallet.spec.image import ImageConfigFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pallet.build.dockerfile.state import StageState
    from pallet.build.ports import BuildClient, FrontendOptions, ImageResolver
    from pallet.build.progress import Watch
    from pallet.spec.platform import Platform

_LARGE = 128 << 10


async def plan(source: bytes, options: FrontendOptions, *, resolver: ImageResolver, client: BuildClient,
               watch: Watch, exclude: Sequence[str] = ()) -> Plan:
    """Read a Dockerfile and say what there is to do.

    Args:
        source: the Dockerfile as it is.
        exclude: patterns of ``.dockerignore`` (``spec.ignore.read_patterns``).

    Raises:
        DockerfileError: it cannot be understood, a base cannot be had, or lint findings are errors;
            with ``filename``, ``lines`` and ``source`` set, so that ``snippet()`` shows the place,
            and ``warnings``.
    """
    planner = Planner(source, options, exclude)
    try:
        made = await planner.run(resolver, client, watch)
        planner.linter.check()
    except DockerfileError as error:
        error.filename, error.source = options.filename, source
        error.warnings = planner.linter.warnings
        raise
    return made


class Planner:
    """One run of the front end; also what subrequests look at."""

    def __init__(self, source: bytes, options: FrontendOptions, exclude: Sequence[str], *,
                 every_stage: bool = False) -> None:
        """With ``every_stage`` and no target named, stages that nothing needs are carried out, too."""
        self.text = FileText()
        self.finals: list[StageState] = []
        self.orders: list[list[StageState]] = []
        """Stages that were carried out, for each target platform."""
        self.scopes: list[Scope] = []
        self._scanned: list[list[tuple[str, Draft]]] = []
        self.linter = Linter(CheckOptions(), self._span)
        self._source, self._options, self._exclude = source, options, tuple(exclude)
        self._every_stage = every_stage
        self._drafts = Drafts()
        self._budget = expand.Budget()
        self._paths: set[str] = set()
        self._context: Draft | None = None
        self._inside: Draft | None = None

    def _span(self, lines: tuple[int, int] | None) -> Span | None:
        if lines is None:
            return None
        return Span(filename=self._options.filename, start=lines[0], end=lines[1])

    async def run(self, resolver: ImageResolver, client: BuildClient, watch: Watch) -> Plan:
        """Make the plan."""
        options = self._options
        document = self.read() if len(self._source) < _LARGE else await run_blocking(self.read)
        wanted = options.platforms or (platforms.host(),)
        finder = bases.Resolver(resolver, client, watch, pull=options.pull)
        try:
            for platform in wanted:
                self.finals.append(await self._target(document, platform, finder))
        finally:
            await finder.close()
        self._finish_context()
        vertices = self._drafts.finish()
        targets = tuple(replace(_target(state, options, vertices), scanned=tuple(
            (name, vertices[draft]) for name, draft in extras))
            for state, extras in zip(self.finals, self._scanned, strict=True))
        return Plan(targets=targets, warnings=self.linter.warnings,
                    sources={options.filename: self._source})

    def read(self) -> Document:
        """Parse the text and run the rules that need nothing else."""
        self._check_syntax()
        document = parse(self._source)
        check = self._options.build_args.get("BUILDKIT_DOCKERFILE_CHECK")
        if check is None:
            check = document.directives.get("check", ("", 0))[0]
        if not self._options.ignore_syntax:
            self.linter = Linter(read_check(check), self._span)
        lint_lines(document, self.linter)
        self.text = FileText()
        try:
            read_stages(document, self.text)
        finally:
            lint_instructions(self.text, self.linter)
        lint_file(self.text, self.linter)
        return document

    def _check_syntax(self) -> None:
        wanted = self._options.build_args.get("BUILDKIT_SYNTAX") or detect_syntax(self._source)
        followed = self._options.ignore_syntax or self._options.cmdline
        if wanted and not followed and not is_builtin(wanted):
            message = f"front end {wanted} is an image, which is no part of a Dockerfile's plan"
            raise DockerfileError(message)

    def _scope(self, document: Document, platform: Platform) -> Scope:
        options = self._options
        build = platforms.host()
        automatic = automatic_arguments(build, platform, options.target or self.text.stages[-1].start.alias)
        arguments = self.text.arguments
        return Scope(
            options=options, build=build, target=platform, several_platforms=len(options.platforms) > 1,
            globals=global_scope(options.build_args, arguments, automatic, self._budget, document.escape),
            escape=document.escape, budget=self._budget, drafts=self._drafts, linter=self.linter,
            context=self._context_draft, paths=self._paths)

    def _lint_bases(self, scope: Scope) -> None:
        automatic = {name: scope.globals.values[name] for name in scope.globals.automatic}
        defaults = global_scope({}, self.text.arguments, automatic, self._budget, scope.escape).values
        lint_bases([stage.start for stage in self.text.stages], scope, defaults)

    def _ignored(self) -> PathMatcher:
        try:
            return PathMatcher(self._exclude)
        except InvalidParameterError as error:
            raise DockerfileError(str(error)) from error

    async def _target(self, document: Document, platform: Platform, finder: bases.Resolver) -> StageState:
        scope = self._scope(document, platform)
        self.scopes.append(scope)
        self._lint_bases(scope)
        stages = Stages(self.text, scope)
        target = stages.target(self._options.target)
        in_order(stages.all)
        order = self._order(stages, target)
        check_order(order)
        while await bases.resolve(order, stages, finder):
            order = self._order(stages, target)
        self.orders.append(order)
        scope.ignored = self._ignored()
        for state in order:
            bases.begin(state, scope)
            lint_base(state, scope)
            if not state.replaced:
                state.total += state.trigger_total
                await carry_out(state, scope)
        self._scanned.append(scanned(order, target, scope))
        target.draft = bases.in_layers(target.root(), scope)
        return target

    def _order(self, stages: Stages, target: StageState) -> list[StageState]:
        if not self._every_stage or self._options.target:
            return in_order([target])
        return in_order([target, *stages.all])

    # --- the build context ---

    def _context_draft(self) -> Draft:
        """The context's vertex; what it is of is known at the end."""
        if self._context is None:
            self._context = self._given_context() or self._remote_context() or self._drafts.add(Draft(
                op=LocalSource(name="context"), name="[internal] load build context"))
            self._inside = self._below(self._context)
        return self._inside or self._context

    def _below(self, context: Draft) -> Draft | None:
        """The subdirectory that is to be the context; None for the whole."""
        path = posixpath.normpath(posixpath.join("/", self._options.context_subdirectory)).lstrip("/")
        if not path:
            return None
        action = CopyAction(input=0, paths=(f"/{path}",), dest="/", wildcards=False)
        return self._drafts.add(Draft(op=FileOp(actions=(action,), has_base=False), inputs=(context,), name=""))

    def _given_context(self) -> Draft | None:
        """The result of another build."""
        given = self._options.inputs.get("context")
        if given is None:
            return None
        vertex = given.targets[0].vertex
        return self._drafts.add(Draft(op=vertex.op, name=vertex.name, ready=vertex))

    def _remote_context(self) -> Draft | None:
        url = self._options.remote_context
        if not url:
            return None
        git = remote.git_source(url)
        name = "[internal] load remote build context"
        if git is not None:
            keep = self._options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "").lower()
            if keep:
                git = replace(git, keep_git_dir=keep in ("1", "t", "true"))
            return self._drafts.add(Draft(op=git, name=name))
        download = self._drafts.add(Draft(op=HttpSource(url=url, filename="context"), name=name))
        action = CopyAction(input=0, paths=("/context",), dest="/", unpack=True, wildcards=False)
        return self._drafts.add(Draft(
            op=FileOp(actions=(action,), has_base=False), inputs=(download,),
            name="[internal] extracting build context"))

    def _finish_context(self) -> None:
        if self._context is not None and isinstance(self._context.op, LocalSource):
            paths = () if "/" in self._paths else _tops(self._paths)
            if self._inside is not None:
                paths = (posixpath.normpath(self._options.context_subdirectory).strip("/"),)
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
    if options.ignore_syntax:  # the classic builder's labels are instructions
        steps += tuple(HistoryStep(created_by=f"LABEL {name}={value}", comment="", vertex=None)
                       for name, value in sorted(options.labels.items()))
    return Target(
        platform=state.platform, vertex=vertices[state.root()], config=config, steps=steps,
        base_config=base)
