"""Everything that talks to registries, put together for one daemon.

Owns   the shared parts of pulls, pushes and logins, and their shutdown.
Runs   on the event loop.
Needs  the stores and the ``Supervisor``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pallet.transfer.artifacts import Artifacts
from pallet.transfer.blobs import BlobFetcher
from pallet.transfer.layers import LayerPool
from pallet.transfer.login import Registries
from pallet.transfer.proxies import ProxySettings
from pallet.transfer.pull import Puller
from pallet.transfer.push import Pusher
from pallet.transfer.resolver import Resolver
from pallet.transfer.retry import RetryPolicy
from pallet.transfer.search import Searcher
from pallet.transfer.threads import TransferThreads
from pallet.transfer.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pallet.config import RegistryConfig
    from pallet.storage.content import ContentStore
    from pallet.storage.snapshot import Snapshotter
    from pallet.transfer.image_pull import Protection
    from pallet.transfer.layer_job import WorkerRunner


class Transfers:
    """``puller``, ``pusher`` and ``registries`` of one daemon, over shared connections."""

    def __init__(
        self, config: RegistryConfig, *, content: ContentStore, snapshotter: Snapshotter,
        workers: WorkerRunner, lease: Callable[[], Protection],
        environ: Mapping[str, str] | None = None, retry_base_s: float = 1.0,
    ) -> None:
        """Make them; nothing is connected yet.

        Args:
            workers: the ``Supervisor``, which unpacks layers.
            lease: opens a lease, ``Lease(metadata)``.
            environ: where proxies are read from; None is the process's environment.
        """
        resolver = Resolver(config)
        parallel = config.max_concurrent_downloads + config.max_concurrent_uploads
        self._transport = Transport(
            proxies=ProxySettings.from_environment(os.environ if environ is None else environ),
            max_connections=parallel)
        self.threads = TransferThreads(parallel)
        retry = RetryPolicy(attempts=config.max_download_attempts, base_s=retry_base_s)
        self.layers = LayerPool(
            content, snapshotter, workers, self.threads, retry=retry,
            max_downloads=config.max_concurrent_downloads)
        self.puller = Puller(resolver=resolver, transport=self._transport, threads=self.threads,
                             layers=self.layers, content=content, lease=lease)
        self.pusher = Pusher(resolver=resolver, transport=self._transport, threads=self.threads,
                             content=content, max_uploads=config.max_concurrent_uploads,
                             retry=retry)
        self.registries = Registries(resolver=resolver, transport=self._transport,
                                     threads=self.threads)
        self.searcher = Searcher(resolver=resolver, transport=self._transport,
                                 threads=self.threads)

        self.artifacts = Artifacts(resolver=resolver, transport=self._transport, threads=self.threads,
                                   content=content, pusher=self.pusher, retry=retry)
        self.blobs = BlobFetcher(resolver=resolver, transport=self._transport,
                                 threads=self.threads, content=content, retry=retry)

    async def close(self) -> None:
        """Stop what is in progress, wait for its clean-up and close every connection."""
        await self.layers.close()
        self.threads.close()
        self._transport.close()
