"""``docker cp``: files in and out of a container. Engine API ContainerArchive and its kin."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from pallet.engine.trees import WorkerStream, check_readable, writable
from pallet.errors import NotFoundError, PalletError
from pallet.layer.rootview import Bind
from pallet.spec.engine.archive import PathStat
from pallet.spec.engine.wire import rfc3339_nano
from pallet.storage import stubs
from pallet.zygote.archive import ArchiveReply, ArchiveRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Literal

    from pallet.engine.container import Container
    from pallet.engine.files import ContainerFiles
    from pallet.engine.store import ContainerStore
    from pallet.storage.snapshot import Snapshotter
    from pallet.supervisor.client import Supervisor


class ContainerArchives:
    """Implements ``api.treebackend.ArchiveBackend``."""

    def __init__(self, *, store: ContainerStore, files: ContainerFiles, snapshotter: Snapshotter,
                 supervisor: Supervisor) -> None:
        self._store = store
        self._files = files
        self._snapshotter = snapshotter
        self._supervisor = supervisor

    async def stat(self, name_or_id: str, path: str) -> PathStat:
        """See ``ArchiveBackend.stat``."""
        container = self._store.index.get(name_or_id)
        check_readable(container, "copy from")
        never_ran = not container.started_at_ns and bool(container.mounts)
        async with container.lock if never_ran else contextlib.nullcontext():
            pidfd = _pidfd(container)
            try:
                reply = await self._supervisor.run_worker(
                    "container.archive",
                    self._request(container, "stat", path, running=pidfd >= 0,
                                  make_places=never_ran and pidfd < 0),
                    [pidfd] if pidfd >= 0 else [], reply_type=ArchiveReply)
            finally:
                if pidfd >= 0:
                    os.close(pidfd)
        try:
            found = reply.result()
        except NotFoundError as error:
            raise _missing(path, name_or_id) from error
        assert found is not None, "stat answers with what it found"
        return PathStat(name=found.name, size=found.size, mode=found.mode,
                        mtime=rfc3339_nano(found.mtime_ns), link_target=found.link_target)

    async def get(self, name_or_id: str, path: str) -> WorkerStream:
        """See ``ArchiveBackend.get``."""
        container = self._store.index.get(name_or_id)
        pidfd = _pidfd(container)
        stream = WorkerStream(
            self._supervisor, "container.archive",
            self._request(container, "get", path, running=pidfd >= 0), pidfd, reply_type=ArchiveReply)
        self._store.emit(container, "archive-path")
        return stream

    async def put(
        self, name_or_id: str, path: str, source: AsyncIterator[bytes], *, keep_kinds: bool,
        as_user: bool,
    ) -> None:
        """See ``ArchiveBackend.put``."""
        container = self._store.index.get(name_or_id)
        check_readable(container, "copy to")
        user = (container.config.user or "") if as_user else None
        pidfd = _pidfd(container)
        # One that does not run must not be started while its root is mounted here.
        guard = container.lock if pidfd < 0 else contextlib.nullcontext()
        async with guard:
            if pidfd < 0:
                pidfd = _pidfd(container)
            request = self._request(container, "put", path, running=pidfd >= 0,
                                    keep_kinds=keep_kinds, user=user)
            try:
                await self._put(request, source, pidfd)
            except NotFoundError as error:
                raise _missing(path, name_or_id) from error
        self._store.emit(container, "extract-to-dir")

    async def _put(self, request: ArchiveRequest, source: AsyncIterator[bytes], pidfd: int) -> None:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write_fd, False)
        fds = [read_fd] if pidfd < 0 else [read_fd, pidfd]
        worker = asyncio.get_running_loop().create_task(self._supervisor.run_worker(
            "container.archive", request, fds, reply_type=ArchiveReply))
        feeding = asyncio.get_running_loop().create_task(_feed(source, write_fd))
        try:
            await asyncio.wait({worker, feeding}, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                feeding.result()
            reply = await worker
        except BaseException:
            worker.cancel()
            raise
        finally:
            feeding.cancel()
            await asyncio.wait({feeding, worker})
            for fd in fds:
                os.close(fd)
        reply.result()

    def _request(
        self, container: Container, action: Literal["stat", "get", "put"], path: str, *, running: bool,
        keep_kinds: bool = False, user: str | None = None, make_places: bool = False,
    ) -> ArchiveRequest:
        own = self._files.paths(container)
        binds = [Bind(source=mount.source, destination=mount.destination, read_only=mount.read_only)
                 for mount in container.mounts if mount.type != "tmpfs"]
        taken = {bind.destination for bind in binds}
        binds += [Bind(source=source, destination=place)
                  for place, source in (("/etc/hosts", own.hosts), ("/etc/hostname", own.hostname),
                                        ("/etc/resolv.conf", own.resolv_conf))
                  if place not in taken and source and os.path.exists(source)]
        binds.sort(key=lambda bind: bind.destination.count("/"))
        return ArchiveRequest(
            action=action, root=stubs.under(self._snapshotter.root_mount(container.id)), binds=binds,
            path=path, running=running, read_only=container.host_config.readonly_rootfs,
            keep_kinds=keep_kinds, user=user, make_places=make_places)


def _pidfd(container: Container) -> int:
    return container.shim.pidfd() if container.shim is not None else -1


def _missing(path: str, name: str) -> PalletError:
    return NotFoundError(f"Could not find the file {path} in container {name}")


async def _feed(source: AsyncIterator[bytes], fd: int) -> None:
    """Write the stream to a pipe; stop quietly when its reader has gone: it says why itself."""
    try:
        async for chunk in source:
            view = memoryview(chunk)
            while view:
                try:
                    view = view[os.write(fd, view):]
                except BlockingIOError:
                    await writable(fd)
    except BrokenPipeError:
        return
    finally:
        os.close(fd)
