"""The stages of a Dockerfile: which there are, what each is built on, which a target needs.

Owns   reading nodes into stages, resolving names, order and cycles.
Runs   on the loop; pure.
Spec   Dockerfile reference "FROM", multi-stage builds.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pallet.build.dockerfile.lint import lint_platform, lint_undeclared
from pallet.build.dockerfile.state import StageState
from pallet.errors import InvalidParameterError
from pallet.spec import platform as platforms
from pallet.spec import reference as references
from pallet.spec.dockerfile import expand
from pallet.spec.dockerfile import instructions as ins
from pallet.spec.dockerfile.errors import DockerfileError, ExpansionError
from pallet.spec.dockerfile.flags import did_you_mean
from pallet.spec.dockerfile.gotext import quote
from pallet.spec.dockerfile.interpret import interpret

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.build.dockerfile.scope import Scope
    from pallet.spec.dockerfile.parser import Document, Node

SCRATCH = "scratch"
_HEX = frozenset("0123456789abcdef")
_MAX_INDEX_DIGITS = 9
_INDEX = re.compile(r"[-+]?[0-9]+")


@dataclass(slots=True, kw_only=True)
class StageText:
    """One stage as written."""

    start: ins.From
    commands: list[ins.Instruction] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class FileText:
    """A whole Dockerfile as written."""

    arguments: list[ins.Arg] = field(default_factory=list)
    """Before the first FROM."""
    stages: list[StageText] = field(default_factory=list)
    failed: Node | None = None
    """The instruction that could not be understood."""


def read_stages(document: Document, text: FileText) -> None:
    """Understand all instructions, and put them into ``text`` one by one.

    Raises:
        DockerfileError: one that is malformed, or stands before any FROM.
    """
    for node in document.nodes:
        text.failed = node
        instruction = interpret(node)
        if isinstance(instruction, ins.From):
            text.stages.append(StageText(start=instruction))
        elif text.stages:
            text.stages[-1].commands.append(instruction)
        elif isinstance(instruction, ins.Arg):
            text.arguments.append(instruction)
        else:
            message = "no build stage in current context"
            raise DockerfileError(message, node.lines)
        text.failed = None
    if not text.stages:
        message = "dockerfile contains no stages to build"
        raise DockerfileError(message)


class _UnplacedError(DockerfileError):
    """Shown without lines, as BuildKit does it."""


class Stages:
    """All stages for one target platform."""

    def __init__(self, text: FileText, scope: Scope) -> None:
        """Evaluate every FROM.

        Raises:
            DockerfileError: a base or platform that cannot be.
        """
        self.scope = scope
        self.all: list[StageState] = []
        self.extra: dict[str, StageState] = {}
        """Images that ``--from`` names."""
        self._by_name: dict[str, StageState] = {}
        for index, stage in enumerate(text.stages):
            try:
                state = self._stage(index, stage)
            except DockerfileError as error:
                raise error.at(stage.start.lines) from None
            self.all.append(state)
            if state.name:
                self._by_name[state.name] = state
        for state in self.all:
            self.link(state, state.commands)
        several = len(self.all) + len(self.extra) > 1 or any(map(_mounts_nothing, self._commands()))
        for state in self.all:
            state.shown_name = (state.name or f"stage-{state.index}") if several else ""

    def _commands(self) -> Iterable[ins.Instruction]:
        return (command for state in self.all for command in state.commands)

    def _stage(self, index: int, stage: StageText) -> StageState:
        scope, start = self.scope, stage.start
        used: set[str] = set()
        base_name = self._base_name(start, used)
        parent = self._by_name.get(base_name)
        if parent is None and base_name != SCRATCH and not scope.options.contexts:
            image_reference(base_name)
        platform = self._platform(start, used) or (parent.platform if parent is not None else scope.target)
        state = StageState(
            index=index, start=start, base_name=base_name, name=start.alias,
            commands=stage.commands, used_globals=used, platform=platform, target_platform=scope.target,
            show_platform=scope.several_platforms, parent=parent,
            ignore_cache=scope.ignores_cache(start.alias))
        if parent is not None:
            state.needs.append(parent)
        counted = (ins.Copy, ins.Run, ins.Workdir)
        state.total = sum(isinstance(item, counted) for item in stage.commands)
        if parent is None and base_name != SCRATCH:
            state.total += 1
        return state

    def _base_name(self, start: ins.From, used: set[str]) -> str:
        base = self._word(start.base, start, used)
        if not base:
            message = f"base name ({start.base}) should not be blank"
            raise DockerfileError(message)
        return base

    def _platform(self, start: ins.From, used: set[str]) -> platforms.Platform | None:
        if not start.platform:
            return None
        try:
            text = self._word(start.platform, start, used)
        except DockerfileError as error:
            message = f"failed to process arguments for platform : {error}"
            raise DockerfileError(message) from error
        if not text:
            message = f"empty platform value from expression {start.platform}"
            wrong = start.platform.strip("${}")
            raise DockerfileError(message + did_you_mean(wrong, self.scope.globals.values))
        try:
            platform = platforms.parse(text)
        except InvalidParameterError as error:
            message = f"failed to parse platform {start.platform}: {error}"
            raise DockerfileError(message) from error
        lint_platform(start, self.scope.linter)
        return platform

    def _word(self, text: str, start: ins.From, used: set[str]) -> str:
        """Expand a word of a FROM; names that it used go into ``used``."""
        try:
            result = expand_word(text, self.scope.globals.values, self.scope)
        except DockerfileError as error:
            lint_undeclared(error.unset, start, self.scope)
            raise
        lint_undeclared(result.unset, start, self.scope)
        used |= result.used
        return result.text

    def link(self, state: StageState, commands: Iterable[ins.Instruction]) -> None:
        """Find what the instructions of a stage take files from.

        Raises:
            DockerfileError: an index that no stage has.
        """
        for command in commands:
            for name in sources_of(command):
                if name not in state.sources:
                    try:
                        source = self._source(state, name)
                    except _UnplacedError:
                        raise
                    except DockerfileError as error:
                        raise error.at(command.lines) from None
                    if source.start is None and source.asked is None and isinstance(command, ins.Copy):
                        source.asked = command.lines
                    state.sources[name] = source
                    state.needs.append(source)

    def _source(self, state: StageState, name: str) -> StageState:
        if "$" in name:
            message = ("variable expansion is not supported for --from, define a new stage with FROM "
                       "using ARG from global scope as a workaround")
            raise _UnplacedError(message)
        found = self._by_name.get(name.lower())
        if found is not None:
            return found
        if _INDEX.fullmatch(name):
            index = int(name) if len(name) <= _MAX_INDEX_DIGITS else len(self.all)
            if not 0 <= index < len(self.all):
                message = f"invalid stage index {name}"
                raise _UnplacedError(message)
            return self.all[index]
        if name not in self.extra:
            self.extra[name] = StageState(
                index=-1, start=None, base_name=name, platform=self.scope.target,
                target_platform=self.scope.target)
        return self.extra[name]

    def target(self, name: str) -> StageState:
        """The stage to build; "" is the last.

        Raises:
            DockerfileError: there is none of that name or index.
        """
        if not name:
            return self.all[-1]
        found = self._by_name.get(name.lower())
        if found is None and name.isascii() and name.isdecimal() and len(name) <= _MAX_INDEX_DIGITS:
            index = int(name)
            found = self.all[index] if index < len(self.all) else None
        if found is None:
            known = [state.name for state in self.all if state.name]
            message = f"target stage {quote(name)} could not be found{did_you_mean(name, known)}"
            raise DockerfileError(message)
        return found

    def names(self) -> list[str]:
        """Names of stages."""
        return list(self._by_name)


def _mounts_nothing(command: ins.Instruction) -> bool:
    """Whether a RUN has a mount without ``from``: BuildKit counts a stage for that, whatever its type."""
    return isinstance(command, ins.Run) and any(not dict(mount.fields).get("from") for mount in command.mounts)


def image_reference(text: str) -> str:
    """A base's name in full; ids stay as they are.

    Raises:
        DockerfileError: it can be no image.
    """
    if text.startswith("sha256:") or (len(text) == 64 and set(text) <= _HEX):
        return text
    try:
        return str(references.parse_normalized(text).with_default_tag())
    except references.ReferenceFormatError as error:
        message = f"failed to parse stage name {quote(text)}: {error}"
        raise DockerfileError(message) from error


def sources_of(command: ins.Instruction) -> list[str]:
    """The ``--from`` words of an instruction."""
    if isinstance(command, ins.Copy):
        return [command.from_] if command.from_ else []
    if isinstance(command, ins.Run):
        return [value for mount in command.mounts for key, value in mount.fields
                if key == "from" and value]
    return []


def in_order(targets: Sequence[StageState]) -> list[StageState]:
    """All stages that ``targets`` need, each after those that it needs itself.

    Raises:
        DockerfileError: they need one another.
    """
    order: list[StageState] = []
    done: set[int] = set()
    path: dict[int, StageState] = {}
    stack: list[tuple[StageState, bool]] = [(target, False) for target in reversed(targets)]
    while stack:
        state, left = stack.pop()
        if left:
            del path[id(state)]
            done.add(id(state))
            order.append(state)
            continue
        if id(state) in done or id(state) in path:
            continue
        path[id(state)] = state
        stack.append((state, True))
        for needed in reversed(state.needs):
            if id(needed) in path:
                raise _circle([*path.values(), needed])
            if id(needed) not in done:
                stack.append((needed, False))
    return sorted(order, key=lambda state: state.index)


def check_order(order: Sequence[StageState]) -> None:
    """Refuse stages that need one further down.

    Raises:
        DockerfileError: with the lines of the instruction.
    """
    for state in order:
        for needed in state.needs:
            if needed.index > state.index >= 0:
                message = (f"cannot copy from stage {quote(needed.shown_name)}, it needs to be defined "
                           f"before current stage {quote(state.shown_name)}")
                raise DockerfileError(message, _place(state, needed))


def _circle(path: Sequence[StageState]) -> DockerfileError:
    """Stages that need one another; the last one stands in the path before."""
    name = path[-1].shown_name or path[-1].name or f"stage-{path[-1].index}"
    error = DockerfileError(f"circular dependency detected on stage: {name}")
    places = [_place(state, needed, last=True) for state, needed in itertools.pairwise(path)]
    shown = [lines for lines in reversed(places) if lines is not None]
    error.lines, error.further = (shown[0] if shown else None), shown[1:]
    return error


def _place(state: StageState, needed: StageState, *, last: bool = False) -> tuple[int, int] | None:
    """Lines of the first (or last) instruction by which one stage needs another."""
    for command in reversed(state.commands) if last else state.commands:
        if any(state.sources.get(name) is needed for name in sources_of(command)):
            return command.lines
    return state.lines


def expand_word(text: str, values: dict[str, str], scope: Scope) -> expand.Expansion:
    """Expand a word of a FROM.

    Raises:
        DockerfileError: ``failed to process "…": …``.
    """
    try:
        return expand.expand(text, values, expand.Style(escape=scope.escape), scope.budget)
    except DockerfileError as error:
        message = f"failed to process {quote(text)}: {error}"
        failed = ExpansionError(message)
        failed.unset = error.unset
        raise failed from error
