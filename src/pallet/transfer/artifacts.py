"""Manifests that are no images, and single blobs: what build caches in registries are made of.

Owns   nothing but the way there.
Runs   on the event loop; requests in transfer threads.
Needs  ``Resolver``, ``Transport``, ``Pusher``, ``ContentStore``.
Spec   distribution-spec "Pull", "Push".
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pallet.transfer.cancellation import Cancellation
from pallet.transfer.client import RepositoryClient
from pallet.transfer.failures import RegistryError, for_pull
from pallet.transfer.fetch import fetch
from pallet.transfer.push import PushBlob, PushImage, PushManifest, PushRequest
from pallet.transfer.retry import Retries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from pallet.spec.image import Descriptor, StoredManifest
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.transfer.auth import LoginCredentials
    from pallet.transfer.push import Pusher
    from pallet.transfer.resolver import Resolver
    from pallet.transfer.retry import RetryPolicy
    from pallet.transfer.threads import TransferThreads
    from pallet.transfer.transport import Transport

    T = TypeVar("T")


class Artifacts:
    """Reads and writes manifests and blobs of repositories."""

    def __init__(self, *, resolver: Resolver, transport: Transport, threads: TransferThreads,
                 content: ContentStore, pusher: Pusher, retry: RetryPolicy) -> None:
        self._resolver = resolver
        self._transport = transport
        self._threads = threads
        self._content = content
        self._pusher = pusher
        self._retry = retry

    async def manifest(self, reference: Reference, credentials: LoginCredentials) -> StoredManifest:
        """Return what a tag or digest names.

        Raises:
            NotFoundError: nothing, or nothing that the client may see.
            SystemFailureError: the registry cannot be reached.
        """
        name = reference.digest or reference.tag or ""
        return await self._ask(reference, credentials, lambda client, _cancel: client.manifest(name))

    async def fetch(self, reference: Reference, blob: Descriptor, credentials: LoginCredentials) -> None:
        """Bring a blob of a repository into the content store.

        Raises:
            NotFoundError, DataLossError, SystemFailureError: as ``transfer.blobs``.
        """
        if not self._content.has(blob.digest):
            await self._ask(reference, credentials, partial(self._fetch, blob))

    async def push(self, reference: Reference, document: StoredManifest, blobs: Sequence[Descriptor],
                   credentials: LoginCredentials) -> None:
        """Send blobs of the content store and the manifest that names them.

        Raises:
            DataLossError: a blob is not in the store.
            SystemFailureError: the registry refused or cannot be reached.
        """
        manifest = PushManifest(document=document, blobs=[PushBlob(descriptor=blob) for blob in blobs])
        await self._pusher.push(PushRequest(
            reference=reference.repository(), credentials=credentials,
            images=[PushImage(reference=reference, manifests=[manifest])]), lambda _message: None)

    async def _ask(self, reference: Reference, credentials: LoginCredentials,
                   question: Callable[[RepositoryClient, Cancellation], T]) -> T:
        failure: RegistryError | None = None
        for endpoint in await self._threads.run(partial(self._resolver.endpoints, reference.domain)):
            client = RepositoryClient(self._transport, endpoint, reference.path,
                                      credentials=self._resolver.credentials(endpoint, credentials))
            cancel = Cancellation()
            try:
                answer = await self._threads.run(partial(question, client, cancel), cancel)
            except RegistryError as error:
                failure = error
                continue
            self._resolver.answered(endpoint)
            return answer
        assert failure is not None, "there is always an endpoint"
        raise for_pull(failure, reference) from failure

    def _fetch(self, blob: Descriptor, client: RepositoryClient, cancel: Cancellation) -> None:
        with self._content.ingest(blob.digest) as ingest:
            fetch(lambda offset: client.blob(blob.digest, offset_bytes=offset), blob.size, ingest,
                  retries=Retries(self._retry, cancel), cancel=cancel, on_bytes=lambda _size: None)
            ingest.commit()
