"""Asking upstream registries: endpoints, credentials by repository, and leaving alone what failed.

Owns   clients of upstream repositories and what is known of each upstream's health.
Runs   in the server's threads and those that fetch blobs.
Needs  ``transfer/``: token authentication, proxies from the environment, ``certs.d``.
Spec   distribution-spec "Error codes" for what clients are told when upstream says no.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pallet.config import RegistryConfig as DaemonRegistries
from pallet.registry.codes import RegistryHttpError
from pallet.registry.mirror.settings import ANY_HOST
from pallet.spec import image
from pallet.transfer.auth import LoginCredentials
from pallet.transfer.client import RepositoryClient
from pallet.transfer.failures import BadContentError, RefusedError, RegistryError, UnreachableError
from pallet.transfer.proxies import ProxySettings
from pallet.transfer.resolver import Endpoint, Resolver
from pallet.transfer.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pallet.registry.mirror.settings import MirrorConfig, Target

    Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)

ACCEPT = ", ".join((*image.MANIFEST_TYPES, "*/*"))
_KEPT_CLIENTS = 256
_MOST_REST_S = 300.0
_UNREACHABLE_S = 2.0
_OFFLINE_STATUSES = frozenset({408, 429})


class OfflineError(Exception):
    """Upstream gave no answer that means anything: unreachable, overloaded, out of order.

    Args:
        retry_after_s: what upstream asked for, or how long it is left alone.
    """

    def __init__(self, text: str, *, status: int = 503, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s

    def refusal(self) -> RegistryHttpError:
        """What a client is told when there is nothing to answer with."""
        code = "TOOMANYREQUESTS" if self.status == 429 else "UNAVAILABLE"
        headers = {"Retry-After": str(max(1, round(self.retry_after_s)))}
        return RegistryHttpError(code, str(self), headers=headers)


class Upstreams:
    """Every upstream of a mirror. Thread-safe."""

    def __init__(self, config: MirrorConfig,
                 count: Callable[[str, float], None] = lambda _name, _value: None) -> None:
        """Raises InvalidParameterError when a password's file cannot be read."""
        self._config = config
        self._count = count
        self._transport = Transport(
            proxies=ProxySettings.from_environment(os.environ), connect_timeout_s=config.timeout_s,
            read_timeout_s=config.timeout_s * 4, max_connections=config.max_fetches * 2,
            guarded=True)  # what a redirect leads to is sent on to clients before anybody can verify it
        self._plain = Resolver(DaemonRegistries(insecure=tuple(
            one.host for one in config.upstream if one.insecure and not one.url)))
        self._credentials = {
            one.host: [(rule.repositories, LoginCredentials(
                username=rule.username, password=rule.secret(), identity_token=rule.identity_token))
                for rule in one.credentials]
            for one in config.upstream}
        self._lock = threading.Lock()
        self._clients: OrderedDict[tuple[str, str], list[RepositoryClient]] = OrderedDict()
        self._rests: dict[str, tuple[float, float, OfflineError]] = {}
        """By host: until when it is not asked, also by those with nothing to answer with, and why."""

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()

    def ask(self, target: Target, question: Callable[[RepositoryClient], Answer], *,
            spare: bool = False) -> Answer:
        """Put a question to the target's upstream.

        Args:
            spare: there is something to answer with: an upstream that failed a moment ago is not asked.

        Raises:
            OfflineError: no answer.
            RegistryHttpError: upstream says that it is not there (404), or not for us (403).
        """
        with self._lock:
            until, patience, failure = self._rests.get(target.host, (0.0, 0.0, None))
        if failure is not None and (until if spare else patience) > time.monotonic():
            raise failure
        try:
            answer = self._put(target, question)
        except RegistryError as error:
            raise self.judge(target, error) from error
        with self._lock:
            self._rests.pop(target.host, None)
        return answer

    def _put(self, target: Target, question: Callable[[RepositoryClient], Answer]) -> Answer:
        clients = self.clients(target)
        for last, client in zip((*(False for _ in clients[1:]), True), clients, strict=True):
            try:
                answer = question(client)
            except UnreachableError:
                if last:
                    raise
                continue
            if client is not clients[0]:  # an insecure registry without TLS: at once from now on
                with self._lock:
                    self._clients[target.host, target.path] = [client, *(c for c in clients if c is not client)]
            return answer
        raise AssertionError

    def clients(self, target: Target) -> list[RepositoryClient]:
        """Clients for the repository, in the order in which they are tried."""
        key = (target.host, target.path)
        with self._lock:
            found = self._clients.get(key)
            if found is not None:
                self._clients.move_to_end(key)
                return found
        credentials = self._credentials_for(target)
        made = [RepositoryClient(self._transport, endpoint, target.path, credentials=credentials)
                for endpoint in self._endpoints(target)]
        with self._lock:
            self._clients[key] = made
            while len(self._clients) > _KEPT_CLIENTS:
                self._clients.popitem(last=False)
        return made

    def _endpoints(self, target: Target) -> list[Endpoint]:
        upstream = target.upstream
        if upstream.url:
            url = upstream.url.replace("{host}", target.host).rstrip("/")
            insecure = upstream.insecure or self._plain.is_insecure(urlsplit(url).netloc)
            return [Endpoint(url=url, insecure=insecure)]
        if upstream.insecure and upstream.host == ANY_HOST:
            return [Endpoint(url=f"{scheme}://{target.host}", insecure=True) for scheme in ("https", "http")]
        return self._plain.endpoints(target.host)

    def _credentials_for(self, target: Target) -> LoginCredentials:
        for patterns, credentials in self._credentials[target.upstream.host]:
            if any(fnmatchcase(target.path, pattern) for pattern in patterns):
                return credentials
        return LoginCredentials()

    def judge(self, target: Target, error: RegistryError) -> OfflineError | RegistryHttpError:
        """What a failure means for the client, and for the next questions to this upstream."""
        if isinstance(error, RefusedError) and error.request_url and error.status in {401, 403, 404}:
            return RegistryHttpError("DENIED", f"{target.host}: {error}")
        if isinstance(error, RefusedError) and 400 <= error.status < 500 \
                and error.status not in _OFFLINE_STATUSES:
            if error.status in {401, 403}:
                return RegistryHttpError("DENIED", f"{target.host}: {error}")
            code = error.code if error.code in {"NAME_UNKNOWN", "BLOB_UNKNOWN"} else "MANIFEST_UNKNOWN"
            return RegistryHttpError(code, f"{target.host}: {error}")
        if isinstance(error, UnreachableError) and error.reason == "no basic auth credentials":
            return RegistryHttpError("DENIED", f"{target.host}: {error}")
        if isinstance(error, BadContentError):
            return OfflineError(f"{target.host}: {error}")
        status = error.status if isinstance(error, RefusedError) else 503
        asked_s = error.retry_after_s if isinstance(error, RefusedError) else 0.0
        rest_s = min(max(asked_s, self._config.retry_s), _MOST_REST_S)
        failure = OfflineError(f"{target.host}: {error}", status=status, retry_after_s=rest_s)
        with self._lock:
            # Whoever has nothing else asks again soon, but does not queue up for the time-out.
            now = time.monotonic()
            patience = now + min(_UNREACHABLE_S, rest_s) if isinstance(error, UnreachableError) else 0.0
            self._rests[target.host] = (now + rest_s, patience, failure)
        self._count("mirror_failures_total", 1)
        logger.warning("upstream %s does not answer for %s: %s", target.host, target.path, error)
        return failure
