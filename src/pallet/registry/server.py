"""A registry that listens: one process's worth of it, and ``pallet registry serve``.

Owns   what belongs to one server (store, routes, loop, collection, notifications) and the order of
       start and stop.
Runs   in the calling thread (``run``) or a thread of its own (``start``); ``serve`` forks workers
       (``serving/workers.py``), each with a server of its own.
Needs  an address to listen on and a directory.
Spec   RFC 9112 (``serving/connection.py``).
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pallet.registry.auth import OpenAccess
from pallet.registry.auth.guard import ReloadableAccess
from pallet.registry.auth.settings import TlsConfig
from pallet.registry.config import RegistryConfig, StorageConfig
from pallet.registry.events import Events
from pallet.registry.gc import Collector
from pallet.registry.mirror.open import open_mirror
from pallet.registry.proxies import Proxies
from pallet.registry.routes import Routes
from pallet.registry.serving import listeners, workers
from pallet.registry.serving.accesslog import AccessLog
from pallet.registry.serving.loop import Loop
from pallet.registry.serving.metrics import Cells, Metrics
from pallet.registry.serving.replies import ReplyCache
from pallet.registry.serving.service import MetricsService, RegistryService
from pallet.registry.store import open_store
from pallet.registry.tls import tls_context
from pallet.registry.webhooks import Courier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pallet.registry.auth import AccessControl
    from pallet.registry.gc import Collected

parse_address = listeners.parse_address


class RegistryServer:
    """A listening registry.

    Args:
        address: ``(host, port)``; port 0 takes a free one.
        root: where content is kept; made if it is not there.
        config: storage, database, collection; None is everything below ``root``.
        tls: certificate and key files, instead of the configuration's.
        reread: gives the configuration as it is now, for ``reload``.
        sockets: to use instead of listening on ``address``.
        metrics: where to count; of a worker among several.
        first: whether it does what one worker does for all.
    """

    service_class: type[RegistryService] = RegistryService

    def __init__(
        self, address: tuple[str, int], root: Path, *, access: AccessControl | None = None,
        allow_delete: bool = True, tls: tuple[Path, Path] | None = None,
        config: RegistryConfig | None = None, sockets: listeners.Sockets | None = None,
        metrics: Metrics | None = None, first: bool = True,
        reread: Callable[[], RegistryConfig] | None = None,
    ) -> None:
        self.config = config or RegistryConfig(storage=StorageConfig(root=str(root)))
        if tls is not None:
            self.config = replace(self.config, tls=TlsConfig(certificate=str(tls[0]), key=str(tls[1])))
        self._reread = reread
        context = tls_context(self.config.tls)
        self.sockets = sockets or listeners.Sockets.open(address, self.config.metrics.address)
        self.metrics = metrics or Metrics()
        try:
            self.store = open_store(self.config)
        except BaseException:
            self.sockets.close()
            raise
        self._access = access or OpenAccess()
        self._mirror = open_mirror(self.store, self.metrics.add)
        self.routes = Routes(self.store, self._access, allow_delete=allow_delete,
                             limits=self.config.limits, mirror=self._mirror,
                             proxies=Proxies(self.config.http.trusted_proxies),
                             events=Events(self.config.webhook, listeners.authority(self.sockets.main)))
        self._courier = Courier(self.config.webhook, self.store.metadata.deliveries, self.metrics.add)
        self.store.on_delivery = self._courier.wake
        self._collector = Collector(self.store, self._collected) if first else None
        self._cache = ReplyCache(self.store.metadata.database.watch(), self.config.http.cache_bytes,
                                 time.monotonic)
        self.authority = listeners.authority(self.sockets.main)
        self.scheme = "https" if context is not None else "http"
        self.service = self.service_class(self.routes, self._cache, self.metrics, self.authority, context)
        self._log = AccessLog(self.config.log)
        self._loop = Loop(self.config.http, self.metrics, self._log)
        self._loop.listen(self.sockets.main, self.service)
        if self.sockets.metrics is not None:
            self._loop.listen(self.sockets.metrics, MetricsService(self.metrics, self._figures))
        self._courier.start()
        self._thread: threading.Thread | None = None
        self._ended = False

    def _collected(self, done: Collected | None) -> None:
        self.metrics.add("gc_failures_total" if done is None else "gc_runs_total")
        if done is not None:
            self.metrics.add("gc_freed_bytes_total", done.freed_bytes)

    def _figures(self) -> Iterator[tuple[str, str, float]]:
        """What the database and the storage know."""
        figures = self.store.metadata.garbage.figures()
        yield "storage_bytes", "Bytes of the content of all repositories, each counted once.", figures.bytes
        yield "blobs", "Blobs in the storage.", figures.blobs
        yield "manifests", "Manifests in all repositories.", figures.manifests
        yield "upload_sessions", "Uploads begun and not ended.", figures.uploads
        yield "webhook_pending", "Notifications to deliver.", figures.pending
        yield "webhook_dead", "Notifications given up.", figures.dead
        free = self.store.driver.free_bytes()
        if free is not None:
            yield "storage_free_bytes", "Room left where content is stored.", free

    def start(self) -> None:
        """Serve in a thread of its own until ``stop``."""
        self._thread = threading.Thread(target=self._loop.run, name="pallet-registry", daemon=True)
        self._thread.start()

    def run(self) -> None:
        """Serve in this thread until another one calls ``end``."""
        try:
            self._loop.run()
        finally:
            self._release()

    def end(self, drain_s: float | None = None) -> None:
        """Accept nothing more; let the requests in work finish for so long (or as configured)."""
        wait_s = self.config.http.drain_s if drain_s is None else drain_s
        if self._mirror is not None:
            self._mirror.end(wait_s)
        self._loop.stop(wait_s)

    def reload(self) -> None:
        """Open the access log anew; read the certificate, users, rules, keys and rates again.

        Raises:
            PalletError: what is wrong with the new settings; where one is wrong, none of them counts.
        """
        self._loop.post(self._log.reopen)
        config = self.config if self._reread is None else self._reread()
        context = tls_context(config.tls)
        if isinstance(self._access, ReloadableAccess):
            self._access.reload(config)
        if self.scheme == "https" and context is not None:
            self.service.tls = context

    def stop(self) -> None:
        """Stop serving, close every connection. Uploads stay, for another replica or a restart."""
        if self._ended:
            return
        if self._thread is not None:
            self.end(0)
            self._thread.join()
        else:
            self.sockets.close()
        self._release()

    def _release(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._mirror is not None:
            self._mirror.close()
        self._courier.stop()
        if self._collector is not None:
            self._collector.stop()
        self._log.close()
        self._cache.close()
        self.store.close()


def serve(
    address: str, root: Path, *, allow_delete: bool = True, config: RegistryConfig | None = None,
    reread: Callable[[], RegistryConfig] | None = None, ready: Callable[[str], None] | None = None,
) -> None:
    """Run a registry in the foreground, in worker processes, until SIGTERM or SIGINT.

    Args:
        address: ``host:port``, ``:port`` or ``[v6]:port``.
        root: where content is kept.
        config: storage, database, serving, access; None is everything below ``root``, open to all.
        reread: gives the configuration as it is now, for SIGHUP.
        ready: called with ``host:port`` once it listens.

    Preconditions:
        The process has no other threads: it forks.

    Raises:
        InvalidParameterError: contradictory settings, or a file they name is wrong.
        PalletError: the database or the object store is not what the configuration says.
        OSError: the address cannot be listened on.
    """
    settings = config or RegistryConfig(storage=StorageConfig(root=str(root)))
    # Before the workers are forked, so that they count together, and errors appear once.
    access = ReloadableAccess(settings)
    tls_context(settings.tls)
    where = parse_address(address)
    with closing(open_store(settings)) as store:  # errors appear here, once
        mirror = open_mirror(store)
        if mirror is not None:
            mirror.close()
    AccessLog(settings.log).close()
    count = settings.http.worker_count
    cells = Cells(count)

    present = settings

    def make(index: int, sockets: listeners.Sockets) -> RegistryServer:
        return RegistryServer(where, root, access=access, allow_delete=allow_delete,
                              config=present, reread=reread, sockets=sockets, metrics=Metrics(cells, index),
                              first=index == 0)

    def reload() -> None:
        """So that a worker which takes another's place begins with what is in force."""
        nonlocal present
        if reread is not None:
            config = reread()
            if (tls_context(config.tls) is None) == (tls_context(present.tls) is None):
                present = replace(present, tls=config.tls)
            access.reload(config)

    with listeners.shared(where, settings.metrics.address, count) as sockets:
        supervisor = workers.Supervisor(make, sockets, cells, drain_s=settings.http.drain_s, reload=reload)
        supervisor.run(lambda: ready(listeners.authority(sockets[0].main)) if ready is not None else None)
