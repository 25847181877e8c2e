"""Searching for repositories: the version 1 index that Docker Hub still answers.

Owns   ``GET /v1/search`` of an index and what its answer means.
Runs   on the event loop; requests in transfer threads.
Needs  ``Resolver``, ``Transport``.
Spec   Docker registry v1 "Search"; Engine API ImageSearch.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import msgspec

from pallet.errors import SystemFailureError
from pallet.spec.reference import DEFAULT_DOMAIN
from pallet.transfer import failures
from pallet.transfer.failures import RegistryError, UnreachableError
from pallet.transfer.resolver import Endpoint
from pallet.transfer.transport import finish, read_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pallet.transfer.auth import LoginCredentials
    from pallet.transfer.resolver import Resolver
    from pallet.transfer.threads import TransferThreads
    from pallet.transfer.transport import Transport

INDEX_URL = "https://index.docker.io"


class FoundRepository(msgspec.Struct, frozen=True, kw_only=True):
    """One repository that an index names."""

    name: str = ""
    description: str | None = None
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    results: list[FoundRepository] | None = None


_decoder = msgspec.json.Decoder(_Page)


class Searcher:
    """Asks indexes for repositories."""

    def __init__(self, *, resolver: Resolver, transport: Transport,
                 threads: TransferThreads) -> None:
        self._resolver = resolver
        self._transport = transport
        self._threads = threads

    async def search(self, term: str, *, limit: int, credentials: LoginCredentials,
                     headers: Mapping[str, str]) -> list[FoundRepository]:
        """Repositories for ``term``, which may begin with an index's ``host[:port]/``.

        Raises:
            SystemFailureError: the index refused or cannot be reached.
        """
        domain, term = split_term(term)
        sent = dict(headers)
        if credentials.username:
            sent["Authorization"] = credentials.basic()
        if domain == DEFAULT_DOMAIN:
            endpoints = [Endpoint(url=INDEX_URL)]
            sent["X-Docker-Token"] = "true"
        else:
            endpoints = await self._threads.run(
                partial(self._resolver.endpoints, domain, push=True))
        query = urlencode({"n": limit, "q": term})
        failure: RegistryError | None = None
        for endpoint in endpoints:
            try:
                return await self._threads.run(
                    partial(self._ask, endpoint, f"{endpoint.url}/v1/search?{query}", sent))
            except UnreachableError as error:
                failure = error
        assert failure is not None
        raise SystemFailureError(str(failure)) from failure

    def _ask(self, endpoint: Endpoint, url: str,
             headers: Mapping[str, str]) -> list[FoundRepository]:
        response = self._transport.request("GET", url, headers=headers, insecure=endpoint.insecure)
        if response.status != 200:
            finish(response)
            message = f"Unexpected status code {response.status}"
            raise SystemFailureError(message)
        try:
            return _decoder.decode(read_document(response)).results or []
        except msgspec.DecodeError as error:
            message = f"error decoding registry search results: {error}"
            raise SystemFailureError(message) from error
        except failures.BadContentError as error:
            raise SystemFailureError(str(error)) from error


def split_term(term: str) -> tuple[str, str]:
    """``(domain, term)``: what is before the first "/" is a host if it looks like one."""
    head, slash, rest = term.partition("/")
    if not slash or not ("." in head or ":" in head or head == "localhost"):
        return DEFAULT_DOMAIN, term
    if head in {"docker.io", "index.docker.io"}:
        return DEFAULT_DOMAIN, rest
    return head, rest
