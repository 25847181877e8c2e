"""Blobs of mirrored repositories: from the store, from one that is on its way, or straight through.

Owns   the choice among these, and collecting early when much has come.
Runs   in the server's threads.
Needs  ``RegistryStore``; ``Upstreams`` and ``Flights``.
Spec   distribution-spec "Pulling blobs".

What is here for one repository is given to another only if upstream says that it has it as well.
"""

from __future__ import annotations

import logging
import secrets
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pallet.registry.codes import RegistryHttpError
from pallet.registry.gc import take_turn
from pallet.registry.messages import RegistryResponse, Stream
from pallet.registry.mirror.flights import FlightError, Flights, Route
from pallet.registry.mirror.settings import DIRECTORY
from pallet.registry.mirror.upstreams import OfflineError
from pallet.registry.ranges import byte_range
from pallet.transfer.failures import RefusedError, RegistryError, UnreachableError
from pallet.transfer.transport import CHUNK_BYTES, abandon, finish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from urllib3.response import HTTPResponse

    from pallet.registry.messages import RegistryRequest
    from pallet.registry.mirror.settings import MirrorConfig, Target
    from pallet.registry.mirror.upstreams import Upstreams
    from pallet.registry.store import RegistryStore
    from pallet.transfer.client import RepositoryClient
    from pallet.types import Digest

logger = logging.getLogger(__name__)

USE_S = 300.0
"""Uses are noted no more often than this."""
_BUDGET_PARTS = 20
"""A collection each time that so much of the budget has come."""
_PATIENCE_S = 5.0


class MirroredBlobs:
    """Answers requests on blobs."""

    def __init__(self, store: RegistryStore, config: MirrorConfig, upstreams: Upstreams,
                 count: Callable[[str, float], None]) -> None:
        self._store = store
        self._count = count
        self._budget_bytes = config.budget_bytes
        self._upstreams = upstreams
        self._flights = Flights(Path(store.config.storage.root) / DIRECTORY, config.max_fetches)
        self._lock = threading.Lock()
        self._holder = secrets.token_hex(8)
        self._new_bytes = 0
        self._collecting: threading.Thread | None = None
        self._ending: threading.Timer | None = None

    def end(self, wait_s: float) -> None:
        """End what is still being fetched in so many seconds; it goes on from there the next time."""
        self._ending = threading.Timer(wait_s, self._flights.cancel)
        self._ending.daemon = True
        self._ending.start()

    def close(self) -> None:
        """End what is being fetched, at once."""
        if self._ending is not None:
            self._ending.cancel()
            self._ending.join()
        self._flights.stop()
        if self._collecting is not None:
            self._collecting.join(_PATIENCE_S)

    def answer(self, request: RegistryRequest, target: Target, digest: Digest,
               local: Callable[[], RegistryResponse]) -> RegistryResponse:
        """Answer GET or HEAD of a blob.

        Args:
            local: the answer of the store, about ``target.name``.

        Raises:
            OfflineError, RegistryHttpError: there is nothing to answer with.
        """
        content, name = self._store.metadata.content, target.name
        writable = self._store.capacity.writable()
        if content.blob(name, digest) is not None:
            if writable:
                content.touch_blob(name, digest, self._store.metadata.database.now() - USE_S)
            return local()
        if request.method == "HEAD" or (writable and self._store.holders(digest)):
            size = self._upstreams.ask(target, lambda client: _size(client, digest))
            # It is here already, for another repository: upstream lets this one have it too.
            if writable and self._store.mount(name, digest):
                return local()
            if request.method == "HEAD":
                return _announced(digest, size)
        if not writable:
            return self._passed(request, target, digest)
        return self._fetched(request, target, digest, local)

    def _fetched(self, request: RegistryRequest, target: Target, digest: Digest,
                 local: Callable[[], RegistryResponse]) -> RegistryResponse:
        """What arrives from upstream, while it arrives."""
        flight = self._flights.board(digest, self._route(target, digest))
        try:
            size = flight.wait_for_size()
            part = _part(request, digest, size) if size else None
            if part is None:  # over already, or nothing to stream
                flight.wait()
        except FlightError as error:
            flight.leave()
            raise self._refusal(target, error) from error
        except BaseException:
            flight.leave()
            raise
        if part is None:
            flight.leave()
            return local()
        first, last, headers = part
        return RegistryResponse(
            status=206 if "Content-Range" in headers else 200, headers=headers,
            body=Stream(chunks=flight.read(first, last - first + 1), length=last - first + 1,
                        close=flight.leave))

    def _route(self, target: Target, digest: Digest) -> Route:
        def open_at(offset: int) -> HTTPResponse:
            clients = self._upstreams.clients(target)
            for client in clients[:-1]:
                with suppress(UnreachableError):
                    return client.blob(digest, offset_bytes=offset)
            return clients[-1].blob(digest, offset_bytes=offset)

        def land(names: set[str], file: Path, size: int) -> None:
            self._store.uploads.take(target.name, file, size, digest)
            for name in names - {target.name}:
                self._store.mount(name, digest)
            self._count("mirror_fetches_total", 1)
            self._count("mirror_fetched_bytes_total", size)
            self._grew(size)

        def verify() -> int:
            return self._upstreams.ask(target, lambda client: _size(client, digest))

        def has_landed() -> bool:
            if not self._store.holders(digest):
                return False
            verify()
            return self._store.mount(target.name, digest)

        return Route(name=target.name, open_at=open_at, land=land, verify=verify, has_landed=has_landed)

    def _grew(self, size: int) -> None:
        """Collect before the next time for it when much has come since."""
        with self._lock:
            self._new_bytes += size
            due = 0 < self._budget_bytes < self._new_bytes * _BUDGET_PARTS
            due = due and (self._collecting is None or not self._collecting.is_alive())
            if not due:
                return
            self._new_bytes = 0
            self._collecting = threading.Thread(target=self._collect, name="pallet-registry-evict", daemon=True)
            self._collecting.start()

    def _collect(self) -> None:
        try:
            take_turn(self._store, self._holder)
        except Exception:
            logger.exception("collection failed")

    def _refusal(self, target: Target, error: FlightError) -> RegistryHttpError | OfflineError:
        cause = error.__cause__
        if isinstance(cause, (RegistryHttpError, OfflineError)):
            return cause
        if isinstance(cause, RegistryError):
            judged = self._upstreams.judge(target, cause)
            if isinstance(judged, RegistryHttpError) and judged.status == 404:
                return RegistryHttpError("BLOB_UNKNOWN", judged.detail)
            return judged
        return OfflineError(f"{target.host}: {error}", retry_after_s=1)

    def _passed(self, request: RegistryRequest, target: Target, digest: Digest) -> RegistryResponse:
        """What upstream sends, without keeping it: the disk is full."""
        size = self._upstreams.ask(target, lambda client: _size(client, digest))
        first, last, headers = _part(request, digest, size)
        response = self._upstreams.ask(target, lambda client: client.blob(digest, offset_bytes=first))
        skip = first if response.status == 200 else 0
        return RegistryResponse(
            status=206 if "Content-Range" in headers else 200, headers=headers,
            body=Stream(chunks=_relayed(response, skip, last - first + 1), length=last - first + 1,
                        close=response.close))


def _size(client: RepositoryClient, digest: Digest) -> int:
    """The blob's size, 0 if it is not told; RefusedError unless upstream has it for us."""
    try:
        text = client.head("blobs", digest).get("Content-Length", "")
    except RefusedError as error:
        if error.status == 404:
            error.code = "BLOB_UNKNOWN"
        if error.status not in {400, 403, 405}:
            raise
        # Storage that a registry redirects to may take nothing but GET.
        response = client.blob(digest)
        text = response.headers.get("Content-Length", "")
        abandon(response)
    return int(text) if text.isdigit() else 0


def _announced(digest: Digest, size: int) -> RegistryResponse:
    return RegistryResponse(status=200, headers=_headers(digest), body=Stream(chunks=iter(()), length=size))


def _headers(digest: Digest) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}


def _part(request: RegistryRequest, digest: Digest, size: int) -> tuple[int, int, dict[str, str]]:
    """First and last byte that a request wants, and the reply's headers."""
    headers = _headers(digest)
    wanted = byte_range(request, headers["ETag"], size)
    if wanted is None:
        return 0, size - 1, headers
    headers["Content-Range"] = f"bytes {wanted[0]}-{wanted[1]}/{size}"
    return *wanted, headers


def _relayed(response: HTTPResponse, skip: int, length: int) -> Iterator[bytes]:
    left = length
    while left and (chunk := response.read(CHUNK_BYTES, decode_content=False)):
        dropped = min(skip, len(chunk))
        skip -= dropped
        piece = chunk[dropped:][:left]
        left -= len(piece)
        if piece:
            yield piece
    if not left:
        finish(response)
