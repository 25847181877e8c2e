"""Pushing: every blob of an image, then its manifests under their tags.

Owns   the order of a push and its messages.
Runs   on the event loop; requests in transfer threads.
Needs  ``Resolver``, ``Transport``, ``ContentStore``.
Spec   distribution-spec "Push"; Docker daemon option max-concurrent-uploads; texts as Docker's.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from pallet.errors import DataLossError
from pallet.spec import digest as digests
from pallet.spec import image
from pallet.transfer import failures, progress
from pallet.transfer.client import RepositoryClient
from pallet.transfer.failures import RegistryError, UnreachableError
from pallet.transfer.retry import Retries, RetryPolicy
from pallet.transfer.transport import Cancellation
from pallet.transfer.upload import Outcome, upload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.image import Descriptor, StoredManifest
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.transfer.auth import LoginCredentials
    from pallet.transfer.resolver import Resolver
    from pallet.transfer.threads import TransferThreads
    from pallet.transfer.transport import Transport
    from pallet.types import DiffID, Digest

    Watcher = Callable[[ProgressMessage], None]


class PushAux(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What a push made, for programs: ``aux`` of the last message."""

    tag: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PushImage:
    """One tag to push. ``diff_ids`` name the layers in messages, base first.

    ``sources`` are repository paths on the same registry that may have the layers.
    """

    reference: Reference
    manifest: StoredManifest
    diff_ids: Sequence[DiffID]
    sources: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRequest:
    """What to push. All ``images`` are of the repository ``reference``."""

    reference: Reference
    images: Sequence[PushImage]
    credentials: LoginCredentials
    headers: Mapping[str, str] = field(default_factory=dict)


class Pusher:
    """Pushes images. One a daemon: its limit on uploads spans all pushes."""

    def __init__(
        self, *, resolver: Resolver, transport: Transport, threads: TransferThreads,
        content: ContentStore, max_uploads: int, retry: RetryPolicy,
    ) -> None:
        self._resolver = resolver
        self._transport = transport
        self._threads = threads
        self._content = content
        self._uploads = asyncio.Semaphore(max_uploads)
        self._retry = retry

    async def push(self, request: PushRequest, watch: Watcher) -> list[Digest]:
        """Push; messages go to ``watch``, on the loop. Digests in the order of the images.

        Raises:
            SystemFailureError: the registry refused or cannot be reached.
            DataLossError: a blob of the image is missing here.
        """
        client = await self._reach(request)
        try:
            return [await self._image(client, picture, watch) for picture in request.images]
        except RegistryError as error:
            raise failures.for_push(error) from error

    async def _reach(self, request: PushRequest) -> RepositoryClient:
        reference = request.reference
        endpoints = await self._threads.run(
            partial(self._resolver.endpoints, reference.domain, push=True))
        failure: RegistryError | None = None
        for endpoint in endpoints:
            client = RepositoryClient(self._transport, endpoint, reference.path,
                                      credentials=request.credentials, actions="push,pull",
                                      headers=request.headers)
            try:
                await self._threads.run(client.ping)
            except UnreachableError as error:
                failure = error
                continue
            except RegistryError as error:
                raise failures.for_push(error) from error
            self._resolver.answered(endpoint)
            return client
        assert failure is not None
        raise failures.for_push(failure) from failure

    async def _image(self, client: RepositoryClient, picture: PushImage, watch: Watcher) -> Digest:
        manifest = picture.manifest.manifest()
        for descriptor in (*manifest.layers, manifest.config):
            if not self._content.has(descriptor.digest) and not image.is_foreign(
                    descriptor.media_type):
                message = f"content of {descriptor.digest} is not in the store"
                raise DataLossError(message)
        jobs = list(zip(manifest.layers, picture.diff_ids, strict=True))
        # Docker lists the top layer first.
        for _, diff_id in reversed(jobs):
            watch(progress.update("Preparing", digests.short(diff_id)))
        seen: dict[Digest, tuple[Descriptor, str]] = {}
        for descriptor, diff_id in reversed(jobs):
            if not image.is_foreign(descriptor.media_type):
                seen.setdefault(descriptor.digest, (descriptor, digests.short(diff_id)))
        try:
            async with asyncio.TaskGroup() as group:
                for descriptor, shown in seen.values():
                    group.create_task(self._blob(client, picture, descriptor, shown, watch))
        except BaseExceptionGroup as problems:
            raise _leaf(problems) from problems
        await self._blob(client, picture, manifest.config, "", _ignore)
        tag = picture.reference.tag
        name = tag or picture.manifest.digest
        await self._threads.run(partial(client.put_manifest, name, picture.manifest))
        size = len(picture.manifest.raw)
        watch(progress.message(f"{name}: digest: {picture.manifest.digest} size: {size}"))
        watch(progress.aux(PushAux(tag=tag or "", digest=picture.manifest.digest, size=size)))
        return picture.manifest.digest

    async def _blob(
        self, client: RepositoryClient, picture: PushImage, descriptor: Descriptor, shown: str,
        watch: Watcher,
    ) -> None:
        if self._uploads.locked():
            watch(progress.update("Waiting", shown))
        loop = asyncio.get_running_loop()
        cancel = Cancellation()
        size = descriptor.size

        def from_thread(message: ProgressMessage) -> None:
            loop.call_soon_threadsafe(watch, message)

        throttle = progress.Throttle(lambda current: from_thread(
            progress.count("Pushing", shown, current, size)))

        def announce(left_s: int) -> None:
            plural = "" if left_s == 1 else "s"
            from_thread(progress.update(f"Retrying in {left_s} second{plural}", shown))

        async with self._uploads:
            outcome, source = await self._threads.run(partial(
                upload, client, descriptor.digest, self._content.path(descriptor.digest),
                sources=picture.sources, retries=Retries(self._retry, cancel, announce),
                cancel=cancel, on_bytes=throttle.report), cancel)
        text = f"Mounted from {source}" if outcome is Outcome.MOUNTED else outcome.value
        watch(progress.update(text, shown))


def _leaf(problems: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = problems
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _ignore(_message: ProgressMessage) -> None:
    return None
