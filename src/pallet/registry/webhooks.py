"""Delivery of notifications to their receivers.

Owns   a thread for each receiver, which empties its queue.
Runs   in every worker of every replica; the queue gives each delivery to one at a time.
Needs  the metadata; urllib3, imported when there is a receiver.
Spec   distribution "Notifications"; ``X-Hub-Signature-256`` is HMAC-SHA-256 of the body, in hex.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
from typing import TYPE_CHECKING, Final

from pallet import __version__
from pallet.registry.events import ENVELOPE_TYPE, envelope, receiver_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import urllib3

    from pallet.registry.config import WebhookConfig
    from pallet.registry.metadata.deliveries import DeliveryTables
    from pallet.registry.metadata.records import Delivery

logger = logging.getLogger(__name__)

_BATCH: Final = 32
_POLL_S: Final = 2.0
_LONGEST_S: Final = 600.0
_LEASE_S: Final = 5.0
"""Beyond the time-out of the request."""
_KEPT_S: Final = 7 * 86400.0
_PURGE_TURNS: Final = 1800
_PATIENCE_S: Final = 3.0


class Courier:
    """Delivers until ``stop``.

    Args:
        count: told of deliveries and failures (``webhook_deliveries_total``, ``webhook_failures_total``).
    """

    def __init__(self, receivers: Sequence[WebhookConfig], queue: DeliveryTables,
                 count: Callable[[str, float], None]) -> None:
        self._queue = queue
        self._count = count
        self._stopped = False
        self._rounds = [_Round(self, receiver) for receiver in receivers]

    def start(self) -> None:
        """Begin with what is in the queue."""
        for one in self._rounds:
            one.thread.start()

    def wake(self) -> None:
        """Look at the queue now."""
        for one in self._rounds:
            one.due.set()

    def stop(self) -> None:
        """End; what is on its way may be delivered again."""
        self._stopped = True
        self.wake()
        for one in self._rounds:
            if one.thread.is_alive():
                one.thread.join(_PATIENCE_S)

    def empty(self, receiver: WebhookConfig, pool: urllib3.PoolManager) -> None:
        """Deliver what is due for one receiver."""
        while not self._stopped:
            taken = self._queue.take(receiver_name(receiver), _BATCH, receiver.timeout_s + _LEASE_S)
            if not taken:
                return
            problem = post(pool, receiver, taken)
            if not problem:
                self._queue.delivered(taken)
                self._count("webhook_deliveries_total", len(taken))
                continue
            self._count("webhook_failures_total", 1)
            for delivery in taken:
                given_up = delivery.attempts > receiver.retries
                logger.log(logging.ERROR if given_up else logging.WARNING, "webhook %s, attempt %d%s: %s",
                           receiver_name(receiver), delivery.attempts, ", given up" if given_up else "", problem)
                self._queue.failed(delivery, problem, None if given_up else back_off_s(delivery.attempts))

    def run(self, receiver: WebhookConfig, due: threading.Event) -> None:
        """Deliver to one receiver until ``stop``."""
        import urllib3

        pool = urllib3.PoolManager(num_pools=1, maxsize=1, retries=False)
        turn = 0
        while not self._stopped:
            due.clear()
            try:
                self.empty(receiver, pool)
                if turn % _PURGE_TURNS == 0:
                    self._queue.purge(_KEPT_S)
            except Exception:
                logger.exception("webhook %s: the queue cannot be read", receiver_name(receiver))
            turn += 1
            if not self._stopped:
                due.wait(_POLL_S)
        pool.clear()


class _Round:
    def __init__(self, courier: Courier, receiver: WebhookConfig) -> None:
        self.due = threading.Event()
        self.thread = threading.Thread(target=courier.run, args=(receiver, self.due),
                                       name="pallet-registry-webhook", daemon=True)


def back_off_s(attempts: int) -> float:
    """Seconds until the next attempt, with some chance in it."""
    longest: float = min(2.0 ** min(attempts, 16), _LONGEST_S)
    return longest * (0.75 + secrets.randbelow(500) / 1000)


def post(pool: urllib3.PoolManager, receiver: WebhookConfig, deliveries: Sequence[Delivery]) -> str:
    """Send an envelope; "" or what went wrong."""
    import urllib3

    from pallet.transfer.transport import finish

    body = envelope(deliveries)
    headers = {"Content-Type": ENVELOPE_TYPE, "User-Agent": f"pallet/{__version__}", **receiver.headers}
    if receiver.secret:
        headers["X-Hub-Signature-256"] = signature(receiver.secret, body)
    try:
        reply = pool.request("POST", receiver.url, body=body, headers=headers, redirect=False,
                             timeout=urllib3.Timeout(total=receiver.timeout_s), preload_content=False)
        finish(reply)  # unread, it would be taken for the beginning of the next answer
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return "" if 200 <= reply.status < 300 else f"answered {reply.status}"


def signature(secret: str, body: bytes) -> str:
    """Value of ``X-Hub-Signature-256``."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
