"""Sources: images, clients' trees, downloads and checkouts, as what a graph begins with.

Owns   which source is brought here how, and what spares bringing it again.
Runs   on the loop; transfers in threads and zygote children.

A download or a checkout becomes a layer of its own, kept as a cache record: one of a URL until the server
says that it has changed, one of a commit for ever.
"""

from __future__ import annotations

import asyncio
import base64
import os
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from pallet.aio import run_blocking
from pallet.build import graph
from pallet.build.cachekey import combine
from pallet.build.cachestore import CacheRecord
from pallet.build.job import Solved
from pallet.build.ops import downloads
from pallet.build.ops.gitworker import GitReply, GitRequest, over_ssh, redacted
from pallet.errors import InvalidParameterError, NotFoundError
from pallet.image.moments import unix_seconds
from pallet.layer.remove import discard
from pallet.supervisor.agentrelay import AgentRelay
from pallet.types import DiffID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pallet.build.cachestore import CacheStore
    from pallet.build.graph import Vertex
    from pallet.build.images import BuildImages
    from pallet.build.job import Job
    from pallet.build.ops.downloads import Downloads
    from pallet.build.ops.layers import Layers
    from pallet.build.ops.layouts import Layouts
    from pallet.image.importer import WorkerRunner
    from pallet.image.model import Image

_NANO = 1_000_000_000
_UPLOADS = "buildkit-session"
"""Host of the URLs under which clients pipe their contexts in."""
_COMMIT_DIGITS = 40
_HTTP, _GIT = "source.http", "source.git.checkout"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


class Sources:
    """Brings sources here."""

    def __init__(self, *, images: BuildImages, cache: CacheStore, layers: Layers, workers: WorkerRunner,
                 fetcher: Downloads, layouts: Layouts, scratch: str) -> None:
        """``scratch`` is a directory for what is gone before its build ends."""
        self._images = images
        self._cache = cache
        self._layers = layers
        self._workers = workers
        self._fetcher = fetcher
        self._layouts = layouts
        self._scratch = scratch
        self._locks: dict[str, asyncio.Lock] = {}

    async def bring(self, vertex: Vertex, job: Job) -> Solved:
        """Bring the source of a vertex here.

        Raises:
            PalletError: it cannot be had.
        """
        op = vertex.op
        if isinstance(op, graph.ImageSource):
            return self._image(op, job)
        if isinstance(op, graph.LocalSource):
            return await self._local(op, vertex, job)
        if isinstance(op, graph.HttpSource):
            async with self._one_at_a_time(f"{op.url}\0{op.filename}"):
                return await self._http(op, vertex, job)
        if isinstance(op, graph.GitSource):
            async with self._one_at_a_time(op.remote):
                return await self._git(op, vertex, job)
        if isinstance(op, graph.OciLayoutSource):
            async with self._one_at_a_time(op.digest):
                return await self._layout(op, vertex, job)
        message = f"{type(op).__name__} cannot be a source here"
        raise InvalidParameterError(message)

    @asynccontextmanager
    async def _one_at_a_time(self, name: str) -> AsyncIterator[None]:
        """Two builds that want the same bring it once."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            yield
        if not lock.locked():
            self._locks.pop(name, None)

    async def _layout(self, op: graph.OciLayoutSource, vertex: Vertex, job: Job) -> Solved:
        try:
            image = self._images.find(op.digest)
        except NotFoundError:
            tell = job.status(vertex, f"transferring {op.reference or op.digest}")
            image = await self._layouts.bring(op.store, op.digest, job, tell)
            return self._of_image(image, job, cached=False)
        return self._of_image(image, job)

    def _image(self, op: graph.ImageSource, job: Job) -> Solved:
        return self._of_image(self._images.find(op.digest), job)

    def _of_image(self, image: Image, job: Job, *, cached: bool = True) -> Solved:
        job.lease.add_layers(image.diff_ids)
        created = int(unix_seconds(image.created) * _NANO)
        return Solved(layers=image.diff_ids, created_ns=created, cached=cached)

    async def _local(self, op: graph.LocalSource, vertex: Vertex, job: Job) -> Solved:
        """One transfer a build for each tree and filter, whoever asks."""
        task = job.trees.get(op)
        if task is None:
            task = job.trees[op] = asyncio.get_running_loop().create_task(
                job.client.tree(op, job.watch, job.digest(vertex)))
        return Solved(tree=await asyncio.shield(task))

    # Downloads

    async def _http(self, op: graph.HttpSource, vertex: Vertex, job: Job) -> Solved:
        parts = urlsplit(op.url)
        if parts.hostname == _UPLOADS:
            return await self._upload(op, vertex, job)
        by_checksum = combine("http checksum", [op.checksum, op.filename]) if op.checksum else ""
        by_url = combine("http url", [op.url, op.filename])
        record = self._find(by_checksum, job) if by_checksum else None
        if record is not None:
            return _solved(record, cached=True)
        known = self._find(by_url, job)
        algorithms = tuple({"sha256", op.checksum.partition(":")[0] or "sha256"})
        async with self._snapshot() as (key, upper):
            target = os.path.join(upper, op.filename)
            got = await self._fetcher.fetch(
                op.url, target, validator=known.validator if known is not None else "", algorithms=algorithms,
                tell=job.status(vertex, f"downloading {op.filename}"))
            if got.same:
                assert known is not None
                self._verify(op, known.checksums)
                return _solved(known, cached=True)
            checksums = tuple(got.digests.values())
            self._verify(op, checksums)
            await run_blocking(os.utime, target, ns=(got.modified_ns, got.modified_ns))
            keys = [by_url, *(combine("http checksum", [text, op.filename]) for text in checksums)]
            return await self._keep(key, job, keys, CacheRecord(
                id="", kind=_HTTP, description=f"http url {redacted(op.url)}", validator=got.etag, checksums=checksums))

    def _verify(self, op: graph.HttpSource, checksums: Sequence[str]) -> None:
        if op.checksum and op.checksum not in checksums:
            algorithm = op.checksum.partition(":")[0]
            actual = next((text for text in checksums if text.startswith(f"{algorithm}:")), "")
            message = f"digest mismatch {actual}: {op.checksum}"
            raise InvalidParameterError(message)

    async def _upload(self, op: graph.HttpSource, vertex: Vertex, job: Job) -> Solved:
        """What the client pipes in; never the same twice, so nothing is looked up."""
        del vertex
        if (known := job.uploads.get(op.url)) is not None:
            return known
        async with self._snapshot() as (key, upper):
            target = os.path.join(upper, op.filename)
            checksum, _ = await downloads.store(await job.client.upload(op.url), target)
            await run_blocking(os.utime, target, ns=(0, 0))
            found = await self._keep(key, job, [combine("upload", [checksum, op.filename])], CacheRecord(
                id="", kind=_HTTP, description="context from the client", checksums=(checksum,)))
            job.uploads[op.url] = found
            return found

    # Checkouts

    async def _git(self, op: graph.GitSource, vertex: Vertex, job: Job) -> Solved:
        async with self._agent(op, job) as agent:
            return await self._checkout(op, vertex, job, agent)

    @asynccontextmanager
    async def _agent(self, op: graph.GitSource, job: Job) -> AsyncIterator[str]:
        """A socket of the client's agent, for a remote over ssh; "" for others."""
        if not over_ssh(op.remote):
            yield ""
            return
        dial = await job.client.ssh_agent("default")
        if dial is None:
            message = "unset ssh forward key default"
            raise InvalidParameterError(message)
        await run_blocking(os.makedirs, self._scratch, 0o700, exist_ok=True)
        directory = await run_blocking(tempfile.mkdtemp, dir=self._scratch)
        try:
            relay = AgentRelay(f"{directory}/agent", dial)
            relay.serve()
            try:
                yield relay.path
            finally:
                relay.close()
        finally:
            await asyncio.shield(run_blocking(discard, directory))

    async def _checkout(self, op: graph.GitSource, vertex: Vertex, job: Job, agent: str) -> Solved:
        headers = await _credentials(op, job)
        proxies = {name: os.environ[name] for name in _PROXIES if name in os.environ}
        request = GitRequest(action="resolve", remote=op.remote, ref=op.ref, headers=headers, proxies=proxies,
                             agent=agent)
        if len(op.checksum) == _COMMIT_DIGITS and (op.fetch_by_commit or not op.ref):
            commit = op.checksum
        else:
            commit = (await self._workers.run_worker("build.git", request, reply_type=GitReply)).result()
        if op.checksum and not commit.startswith(op.checksum):
            message = f"expected checksum to match {op.checksum}, got {commit}"
            raise InvalidParameterError(message)
        flags = f"{op.keep_git_dir:d}{op.submodules:d}"
        cache_key = combine("git", [op.remote, commit, op.subdirectory, flags, op.mtime])
        record = self._find(cache_key, job)
        if record is not None:
            return _solved(record, cached=True)
        tell = job.status(vertex, f"fetching {redacted(op.remote)}")
        async with self._snapshot() as (key, upper):
            scratch = os.path.join(os.path.dirname(upper), "clone")
            await run_blocking(os.mkdir, scratch, 0o700)
            reply = await self._workers.run_worker("build.git", GitRequest(
                action="checkout", remote=op.remote, ref=op.ref, commit=commit, scratch=scratch, target=upper,
                subdirectory=op.subdirectory, keep_git_dir=op.keep_git_dir, submodules=op.submodules,
                commit_times=op.mtime == "commit", headers=headers, proxies=proxies, agent=agent),
                reply_type=GitReply)
            reply.result()
            tell(1, 1)
            return await self._keep(key, job, [cache_key], CacheRecord(
                id="", kind=_GIT, description=f"git checkout of {redacted(op.remote)} at {commit[:12]}"))

    # Layers

    def _find(self, key: str, job: Job) -> CacheRecord | None:
        record = self._cache.find(key)
        if record is not None:
            self._cache.hold(record.id)
            job.held.append(record.id)
            job.lease.add_layers(DiffID(layer) for layer in record.layers)
            self._cache.touch(record)
        return record

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[tuple[str, str]]:
        """An empty snapshot: its key, and the directory to fill."""
        key, root = await self._layers.prepare()
        try:
            yield key, os.path.join(root.base_dir, root.upper or "")
        finally:
            await self._layers.remove(key)

    async def _keep(self, key: str, job: Job, keys: Sequence[str], record: CacheRecord) -> Solved:
        made = await self._layers.commit(key, (), job.lease)
        kept = self._cache.put(msgspec.structs.replace(
            record, layers=(made.diff_id,), own=1, size_bytes=made.size_bytes), keys)
        self._cache.hold(kept.id)
        job.held.append(kept.id)
        return _solved(kept, cached=False)


def _solved(record: CacheRecord, *, cached: bool) -> Solved:
    return Solved(layers=tuple(DiffID(layer) for layer in record.layers), created_ns=record.created_ns,
                  cached=cached, record=record.id)


async def _credentials(op: graph.GitSource, job: Job) -> list[str]:
    """Headers for a remote, from the client's secrets as BuildKit names them."""
    host = urlsplit(op.remote).hostname if "://" in op.remote else ""
    if not host or not job.options.git_auth:
        return []
    for name in (f"GIT_AUTH_HEADER.{host}", "GIT_AUTH_HEADER"):
        header = await job.client.secret(name)
        if header:
            return [f"Authorization: {header.decode().strip()}"]
    for name in (f"GIT_AUTH_TOKEN.{host}", "GIT_AUTH_TOKEN"):
        token = await job.client.secret(name)
        if token:
            text = base64.b64encode(b"x-access-token:" + token.strip()).decode()
            return [f"Authorization: basic {text}"]
    return []
