"""What a listener answers: the registry protocol, or metrics.

Owns   the way from a head and a body to a reply, failures included, and which replies are kept.
Runs   ``quick``, ``version`` and ``keep`` on the loop, ``respond`` in threads.
Needs  ``Routes`` and a ``ReplyCache``.
Spec   RFC 9110 13.1.2, 15.4.5 (conditional requests).
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from pallet.registry.codes import RegistryHttpError
from pallet.registry.messages import RegistryRequest, RegistryResponse, Stream
from pallet.registry.serving.bodies import BrokenRequestError
from pallet.registry.serving.metrics import CONTENT_TYPE
from pallet.registry.serving.replies import matches, refused, reply_of, unchanged

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from pallet.http.strict import StrictHead
    from pallet.registry.messages import RequestBody
    from pallet.registry.routes import Routes
    from pallet.registry.serving.metrics import Metrics
    from pallet.registry.serving.replies import Reply, ReplyCache

logger = logging.getLogger(__name__)


class RegistryService:
    """The registry protocol."""

    counted = True

    def client(self, head: StrictHead, peer: str) -> str:
        """See ``Service``."""
        return self._routes.client(head.headers, peer)

    def __init__(self, routes: Routes, cache: ReplyCache, metrics: Metrics, authority: str,
                 tls: ssl.SSLContext | None) -> None:
        self.tls = tls
        self._routes = routes
        self._cache = cache
        self._metrics = metrics
        self._authority = authority

    def quick(self, head: StrictHead, peer: str) -> Reply | None:
        """See ``Service``: replies from memory, to those whom no rule keeps from reading."""
        if head.method not in {"GET", "HEAD"} or "range" in head.headers:
            return None
        reply = self._cache.get(head.method, head.target)
        if reply is None or not self._routes.permits(head.method, head.target, head.headers, peer):
            return None
        self._metrics.hit()
        condition = head.headers.get("if-none-match")
        if condition is not None and reply.not_modified is not None and matches(condition, reply.etag):
            return reply.not_modified
        return reply

    def waits(self, head: StrictHead) -> bool:
        """See ``Service``."""
        return self._routes.may_wait(head.target)

    def logs_in(self, head: StrictHead) -> bool:
        """See ``Service``."""
        return self._routes.logs_in(head.method, head.target, head.headers)

    def log_in(self, head: StrictHead, peer: str) -> None:
        """See ``Service``."""
        self._routes.log_in(head.headers, peer)

    def version(self) -> int | None:
        """See ``Service``."""
        return self._cache.version()

    def keep(self, head: StrictHead, reply: Reply) -> None:
        """See ``Service``."""
        if reply.status == 200 and head.method in {"GET", "HEAD"} and "range" not in head.headers:
            self._cache.put(head.method, head.target, reply)

    def respond(self, head: StrictHead, body: RequestBody, peer: str, request_id: str) -> Reply:
        """See ``Service``."""
        path, _, query = head.target.partition("?")
        host = head.headers.get("host") or self._authority
        request = RegistryRequest(
            method=head.method, path=path, query=query, headers=head.headers, body=body, peer=peer,
            base_url=f"{'https' if self.tls is not None else 'http'}://{host}", request_id=request_id)
        try:
            response = self.answer(request)
            return self._ready(request, response)
        except BrokenRequestError:
            raise
        except Exception as error:
            status = 507 if isinstance(error, OSError) and error.errno == errno.ENOSPC else 500
            logger.exception("registry request failed: %s %s (request %s)", head.method, path, request_id)
            return reply_of(RegistryResponse(status=status, body=_UNKNOWN % request_id.encode(), headers={
                "Content-Type": "application/json; charset=utf-8"}))

    def answer(self, request: RegistryRequest) -> RegistryResponse:
        """The reply of the routes, or of one who stands between."""
        try:
            return self._routes.handle(request)
        except RegistryHttpError as error:
            return refused(error)

    def _ready(self, request: RegistryRequest, response: RegistryResponse) -> Reply:
        reading = request.method in {"GET", "HEAD"}
        if not (reading and response.status in {200, 206} and "ETag" in response.headers):
            return reply_of(response, bodiless=request.method == "HEAD")
        condition = request.headers.get("if-none-match")
        other = unchanged(response)
        if condition is not None and matches(condition, response.headers["ETag"]):
            if isinstance(response.body, Stream):
                response.body.close()
            return reply_of(other)
        reply = reply_of(response, bodiless=request.method == "HEAD")
        reply.not_modified = reply_of(other)
        return reply


_UNKNOWN = b'{"errors": [{"code": "UNKNOWN", "message": "unknown error", "detail": {"request": "%s"}}]}\n'


class MetricsService:
    """``GET /metrics``."""

    counted = False
    tls: ssl.SSLContext | None = None

    def __init__(self, metrics: Metrics, state: Callable[[], Iterable[tuple[str, str, float]]]) -> None:
        self._metrics = metrics
        self._state = state

    def client(self, head: StrictHead, peer: str) -> str:
        """See ``Service``."""
        return peer

    def quick(self, head: StrictHead, peer: str) -> Reply | None:
        """See ``Service``."""
        return None

    def waits(self, head: StrictHead) -> bool:
        """See ``Service``."""
        return False

    def logs_in(self, head: StrictHead) -> bool:
        """See ``Service``."""
        return False

    def log_in(self, head: StrictHead, peer: str) -> None:
        """See ``Service``."""

    def version(self) -> int | None:
        """See ``Service``."""
        return None

    def keep(self, head: StrictHead, reply: Reply) -> None:
        """See ``Service``."""

    def respond(self, head: StrictHead, body: RequestBody, peer: str, request_id: str) -> Reply:
        """See ``Service``; figures from a database that does not answer are left out."""
        if head.target.partition("?")[0] != "/metrics":
            return reply_of(RegistryResponse(status=404, body=b"404 page not found\n"))
        if head.method not in {"GET", "HEAD"}:
            return reply_of(RegistryResponse(status=405, headers={"Allow": "GET, HEAD"}))
        try:
            text = self._metrics.render(self._state)
        except Exception:
            logger.exception("no figures of the storage")
            text = self._metrics.render(tuple)
        return reply_of(RegistryResponse(status=200, body=text, headers={"Content-Type": CONTENT_TYPE}),
                        bodiless=head.method == "HEAD")
