"""Cancelling ends what a thread waits for, whatever of a request that is."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from pallet.transfer.cancellation import Cancellation, current, under
from pallet.transfer.failures import UnreachableError
from pallet.transfer.threads import TransferThreads
from pallet.transfer.transport import Transport
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

# Far more than a cancelled request takes, far less than a request waits by itself.
_SOON_S = 10 * PATIENCE


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(_SOON_S)
        yield server


@pytest.mark.parametrize("size", [0, 64 << 20], ids=["no answer", "a body that nobody takes"])
async def test_a_silent_registry(silent: socket.socket, size: int) -> None:
    threads, transport = TransferThreads(1), Transport()
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/v2/"
    task = asyncio.create_task(threads.run(
        lambda: transport.request("PUT" if size else "GET", url, headers={}, body=bytes(size) or None)))
    connection, _ = await asyncio.to_thread(silent.accept)
    with connection:
        connection.settimeout(_SOON_S)
        assert await asyncio.to_thread(connection.recv, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, _SOON_S)
    await asyncio.to_thread(threads.close)
    transport.close()


def test_a_request_under_what_is_cancelled_asks_once(silent: socket.socket) -> None:
    """It is no pooled connection that the server had closed."""
    cancel, transport = Cancellation(), Transport()
    cancel.cancel()
    with pytest.raises(UnreachableError):
        under(cancel, lambda: transport.request("GET", f"http://127.0.0.1:{silent.getsockname()[1]}/", headers={}))
    silent.accept()[0].close()
    silent.setblocking(False)
    with pytest.raises(BlockingIOError):
        silent.accept()
    assert current() is None
    transport.close()
