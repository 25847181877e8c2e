"""Pulling: from a reference to an image whose blobs and layers are all here.

Owns   the choice of endpoint, manifest and platform, and the order of a pull's messages.
Runs   on the event loop; requests in transfer threads.
Needs  ``Resolver``, ``Transport``, ``LayerPool``, ``ContentStore``; leases through a factory.
Spec   distribution-spec "Pull", image-spec image-index.md; texts as Docker's daemon gives them.

Nothing is recorded here: the caller records each image while the pull's lease protects its content.
A failure or cancellation leaves at most blobs and layers that the next collection removes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pallet.errors import DataLossError
from pallet.spec import image
from pallet.spec import platform as platforms
from pallet.spec.reference import DEFAULT_TAG
from pallet.transfer import failures, progress
from pallet.transfer.client import RepositoryClient
from pallet.transfer.failures import RegistryError, UnreachableError
from pallet.transfer.image_pull import ImagePull, PulledImage, PullTools

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pallet.errors import PalletError
    from pallet.spec.engine.progress import ProgressMessage
    from pallet.spec.image import StoredManifest
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.storage.content import ContentStore
    from pallet.transfer.auth import LoginCredentials
    from pallet.transfer.image_pull import Protection
    from pallet.transfer.layers import LayerPool
    from pallet.transfer.resolver import Endpoint, Resolver
    from pallet.transfer.threads import TransferThreads
    from pallet.transfer.transport import Transport

    Watcher = Callable[[ProgressMessage], None]
    Recorder = Callable[[PulledImage], Awaitable[bool]]


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """What to pull.

    Args:
        reference: with tag or digest; with neither and ``all_tags``, every tag.
        platform: None is the host's.
        headers: extra headers for the registry.
    """

    reference: Reference
    credentials: LoginCredentials
    platform: Platform | None = None
    all_tags: bool = False
    headers: Mapping[str, str]


class Puller:
    """Pulls images. One a daemon."""

    def __init__(
        self, *, resolver: Resolver, transport: Transport, threads: TransferThreads,
        layers: LayerPool, content: ContentStore, lease: Callable[[], Protection],
    ) -> None:
        """``lease`` opens a lease that protects what a pull brings until it is recorded."""
        self._resolver = resolver
        self._tools = PullTools(transport=transport, threads=threads, layers=layers,
                                content=content)
        self._lease = lease

    async def pull(self, request: PullRequest, watch: Watcher, record: Recorder) -> None:
        """Pull one image or every tag; messages go to ``watch``, on the loop.

        Args:
            record: records one image; whether that changed what its reference points to.

        Raises:
            NotFoundError: no such image, or no access (Docker does not tell the two apart).
            InvalidParameterError: a manifest type that is not supported.
            DataLossError: content that is not what its digest says.
            SystemFailureError: the registry cannot be reached or failed.
        """
        endpoints = await self._tools.threads.run(
            partial(self._resolver.endpoints, request.reference.domain))
        changed: bool | None = None
        while changed is None:
            client, first = await self._reach(request, endpoints)
            try:
                changed = await _Run(self, request, client, watch, record).all(first)
            except (RegistryError, DataLossError) as error:
                endpoints = endpoints[endpoints.index(client.endpoint) + 1:]
                if not client.endpoint.mirror or not endpoints:
                    raise _for_pull(error, request.reference) from error
                # What the mirror did bring is here; the next one, or the registry itself, has the rest.
                logger.warning("%s: mirror %s failed: %s", request.reference, client.endpoint.url, str(error))
        shown = request.reference.familiar()
        news = "Downloaded newer image" if changed else "Image is up to date"
        watch(progress.message(f"Status: {news} for {shown}"))

    async def _reach(
        self, request: PullRequest, endpoints: Sequence[Endpoint]
    ) -> tuple[RepositoryClient, StoredManifest | list[str]]:
        """Find the endpoint that has the image and ask it the first question."""
        reference = request.reference
        failure: RegistryError | None = None
        for endpoint in endpoints:
            client = self._client(endpoint, request)
            question: Callable[[], StoredManifest | list[str]] = (
                client.tags if request.all_tags else partial(client.manifest, _name(reference)))
            try:
                answer = await self._tools.threads.run(question)
            except UnreachableError as error:
                # Docker pings the endpoint first; its messages name that request.
                failure = UnreachableError("GET", f"{endpoint.url}/v2/", error.reason)
                continue
            except RegistryError as error:
                if not endpoint.mirror and failures.is_final(error):
                    raise failures.for_pull(error, reference) from error
                failure = error
                continue
            self._resolver.answered(endpoint)
            return client, answer
        assert failure is not None
        raise failures.for_pull(failure, reference) from failure

    def _client(self, endpoint: Endpoint, request: PullRequest) -> RepositoryClient:
        credentials = self._resolver.credentials(endpoint, request.credentials)
        return RepositoryClient(self._tools.transport, endpoint, request.reference.path,
                                credentials=credentials, headers=request.headers)

    @property
    def tools(self) -> PullTools:
        """What pulls of single images use."""
        return self._tools

    def lease(self) -> Protection:
        """Open a lease."""
        return self._lease()


class _Run:
    """One call of ``Puller.pull`` once an endpoint has answered."""

    def __init__(self, puller: Puller, request: PullRequest, client: RepositoryClient,
                 watch: Watcher, record: Recorder) -> None:
        self._puller = puller
        self._request = request
        self._client = client
        self._watch = watch
        self._record = record

    async def all(self, first: StoredManifest | list[str]) -> bool:
        """Pull the image of a manifest, or those of tags; whether anything changed."""
        if isinstance(first, image.StoredManifest):
            return await self.one(self._request.reference, first)
        changed = False
        for tag in first:
            reference = self._request.reference.with_tag(tag)
            try:
                manifest = await self._puller.tools.threads.run(
                    partial(self._client.manifest, _name(reference)))
            except RegistryError as error:
                raise self._failure(error, reference) from error
            changed |= await self.one(reference, manifest)
        return changed

    def _failure(self, error: RegistryError, reference: Reference) -> PalletError:
        """A mirror's failure is worded once nobody else has the image either."""
        return error if self._client.endpoint.mirror else failures.for_pull(error, reference)

    async def one(self, reference: Reference, target: StoredManifest) -> bool:
        pinned = reference.digest and str(reference.repository().with_digest(reference.digest))
        shown = pinned or _name(reference)
        self._watch(progress.message(f"Pulling from {reference.path}", shown))
        lease = self._puller.lease()
        try:
            pull = ImagePull(self._puller.tools, self._client, reference, lease, self._watch)
            pulled = await pull.run(target, self._request.platform or platforms.host())
            changed = await self._record(pulled)
        except RegistryError as error:
            raise self._failure(error, reference) from error
        finally:
            lease.end()
        self._watch(progress.message(f"Digest: {target.digest}"))
        return changed


def _for_pull(error: PalletError, reference: Reference) -> PalletError:
    return failures.for_pull(error, reference) if isinstance(error, RegistryError) else error


def _name(reference: Reference) -> str:
    """What to ask the registry for: the digest wins over the tag."""
    return reference.digest or reference.tag or DEFAULT_TAG
