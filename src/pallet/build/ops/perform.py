"""Carrying an operation out: on a snapshot of its base, which then becomes a layer.

Owns   snapshots from ``prepare`` to the commit, and what is left of a step that failed.
Runs   on the loop; file operations in zygote children, commands in the native runtime.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.build import graph
from pallet.build.errors import BuildError
from pallet.build.ops import linker
from pallet.build.ops.fileworker import FileAction, FilesReply, FilesRequest, Input
from pallet.errors import PalletError
from pallet.spec.dockerfile.gotext import quote
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.build.graph import Vertex
    from pallet.build.job import Job, Solved
    from pallet.build.ops.failed import FailedSteps
    from pallet.build.ops.layers import Committed, Layers
    from pallet.build.ops.running import StepMaker
    from pallet.build.ports import Step, StepEnd, StepRunner
    from pallet.image.importer import WorkerRunner

_RUNTIME = "OCI runtime create failed: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A layer that was made and committed."""

    diff_id: DiffID
    size_bytes: int
    base: tuple[DiffID, ...] = ()
    """What it lies on."""


Outputs = dict["int | None", Made]
"""What an operation made, by ``graph.RunOp.output``; None is the root, and all there is of other operations."""


class Performer:
    """Carries out operations that make layers."""

    def __init__(self, *, layers: Layers, workers: WorkerRunner, runner: StepRunner, steps: StepMaker,
                 failed: FailedSteps) -> None:
        self._layers = layers
        self._workers = workers
        self._runner = runner
        self._steps = steps
        self._failed = failed

    async def perform(self, vertex: Vertex, inputs: Sequence[Solved], job: Job,
                      output: Callable[[int, bytes], None]) -> Outputs:
        """Make the layers of a vertex.

        Raises:
            BuildError: a command failed.
            PalletError: something else did.
        """
        if isinstance(vertex.op, graph.RunOp):
            return await self._run(vertex, vertex.op, inputs, job, output)
        if isinstance(vertex.op, graph.DiffOp):
            lower, upper = inputs
            return {None: _made(await self._layers.difference(lower.layers, upper.layers, job.lease))}
        assert isinstance(vertex.op, graph.FileOp)
        return {None: await self._files(vertex, vertex.op, inputs, job)}

    async def _files(self, vertex: Vertex, op: graph.FileOp, inputs: Sequence[Solved], job: Job) -> Made:
        on_base = op.has_base and bool(inputs)
        base = inputs[0].layers if on_base else ()
        wanted = sorted({action.input for action in op.actions if isinstance(action, graph.CopyAction)})
        numbers = {number: place for place, number in enumerate(wanted)}
        key, root = await self._layers.prepare(base)
        try:
            reply = await self._workers.run_worker("build.files", FilesRequest(
                root=root, inputs=[await self._input(vertex, inputs[number]) for number in wanted],
                actions=[_action(action, numbers) for action in op.actions], seal=self._layers.seals),
                reply_type=FilesReply)
            made = await self._layers.commit(key, base, job.lease, sealed=reply.check().sealed)
            return _made(made, base)
        finally:
            await self._layers.remove(key)

    async def _input(self, vertex: Vertex, solved: Solved) -> Input:
        if solved.tree is not None:
            share = self._layers.seals and await run_blocking(linker.may_link, solved.tree, vertex)
            return Input(path=solved.tree.root, share=share, files=len(solved.tree.digest_of))
        return await self._layers.input(solved.layers)

    async def _run(self, vertex: Vertex, op: graph.RunOp, inputs: Sequence[Solved], job: Job,
                   output: Callable[[int, bytes], None]) -> Outputs:
        base = inputs[0].layers
        key, _ = await self._layers.prepare(base)
        kept: dict[int, tuple[str, tuple[DiffID, ...]]] = {}

        async def keep_mount(number: int, layers: Sequence[str]) -> str:
            below = tuple(DiffID(layer) for layer in layers)
            snapshot, _ = await self._layers.prepare(below)
            kept[number] = snapshot, below
            return snapshot

        keep = False
        try:
            async with self._steps.make(key, op, inputs, job, keep_mount) as step:
                try:
                    end = await self._runner.run(step, output)
                except PalletError as error:
                    raise _not_started(vertex, step, error, job) from error
            if end.exit_code not in (op.valid_exit_codes or (0,)):
                keep = job.debug
                if keep:
                    await self._failed.keep(_on_scratch(step), inputs)
                raise _failure(vertex, step, end, job)
            made = await self._layers.commit(key, base, job.lease, points=[mount.target for mount in step.mounts])
            found: Outputs = {None: _made(made, base)}
            for number, (snapshot, below) in kept.items():
                found[number] = _made(await self._layers.commit(snapshot, below, job.lease), below)
            return found
        finally:
            for snapshot, _ in kept.values():
                await self._layers.remove(snapshot)
            if not keep:
                await self._layers.remove(key)


def _made(made: Committed, base: tuple[DiffID, ...] = ()) -> Made:
    return Made(diff_id=made.diff_id, size_bytes=made.size_bytes, base=base)


def _on_scratch(step: Step) -> Step:
    """The step with what its mounts begin with: their snapshots go."""
    return replace(step, mounts=tuple(replace(mount, snapshot="") for mount in step.mounts))


def _not_started(vertex: Vertex, step: Step, error: PalletError, job: Job) -> BuildError:
    """The command is no program, or what it needs is not there: both builders' words."""
    reason = str(error).rpartition(_RUNTIME)[2].removesuffix(": unknown")
    text = f"process {quote(' '.join(step.args))} did not complete successfully: {reason}"
    return BuildError(text, vertex=vertex, digest=job.digest(vertex), classic=str(error))


def _failure(vertex: Vertex, step: Step, end: StepEnd, job: Job) -> BuildError:
    command = " ".join(step.args)
    text = f"process {quote(command)} did not complete successfully: exit code: {end.exit_code}"
    if end.oom_killed:
        text = f"process {quote(command)} did not complete successfully: cannot allocate memory"
    return BuildError(text, vertex=vertex, digest=job.digest(vertex), exit_code=end.exit_code, command=command,
                      state=step.id if job.debug else "")


def _action(action: graph.Action, numbers: dict[int, int]) -> FileAction:
    if isinstance(action, graph.WriteAction):
        return FileAction(kind="write", path=action.path, data=action.data, mode=action.mode, owner=action.owner,
                          makes_parents=action.makes_parents, time_ns=action.time_ns)
    if isinstance(action, graph.MakeDirectoryAction):
        return FileAction(kind="directory", path=action.path, owner=action.owner, mode=f"{action.mode:o}",
                          makes_parents=action.makes_parents, time_ns=action.time_ns)
    if isinstance(action, graph.RemoveAction):
        return FileAction(kind="remove", path=action.path, may_be_absent=action.may_be_absent,
                          wildcards=action.wildcards)
    if isinstance(action, graph.LinkAction):
        return FileAction(kind="link", path=action.path, target=action.target, owner=action.owner,
                          time_ns=action.time_ns)
    return FileAction(
        kind="copy", path=action.dest, input=numbers[action.input], paths=list(action.paths),
        exclude=list(action.exclude), wildcards=action.wildcards, parents=action.parents, unpack=action.unpack,
        owner=action.owner, keep_owner=action.keep_owner, mode=action.mode, include=list(action.include),
        itself=action.itself, follow=action.follow, matches=action.matches, makes_parents=action.makes_parents,
        replaces=action.replaces, time_ns=action.time_ns, lenient=action.lenient)
