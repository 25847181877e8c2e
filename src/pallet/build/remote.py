"""Contexts that are no client's directory: a repository, an archive or a Dockerfile at a URL, or piped in.

Owns   reading single files (the Dockerfile) out of such a context before there is a plan.
Runs   on the loop; zygote children copy.
Spec   Dockerfile reference, build context "Git repositories", "Tarball contexts", "Text files".
"""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from typing import TYPE_CHECKING, TypeVar

from pallet.aio import run_blocking
from pallet.build.dockerfile.sources import git_source
from pallet.build.entries import Entry
from pallet.build.graph import CopyAction, FileOp, HttpSource, Vertex
from pallet.build.ops.fileworker import FileAction, FilesReply, FilesRequest, Input
from pallet.build.ops.selection import SourceMissingError
from pallet.build.treeclient import read_file
from pallet.layer.remove import discard
from pallet.spec.mounts import RootMount
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pallet.build.job import Job
    from pallet.build.solver import Solver
    from pallet.build.treeclient import WorkerRunner
    from pallet.storage.snapshot import Snapshotter

T = TypeVar("T")

_NAME = "[internal] load remote build context"
_FILE = "context"
_COMPRESSED = (b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


class RemoteContext:
    """One build's remote context."""

    def __init__(self, url: str, *, solver: Solver, snapshotter: Snapshotter, workers: WorkerRunner,
                 scratch: str) -> None:
        self._url = url
        self._solver = solver
        self._snapshotter = snapshotter
        self._workers = workers
        self._scratch = scratch
        self._layers: Sequence[DiffID] = ()
        self.text: bytes | None = None
        """The file itself, where the URL is of one."""

    async def load(self, job: Job, limit_bytes: int) -> None:
        """Bring it here.

        Raises:
            BuildError: it cannot be had.
        """
        git = git_source(self._url)
        if git is not None:
            (solved,) = await self._solver.solve([Vertex(op=git, name=_NAME)], job)
            self._layers = solved.layers
            return
        download = Vertex(op=HttpSource(url=self._url, filename=_FILE), name=_NAME)
        (solved,) = await self._solver.solve([download], job)
        found = await self._copy_out(solved.layers, _FILE, limit_bytes)
        if found is not None and not is_archive(found):
            self.text = found
            return
        action = CopyAction(input=0, paths=(f"/{_FILE}",), dest="/", unpack=True, wildcards=False)
        vertex = Vertex(op=FileOp(actions=(action,), has_base=False), inputs=(download,),
                        name="[internal] extracting build context")
        (solved,) = await self._solver.solve([vertex], job)
        self._layers = solved.layers

    def show(self, layers: Sequence[DiffID]) -> None:
        """Be something that is here already: the result of a build."""
        self._layers = layers

    async def entries(self, path: str) -> list[Entry] | None:
        """What there is at a path: itself, by the name "", and of a directory what is in it. None if it is absent."""
        if self.text is not None:
            return [Entry("", os.stat_result((0o100600, 0, 0, 1, 0, 0, len(self.text), 0, 0, 0)))]
        return await self._look(self._layers, path, _entries)

    async def read(self, path: str, limit_bytes: int) -> bytes | None:
        """Read a file; None if it is absent. A URL of a Dockerfile has that alone."""
        if self.text is not None:
            return None if path.endswith(".dockerignore") else self.text
        return await self._copy_out(self._layers, path, limit_bytes)

    async def _copy_out(self, layers: Sequence[DiffID], path: str, limit_bytes: int) -> bytes | None:
        return await self._look(layers, path, lambda found: read_file(found, "file", limit_bytes))

    async def _look(self, layers: Sequence[DiffID], path: str, look: Callable[[str], T]) -> T | None:
        """Look at a copy of what is at a path: the file or directory ``file`` in the directory that ``look`` gets."""
        await run_blocking(os.makedirs, self._scratch, 0o700, exist_ok=True)
        directory = tempfile.mkdtemp(dir=self._scratch)
        try:
            for name in ("empty", "found"):
                os.mkdir(f"{directory}/{name}")
            root = await run_blocking(self._snapshotter.root_mount_of_layers, [DiffID(layer) for layer in layers])
            reply = await self._workers.run_worker("build.files", FilesRequest(
                root=RootMount(base_dir=directory, lower=["empty"], upper="found"), inputs=[Input(root=root)],
                actions=[FileAction(kind="copy", path="/file", paths=[f"/{path.lstrip('/')}"], wildcards=False,
                                    keep_owner=True)],
                seal=False), reply_type=FilesReply)
            reply.check()
            return await run_blocking(look, f"{directory}/found")
        except SourceMissingError:
            return None
        finally:
            await asyncio.shield(run_blocking(discard, directory))


def _entries(directory: str) -> list[Entry]:
    path = f"{directory}/file"
    status = os.lstat(path)
    names = sorted(os.listdir(path)) if stat.S_ISDIR(status.st_mode) else []
    return [Entry("", status), *(_entry(f"{path}/{name}", name) for name in names)]


def _entry(path: str, name: str) -> Entry:
    status = os.lstat(path)
    return Entry(name, status, os.readlink(path) if stat.S_ISLNK(status.st_mode) else "")


def is_archive(head: bytes) -> bool:
    """Whether bytes begin a tar or something compressed."""
    return head[257:262] == b"ustar" or head.startswith(_COMPRESSED)
