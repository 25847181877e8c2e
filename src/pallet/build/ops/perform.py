"""Carrying an operation out: on a snapshot of its base, which then becomes a layer as it lies there.

Owns   snapshots from ``prepare`` to the commit, and what is left of a step that failed.
Runs   on the loop; file operations in zygote children, commands in the native runtime.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pallet.aio import run_blocking
from pallet.build import graph
from pallet.build.errors import BuildError
from pallet.build.ops.fileworker import FileAction, FilesReply, FilesRequest, Input
from pallet.layer.seal import Sealed, SealReply, SealRequest
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.build.graph import Vertex
    from pallet.build.job import Job, Solved
    from pallet.build.ops.failed import FailedSteps
    from pallet.build.ops.running import StepMaker
    from pallet.build.ports import Step, StepEnd, StepRunner
    from pallet.image.importer import WorkerRunner
    from pallet.spec.mounts import RootMount
    from pallet.storage.snapshot import Snapshotter

EMPTY = Sealed(diff_id="sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef", tar_bytes=1024,
               size_bytes=0, root_entry=False)
"""The layer of a step that changed nothing: an empty tar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A layer that was made and committed."""

    diff_id: DiffID
    size_bytes: int
    on_base: bool
    """It lies on the first input's layers."""


class Performer:
    """Carries out operations that make layers."""

    def __init__(self, *, snapshotter: Snapshotter, workers: WorkerRunner, runner: StepRunner,
                 steps: StepMaker, failed: FailedSteps) -> None:
        self._snapshotter = snapshotter
        self._workers = workers
        self._runner = runner
        self._steps = steps
        self._failed = failed

    async def perform(self, vertex: Vertex, inputs: Sequence[Solved], job: Job,
                      output: Callable[[int, bytes], None]) -> Made:
        """Make the layer of a vertex.

        Raises:
            BuildError: a command failed.
            PalletError: something else did.
        """
        if isinstance(vertex.op, graph.RunOp):
            return await self._run(vertex, vertex.op, inputs, job, output)
        assert isinstance(vertex.op, graph.FileOp)
        return await self._files(vertex.op, inputs, job)

    # Files

    async def _files(self, op: graph.FileOp, inputs: Sequence[Solved], job: Job) -> Made:
        on_base = op.has_base and bool(inputs)
        key = new_key()
        await run_blocking(self._snapshotter.prepare, key, inputs[0].layers if on_base else ())
        try:
            wanted = sorted({action.input for action in op.actions if isinstance(action, graph.CopyAction)})
            numbers = {number: place for place, number in enumerate(wanted)}
            reply = await self._workers.run_worker("build.files", FilesRequest(
                root=self._snapshotter.root_mount(key), inputs=[self._input(inputs[number]) for number in wanted],
                actions=[_action(action, numbers) for action in op.actions]), reply_type=FilesReply)
            sealed = reply.check().sealed
            assert sealed is not None
            return await self.commit(key, sealed, job, on_base=on_base)
        finally:
            await asyncio.shield(run_blocking(self._snapshotter.remove, key))

    def _input(self, solved: Solved) -> Input:
        if solved.tree is not None:
            return Input(path=solved.tree.root)
        return Input(root=self._snapshotter.root_mount_of_layers(solved.layers))

    async def commit(self, key: str, sealed: Sealed, job: Job, *, on_base: bool) -> Made:
        """Commit a sealed snapshot for a job."""
        diff_id = DiffID(sealed.diff_id)

        def commit() -> None:
            job.lease.add_layer(diff_id)
            self._snapshotter.commit_snapshot(key, diff_id, sealed.size_bytes, tar_bytes=sealed.tar_bytes,
                                              root_entry=sealed.root_entry)

        await run_blocking(commit)
        return Made(diff_id=diff_id, size_bytes=sealed.size_bytes, on_base=on_base)

    # Commands

    async def _run(self, vertex: Vertex, op: graph.RunOp, inputs: Sequence[Solved], job: Job,
                   output: Callable[[int, bytes], None]) -> Made:
        key = new_key()
        await run_blocking(self._snapshotter.prepare, key, inputs[0].layers)
        keep = False
        try:
            async with self._steps.make(key, op, inputs, job) as step:
                end = await self._runner.run(step, output)
            if end.exit_code:
                keep = job.debug
                if keep:
                    await self._failed.keep(step, inputs)
                raise _failure(vertex, step, end, job)
            points = [mount.target for mount in step.mounts]
            sealed = await self.seal(self._snapshotter.root_mount(key), points)
            return await self.commit(key, sealed, job, on_base=True)
        finally:
            if not keep:
                await asyncio.shield(run_blocking(self._snapshotter.remove, key))

    async def seal(self, root: RootMount, points: Sequence[str] = ()) -> Sealed:
        """Seal a snapshot; one that nothing was written to needs no worker."""
        if _untouched(root):
            return EMPTY
        reply = await self._workers.run_worker(
            "layer.seal", SealRequest(root=root, points=list(points)), reply_type=SealReply)
        return reply.result()


def _failure(vertex: Vertex, step: Step, end: StepEnd, job: Job) -> BuildError:
    command = " ".join(step.args)
    text = f'process "{command}" did not complete successfully: exit code: {end.exit_code}'
    if end.oom_killed:
        text = f'process "{command}" did not complete successfully: cannot allocate memory'
    return BuildError(text, vertex=vertex, digest=job.digest(vertex), exit_code=end.exit_code, command=command,
                      state=step.id if job.debug else "")


def new_key() -> str:
    """A key for a snapshot: like a container's id, and no container's."""
    return secrets.token_hex(32)


def _untouched(root: RootMount) -> bool:
    """Whether nothing was written to a snapshot, nor its root directory changed."""
    assert root.upper is not None
    upper = os.path.join(root.base_dir, root.upper)
    with os.scandir(upper) as entries:
        if next(entries, None) is not None:
            return False
    ours = os.stat(upper)
    below = os.stat(os.path.join(root.base_dir, root.lower[0]))
    return (ours.st_mode, ours.st_uid, ours.st_gid) == (below.st_mode, below.st_uid, below.st_gid)


def _action(action: graph.Action, numbers: dict[int, int]) -> FileAction:
    if isinstance(action, graph.WriteAction):
        return FileAction(kind="write", path=action.path, data=action.data, mode=action.mode, owner=action.owner)
    if isinstance(action, graph.MakeDirectoryAction):
        return FileAction(kind="directory", path=action.path, owner=action.owner, mode=f"{action.mode:o}")
    return FileAction(
        kind="copy", path=action.dest, input=numbers[action.input], paths=list(action.paths),
        exclude=list(action.exclude), wildcards=action.wildcards, parents=action.parents, unpack=action.unpack,
        owner=action.owner, keep_owner=action.keep_owner, mode=action.mode)
