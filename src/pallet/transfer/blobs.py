"""One blob fetched again from where its image came from.

Owns   the way of a single blob back into the content store, in place of a damaged one.
Runs   on the event loop; the transfer in a transfer thread.
Spec   distribution-spec "Pulling blobs".
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pallet.transfer.auth import LoginCredentials
from pallet.transfer.cancellation import Cancellation
from pallet.transfer.client import RepositoryClient
from pallet.transfer.failures import BadContentError, RegistryError, for_pull
from pallet.transfer.fetch import fetch
from pallet.transfer.resolver import login_domain
from pallet.transfer.retry import Retries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.spec.engine.auth import AuthConfig
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.transfer.resolver import Endpoint, Resolver
    from pallet.transfer.retry import RetryPolicy
    from pallet.transfer.threads import TransferThreads
    from pallet.transfer.transport import Transport
    from pallet.types import Digest


class BlobFetcher:
    """Fetches single blobs, anonymously unless it is made ``authenticated``."""

    def __init__(self, *, resolver: Resolver, transport: Transport, threads: TransferThreads,
                 content: ContentStore, retry: RetryPolicy,
                 credentials: Mapping[str, AuthConfig] | None = None) -> None:
        """``credentials`` are by registry, as in ``X-Registry-Config``."""
        self._resolver = resolver
        self._transport = transport
        self._threads = threads
        self._content = content
        self._retry = retry
        self._credentials = {login_domain(key): config for key, config in (credentials or {}).items()}

    def authenticated(self, credentials: Mapping[str, AuthConfig]) -> BlobFetcher:
        """Return one that uses these credentials, for the client they came from."""
        return BlobFetcher(resolver=self._resolver, transport=self._transport, threads=self._threads,
                           content=self._content, retry=self._retry, credentials=credentials)

    async def fetch(self, reference: Reference, digest: Digest, size_bytes: int) -> None:
        """Bring ``digest`` in from ``reference``'s repository; what is stored under it is replaced.

        Raises:
            NotFoundError: the registry has no such blob, or does not show it.
            DataLossError: it sends other bytes.
            SystemFailureError: it cannot be reached or failed.
        """
        failure: RegistryError | None = None
        for endpoint in await self._threads.run(
                partial(self._resolver.endpoints, reference.domain)):
            cancel = Cancellation()
            try:
                await self._threads.run(
                    partial(self._fetch, endpoint, reference, digest, size_bytes, cancel), cancel)
            except RegistryError as error:
                failure = error
                continue
            self._resolver.answered(endpoint)
            return
        assert failure is not None, "there is always an endpoint"
        raise for_pull(failure, reference) from failure

    async def fetch_manifest(self, reference: Reference, digest: Digest) -> None:
        """Bring a manifest or index in again. Raises as ``fetch``."""
        failure: RegistryError | None = None
        for endpoint in await self._threads.run(
                partial(self._resolver.endpoints, reference.domain)):
            try:
                await self._threads.run(partial(self._fetch_manifest, endpoint, reference, digest))
            except RegistryError as error:
                failure = error
                continue
            self._resolver.answered(endpoint)
            return
        assert failure is not None, "there is always an endpoint"
        raise for_pull(failure, reference) from failure

    def _client(self, endpoint: Endpoint, reference: Reference) -> RepositoryClient:
        login = LoginCredentials.from_config(self._credentials.get(login_domain(reference.domain)))
        return RepositoryClient(self._transport, endpoint, reference.path,
                                credentials=self._resolver.credentials(endpoint, login))

    def _fetch_manifest(self, endpoint: Endpoint, reference: Reference, digest: Digest) -> None:
        client = self._client(endpoint, reference)
        with self._content.ingest(digest) as ingest:
            ingest.write(client.manifest(digest).raw)
            ingest.replace()

    def _fetch(self, endpoint: Endpoint, reference: Reference, digest: Digest, size_bytes: int,
               cancel: Cancellation) -> None:
        client = self._client(endpoint, reference)
        # One question first: a wrong scheme or an absent registry is not worth any retry.
        if not client.has_blob(digest):
            message = f"{reference.familiar_name} has no blob {digest}"
            raise BadContentError(message)
        with self._content.ingest(digest) as ingest:
            fetch(lambda offset: client.blob(digest, offset_bytes=offset), size_bytes, ingest,
                  retries=Retries(self._retry, cancel), cancel=cancel, on_bytes=lambda _: None)
            ingest.replace()
