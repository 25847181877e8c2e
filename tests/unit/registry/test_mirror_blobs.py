"""registry/mirror/blobs: readers of a blob on its way let go of it once, however their requests end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import pytest

from pallet.registry.codes import RegistryHttpError
from pallet.registry.messages import RegistryRequest
from pallet.registry.mirror.blobs import MirroredBlobs
from pallet.registry.mirror.flights import Flight
from pallet.registry.mirror.settings import MirrorConfig, Target, UpstreamConfig
from pallet.registry.server import RegistryServer
from pallet.registry.serving.bodies import MemoryBody
from pallet.spec import digest as digests
from tests.support import registrystore as stores

if TYPE_CHECKING:
    from pathlib import Path

    from pallet.registry.messages import RegistryResponse

BLOB = b"content"
DIGEST = digests.of_bytes(BLOB)


class Boarding:
    """Everybody boards the one flight."""

    def __init__(self, flight: Flight) -> None:
        self.flight = flight

    def board(self, *_: Any) -> Flight:
        return self.flight


def test_a_refusal_by_the_store_leaves_other_readers_their_file(tmp_path: Path) -> None:
    file = tmp_path / "part"
    file.write_bytes(BLOB)
    flight = Flight(file, DIGEST, "a")
    flight.opened(os.open(file, os.O_RDONLY))
    flight.note(0, len(BLOB))
    assert flight.enter()  # the other reader
    assert flight.enter()  # the request
    other = flight.read(0, len(BLOB))
    flight.end(None)
    flight.size = None  # as with one that another process has landed: nobody here knew the size
    server = RegistryServer(("127.0.0.1", 0), tmp_path / "store", config=stores.settings(tmp_path / "store"))
    blobs = MirroredBlobs(server.store, MirrorConfig(), cast("Any", None), lambda *_: None)
    blobs._flights = cast("Any", Boarding(flight))
    upstream = UpstreamConfig(host="u")
    target = Target(upstream=upstream, host="u", path="a", name="a", subject="a", by_namespace=False, allowed=True)
    request = RegistryRequest(method="GET", path="", query="", headers={}, body=MemoryBody(), base_url="")

    def gone() -> RegistryResponse:
        raise RegistryHttpError("BLOB_UNKNOWN", {})

    with pytest.raises(RegistryHttpError):
        blobs._fetched(request, target, DIGEST, gone)
    flight.size = len(BLOB)
    assert b"".join(other) == BLOB
    flight.leave()
    server.stop()
