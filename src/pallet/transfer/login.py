"""Checking credentials against a registry, and looking at a remote image.

Owns   ``POST /auth`` and ``GET /distribution/{name}/json``.
Runs   on the event loop; requests in transfer threads.
Needs  ``Resolver``, ``Transport``.
Spec   Docker token authentication (offline tokens); Engine API SystemAuth, DistributionInspect.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pallet.errors import UnauthorizedError
from pallet.spec import image
from pallet.transfer import failures
from pallet.transfer.client import RepositoryClient
from pallet.transfer.failures import RefusedError, RegistryError, UnreachableError
from pallet.transfer.resolver import login_domain
from pallet.transfer.transport import read_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.spec.image import Descriptor
    from pallet.spec.platform import Platform
    from pallet.spec.reference import Reference
    from pallet.transfer.auth import LoginCredentials
    from pallet.transfer.resolver import Endpoint, Resolver
    from pallet.transfer.threads import TransferThreads
    from pallet.transfer.transport import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteImage:
    """What a registry says a reference is; ``platforms`` in the index's order."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...]


class Registries:
    """Questions to registries that move no image."""

    def __init__(self, *, resolver: Resolver, transport: Transport,
                 threads: TransferThreads) -> None:
        self._resolver = resolver
        self._transport = transport
        self._threads = threads

    async def login(self, server_address: str, credentials: LoginCredentials) -> str:
        """Check credentials; the identity token to keep instead of the password, or "".

        Raises:
            UnauthorizedError: they are refused.
            SystemFailureError: the registry cannot be reached.
        """
        domain = login_domain(server_address)
        failure: RegistryError | None = None
        for endpoint in await self._endpoints(domain):
            client = RepositoryClient(self._transport, endpoint, "", credentials=credentials)
            try:
                await self._threads.run(client.ping)
            except UnreachableError as error:
                failure = UnreachableError("GET", f"{endpoint.url}/v2/", error.reason)
                continue
            except RefusedError as error:
                if error.status == 401 and not error.request_url:
                    message = (f"login attempt to {endpoint.url}/v2/ failed with status: "
                               "401 Unauthorized")
                    raise UnauthorizedError(message) from error
                raise failures.for_login(error) from error
            except RegistryError as error:
                raise failures.for_login(error) from error
            self._resolver.answered(endpoint)
            return client.authorizer.identity_token
        assert failure is not None
        raise failures.for_login(failure) from failure

    async def inspect(
        self, reference: Reference, credentials: LoginCredentials,
        headers: Mapping[str, str] | None = None,
    ) -> RemoteImage:
        """Ask what ``reference`` (tag or digest) is.

        Raises:
            NotFoundError: no such image, or no access.
            SystemFailureError: the registry cannot be reached.
        """
        failure: RegistryError | None = None
        for endpoint in await self._endpoints(reference.domain):
            client = RepositoryClient(self._transport, endpoint, reference.path,
                                      credentials=credentials, headers=headers)
            try:
                remote = await self._threads.run(partial(_look, client, reference))
            except RegistryError as error:
                if failures.is_final(error):
                    raise failures.for_inspect(error) from error
                failure = error
                continue
            self._resolver.answered(endpoint)
            return remote
        assert failure is not None
        raise failures.for_inspect(failure) from failure

    async def _endpoints(self, domain: str) -> list[Endpoint]:
        return await self._threads.run(partial(self._resolver.endpoints, domain, push=True))


def _look(client: RepositoryClient, reference: Reference) -> RemoteImage:
    stored = client.manifest(reference.digest or reference.tag or "latest")
    if stored.is_index:
        entries = stored.index().manifests
        found = tuple(entry.platform for entry in entries if entry.platform is not None)
        return RemoteImage(descriptor=stored.descriptor(), platforms=found)
    config = stored.manifest().config
    response = client.blob(config.digest)
    document = image.decode_config(read_document(response))
    return RemoteImage(descriptor=stored.descriptor(), platforms=(document.platform,))
