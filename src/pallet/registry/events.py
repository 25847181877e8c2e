"""Notifications: what happened, in the form that Docker's registry gave it.

Owns   the documents, and which receivers hear of what.
Runs   anywhere; pure but for the clock and chance.
Needs  ``[[webhook]]`` of the configuration.
Spec   distribution "Notifications": envelope ``application/vnd.docker.distribution.events.v2+json``.
"""

from __future__ import annotations

import fnmatch
import json
import secrets
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from pallet.registry.metadata.records import Delivery

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pallet.registry.config import WebhookConfig
    from pallet.registry.messages import RegistryRequest
    from pallet.registry.metadata.records import ManifestRecord
    from pallet.types import Digest

ENVELOPE_TYPE: Final = "application/vnd.docker.distribution.events.v2+json"


class Events:
    """Makes the deliveries that something results in."""

    def __init__(self, receivers: Sequence[WebhookConfig] = (), source: str = "") -> None:
        """Begin.

        Args:
            source: ``host:port`` of this server.
        """
        self._receivers = receivers
        self._source = {"addr": source, "instanceID": str(uuid.uuid4())}

    def wanted(self, action: str, repository: str) -> list[str]:
        """Names of the receivers that want to hear of it."""
        return [receiver_name(one) for one in self._receivers if action in one.events
                and any(fnmatch.fnmatchcase(repository, pattern) for pattern in one.repositories)]

    def pushed(self, request: RegistryRequest, user: str, repository: str, record: ManifestRecord,
               tags: Sequence[str]) -> list[Delivery]:
        """A manifest came, with ``tags`` or without."""
        return self._manifest("push", request, user, repository, record, tags or [""])

    def pulled(self, request: RegistryRequest, user: str, repository: str, record: ManifestRecord,
               tag: str) -> list[Delivery]:
        """A manifest was sent to a client."""
        return self._manifest("pull", request, user, repository, record, [tag])

    def deleted(self, request: RegistryRequest, user: str, repository: str, *, digest: Digest | str = "",
                tag: str = "") -> list[Delivery]:
        """A manifest, a blob or a tag was deleted."""
        target = {"repository": repository, **({"digest": digest} if digest else {}),
                  **({"tag": tag} if tag else {})}
        return self._deliveries("delete", request, user, repository, target)

    def _manifest(self, action: str, request: RegistryRequest, user: str, repository: str,
                  record: ManifestRecord, tags: Iterable[str]) -> list[Delivery]:
        if not self.wanted(action, repository):
            return []
        size = len(record.raw)
        target: dict[str, Any] = {
            "mediaType": record.media_type, "size": size, "digest": record.digest, "length": size,
            "repository": repository, "url": f"{request.base_url}/v2/{repository}/manifests/{record.digest}"}
        references = _references(record.raw)
        if references:
            target["references"] = references
        return [delivery for tag in tags for delivery in self._deliveries(
            action, request, user, repository, {**target, **({"tag": tag} if tag else {})})]

    def _deliveries(self, action: str, request: RegistryRequest, user: str, repository: str,
                    target: dict[str, Any]) -> list[Delivery]:
        receivers = self.wanted(action, repository)
        if not receivers:
            return []
        now = time.time()
        event = {
            "id": str(uuid.uuid4()), "action": action, "target": target,
            "timestamp": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1e6):06}Z",
            "request": {"id": request.request_id, "addr": request.peer, "method": request.method,
                        "host": request.base_url.partition("://")[2],
                        "useragent": request.headers.get("user-agent", "")},
            "actor": {"name": user} if user else {}, "source": self._source}
        raw = json.dumps(event).encode()
        return [Delivery(id=secrets.token_hex(16), receiver=receiver, event=raw) for receiver in receivers]


def receiver_name(receiver: WebhookConfig) -> str:
    """What the queue knows a receiver by."""
    return receiver.name or receiver.url


def envelope(deliveries: Iterable[Delivery]) -> bytes:
    """The document that is sent."""
    return b'{"events": [' + b", ".join(delivery.event for delivery in deliveries) + b"]}"


def _references(raw: bytes) -> list[dict[str, Any]]:
    """Descriptors in a manifest."""
    try:
        document = json.loads(raw)
    except ValueError:
        return []
    if not isinstance(document, dict):
        return []
    listed = [document.get("config"), *(document.get("layers") or []), *(document.get("manifests") or [])]
    return [{key: entry[key] for key in ("mediaType", "digest", "size") if key in entry}
            for entry in listed if isinstance(entry, dict)]
