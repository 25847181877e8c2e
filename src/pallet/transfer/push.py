"""Pushing: every blob of an image, then its manifests under their tags.

Owns   the order of a push and its messages.
Runs   on the event loop; requests in transfer threads.
Needs  ``Resolver``, ``Transport``, ``ContentStore``.
Spec   distribution-spec "Push"; Docker daemon option max-concurrent-uploads; texts as Docker's.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from pallet.aio import first_error
from pallet.errors import DataLossError
from pallet.spec import digest as digests
from pallet.spec.image import Descriptor, StoredManifest
from pallet.transfer import failures, progress
from pallet.transfer.cancellation import Cancellation
from pallet.transfer.client import RepositoryClient
from pallet.transfer.failures import RefusedError, RegistryError, UnreachableError
from pallet.transfer.packing import PackedBlob
from pallet.transfer.retry import Retries, RetryPolicy
from pallet.transfer.upload import Attempts, Outcome, find, upload, upload_packed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.transfer.auth import LoginCredentials
    from pallet.transfer.resolver import Resolver
    from pallet.transfer.threads import TransferThreads
    from pallet.transfer.transport import Transport
    from pallet.types import Digest

    Watcher = Callable[[ProgressMessage], None]


class PushAux(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What a push made, for programs: ``aux`` of the last message."""

    tag: str
    digest: str
    size: int


class PartAux(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Tells that one image was pushed because the rest of its index is not here."""

    manifest_pushed_instead_of_index: bool
    original_index: Descriptor
    selected_manifest: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class PushBlob:
    """A layer or another blob of a manifest; ``shown`` is its id in messages, "" for none.

    ``sources`` are repository paths on the same registry that may have the blob. ``packed`` are the
    compressed forms that a registry may know of a layer that is stored uncompressed, with their
    sources; None when the blob is sent as it is.
    """

    descriptor: Descriptor
    shown: str = ""
    sources: Sequence[str] = ()
    packed: Sequence[tuple[Descriptor, Sequence[str]]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PushManifest:
    """A manifest with its blobs, layers first and base first; an index has none."""

    document: StoredManifest
    blobs: Sequence[PushBlob] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PushImage:
    """One tag to push.

    ``manifests`` end with the one that gets the tag; those before it are what that index lists.
    ``whole`` is the index of which only one image is here.
    """

    reference: Reference
    manifests: Sequence[PushManifest]
    whole: StoredManifest | None = None


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

    async def push(self, request: PushRequest, watch: Watcher) -> list[StoredManifest]:
        """Push; messages go to ``watch``, on the loop.

        Returns what got the tags, in the images' order: documents that are not in the store where
        layers were compressed on the way.

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

    async def _image(self, client: RepositoryClient, picture: PushImage,
                     watch: Watcher) -> StoredManifest:
        blobs: dict[Digest, PushBlob] = {}
        for manifest in picture.manifests:
            # Docker lists the top layer first.
            for blob in reversed(manifest.blobs):
                if not self._content.has(blob.descriptor.digest):
                    message = f"content of {blob.descriptor.digest} is not in the store"
                    raise DataLossError(message)
                if blob.shown:
                    watch(progress.update("Preparing", blob.shown))
                blobs.setdefault(blob.descriptor.digest, blob)
        sent: dict[Digest, Descriptor] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for blob in blobs.values():
                    group.create_task(self._blob(client, blob, sent, watch))
        except BaseExceptionGroup as problems:
            raise first_error(problems) from problems
        for manifest in picture.manifests[:-1]:
            document = manifest.document
            if not await self._threads.run(partial(client.has_manifest, document.digest)):
                await self._threads.run(partial(client.put_manifest, document.digest, document))
        top = _with_packed_layers(picture.manifests[-1].document, sent)
        tag = picture.reference.tag
        name = tag or top.digest
        await self._threads.run(partial(client.put_manifest, name, top))
        size = len(top.raw)
        watch(progress.message(f"{name}: digest: {top.digest} size: {size}"))
        watch(progress.aux(PushAux(tag=tag or "", digest=top.digest, size=size)))
        if picture.whole is not None:
            watch(progress.aux(PartAux(
                manifest_pushed_instead_of_index=True, original_index=picture.whole.descriptor(),
                selected_manifest=top.descriptor())))
        return top

    async def _blob(
        self, client: RepositoryClient, blob: PushBlob, sent: dict[Digest, Descriptor],
        watch: Watcher,
    ) -> None:
        """Bring one blob to the registry; ``sent`` gets the descriptor of a compressed layer."""
        tell = watch if blob.shown else _ignore
        if self._uploads.locked():
            tell(progress.update("Waiting", blob.shown))
        loop = asyncio.get_running_loop()
        cancel = Cancellation()
        size = blob.descriptor.size

        def from_thread(message: ProgressMessage) -> None:
            loop.call_soon_threadsafe(tell, message)

        throttle = progress.Throttle(lambda current: from_thread(
            progress.count("Pushing", blob.shown, current, size)))

        def announce(left_s: int) -> None:
            plural = "" if left_s == 1 else "s"
            from_thread(progress.update(f"Retrying in {left_s} second{plural}", blob.shown))

        attempts = Attempts(retries=Retries(self._retry, cancel, announce), cancel=cancel,
                            on_bytes=throttle.report)
        async with self._uploads:
            if blob.packed is None:
                work = partial(upload, client, blob.descriptor.digest,
                               self._content.path(blob.descriptor.digest), sources=blob.sources,
                               attempts=attempts)
                outcome, source = await self._threads.run(work, cancel)
            else:
                outcome, source, sent[blob.descriptor.digest] = await self._threads.run(
                    partial(self._pack, client, blob, attempts), cancel)
        text = f"Mounted from {source}" if outcome is Outcome.MOUNTED else outcome.value
        tell(progress.update(text, blob.shown))

    def _pack(self, client: RepositoryClient, blob: PushBlob,
              attempts: Attempts) -> tuple[Outcome, str, Descriptor]:
        """Find the layer in a compressed form or send it in one. Runs in a transfer thread."""
        for known, sources in blob.packed or ():
            with suppress(RefusedError):
                outcome, text = find(client, known.digest, known.size, sources)
                if outcome is not None:
                    return outcome, text, known
                if text:
                    client.cancel_upload(text)
        with PackedBlob(self._content, blob.descriptor.digest,
                        blob.descriptor.media_type) as packed:
            outcome = upload_packed(client, packed, attempts=attempts)
            return outcome, "", packed.descriptor()


def _with_packed_layers(document: StoredManifest,
                        packed: Mapping[Digest, Descriptor]) -> StoredManifest:
    """The manifest as it is, or with the descriptors of layers that were compressed on the way."""
    if not packed:
        return document
    fields = msgspec.json.decode(document.raw)
    for entry in fields["layers"]:
        if instead := packed.get(entry["digest"]):
            entry.update(mediaType=instead.media_type, digest=instead.digest, size=instead.size)
    raw = msgspec.json.encode(fields)
    return StoredManifest(raw=raw, media_type=document.media_type, digest=digests.of_bytes(raw))


def _ignore(_message: ProgressMessage) -> None:
    return None
