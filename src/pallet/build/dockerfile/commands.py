"""Instructions carried out: each changes its stage's state and may make vertices.

Owns   the dispatch and everything but RUN (``run.py``) and COPY/ADD (``copy.py``).
Runs   on the loop; pure.
"""

from __future__ import annotations

import asyncio
import posixpath
from typing import TYPE_CHECKING

from pallet.build.dockerfile import texts
from pallet.build.dockerfile.copy import copy
from pallet.build.dockerfile.draft import Draft
from pallet.build.dockerfile.lint import lint_command, lint_workdir, words_of
from pallet.build.dockerfile.owners import owner_of
from pallet.build.dockerfile.run import run
from pallet.build.dockerfile.state import Entry
from pallet.build.graph import FileOp, MakeDirectoryAction, ScratchOp
from pallet.spec.dockerfile import instructions as ins
from pallet.spec.dockerfile import runconfig
from pallet.spec.dockerfile.errors import DockerfileError, ExpansionError

if TYPE_CHECKING:
    from pallet.build.dockerfile.scope import Scope
    from pallet.build.dockerfile.state import StageState
    from pallet.spec.dockerfile.runconfig import Words

_TURN = 200


async def carry_out(state: StageState, scope: Scope) -> None:
    """Carry out all instructions of a stage. The loop gets its turn in between.

    Raises:
        DockerfileError: with the lines of the instruction.
    """
    for number, command in enumerate(state.commands, 1):
        if number % _TURN == 0:
            await asyncio.sleep(0)
        try:
            dispatch(state, command, scope)
        except DockerfileError as error:
            if not isinstance(error, ExpansionError) and not isinstance(command, ins.Expose):
                lint_command(state, command, scope)
            raise error.at(command.lines) from None
        lint_command(state, command, scope)


def dispatch(state: StageState, command: ins.Instruction, scope: Scope) -> None:
    """Carry out one instruction."""
    words = words_of(state, command, scope)
    match command:
        case ins.Run():
            run(state, command, scope)
        case ins.Copy():
            copy(state, command, scope, words)
        case ins.Arg():
            _arg(state, command, scope, words)
        case ins.Workdir():
            _workdir(state, command, scope, words)
        case _:
            _metadata(state, command, words)


def _arg(state: StageState, command: ins.Arg, scope: Scope, words: Words) -> None:
    shown = []
    for argument in command.arguments:
        value = scope.options.build_args.get(argument.name)
        if value is None and argument.default is not None:
            value = words.word(argument.default)
        elif value is None:
            value = scope.globals.values.get(argument.name)
        if value is not None:
            state.set_env(argument.name, value)
        state.arguments[argument.name] = value
        shown.append(argument.name if value is None else f"{argument.name}={value}")
    state.history.append(Entry(created_by=f"ARG {' '.join(shown)}", instruction=command))


def _workdir(state: StageState, command: ins.Workdir, scope: Scope, words: Words) -> None:
    lint_workdir(state, command, words.word(command.path), scope.linter)
    runconfig.apply(state.config, command, words)
    path = state.config.working_dir
    clean = posixpath.normpath(path)
    draft = None
    scope.budget.spend(len(path))
    if clean.strip("/"):
        root = state.root()
        owner = owner_of(state.config.user, classic=scope.options.ignore_syntax, scratch=isinstance(root.op, ScratchOp))
        action = MakeDirectoryAction(path=f"/{clean.lstrip('/')}", owner=owner)
        shown = texts.shown_code(command, state.env, scope.escape, scope.budget)
        draft = state.draft = scope.drafts.add(Draft(
            op=FileOp(actions=(action,)), inputs=(root,), name=texts.numbered(state, shown),
            span=scope.span(command.lines), ignore_cache=state.ignore_cache, platform=state.platform))
    state.history.append(Entry(created_by=f"WORKDIR {path}", draft=draft, instruction=command))


def _metadata(state: StageState, command: ins.Instruction, words: Words) -> None:
    values = _values(command, words)
    if isinstance(command, ins.Env):
        # No pair sees what another one sets: all are expanded before any is set.
        for name, value in words.pairs(command.pairs):
            state.config.env[name] = value
            state.set_env(name, value)
    else:
        runconfig.apply(state.config, command, words)
    text = texts.metadata_history(command, state.config, values)
    if text is not None:
        state.history.append(Entry(created_by=text, instruction=command))


def _values(command: ins.Instruction, words: Words) -> list[str]:
    """The expanded words that the history shows."""
    match command:
        case ins.Env() | ins.Label():
            return [f"{name}={value}" for name, value in words.pairs(command.pairs)]
        case ins.Expose():
            return runconfig.exposed_ports(command, words)
        case ins.Volume():
            return list(words.all(command.paths))
    return []
