"""Answering for mirrored repositories: bring what is asked for into the store, then let the store answer.

Owns   when upstream is asked, what is served without it, and what clients are told then.
Runs   in the server's threads.
Needs  ``RegistryStore``; ``Upstreams`` and ``Flights``.
Spec   distribution-spec "Pull", "Warnings"; RFC 9111 for the idea of stale answers.

Digests are asked for once, tags again when they are older than their time to live. Upstream that is
away, overloaded or broken leaves what is here; upstream that says "no such tag" takes it away.
Manifests are stored before their blobs, so they name none in the metadata (``metadata/mirrored.py``).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, parse_qsl, urlsplit

import msgspec

from pallet.errors import InvalidParameterError
from pallet.registry.codes import RegistryHttpError
from pallet.registry.manifests import record_of
from pallet.registry.messages import RegistryResponse, parse_digest
from pallet.registry.metadata.mirrored import MirrorTables
from pallet.registry.mirror.blobs import USE_S, MirroredBlobs
from pallet.registry.mirror.settings import MirroredNames
from pallet.registry.mirror.upstreams import ACCEPT, OfflineError, Upstreams
from pallet.spec import digest as digests
from pallet.spec import image
from pallet.spec import reference as references
from pallet.transfer.failures import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.registry.messages import RegistryRequest
    from pallet.registry.metadata.records import ManifestRecord, TagRecord
    from pallet.registry.mirror.settings import MirrorConfig, Target
    from pallet.registry.store import RegistryStore
    from pallet.registry.urls import Target as UrlTarget
    from pallet.transfer.client import RawManifest, RepositoryClient
    from pallet.types import Digest

logger = logging.getLogger(__name__)

_KEPT_LISTS = 256
_MAX_PAGES = 1000
_LOCKS = 64


class Mirror:
    """The mirrored repositories of a registry."""

    def __init__(self, store: RegistryStore, config: MirrorConfig, count: Callable[[str, float], None]) -> None:
        """Raises InvalidParameterError when the configuration contradicts itself."""
        config.check()
        self._store = store
        self._config = config
        self._names = MirroredNames(config)
        self._count = count
        self._upstreams = Upstreams(config, count)
        self._blobs = MirroredBlobs(store, config, self._upstreams, count)
        self._tables = MirrorTables(store.metadata.database)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._lists_lock = threading.Lock()
        self._lists: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()

    def end(self, wait_s: float) -> None:
        """End what is still being fetched in so many seconds; it goes on from there the next time."""
        self._blobs.end(wait_s)

    def close(self) -> None:
        """End what is being fetched, at once."""
        self._blobs.close()
        self._upstreams.close()

    def target(self, name: str, request: RegistryRequest) -> Target | None:
        """The mirrored repository that a request on ``name`` means; None for one of our own.

        Raises:
            RegistryHttpError: NAME_UNKNOWN, for a namespace that is not mirrored.
        """
        namespace = request.parameter("ns")
        if namespace == request.headers.get("host"):  # a client that asks its mirror for everything
            namespace = None
        try:
            return self._names.target(name, namespace)
        except InvalidParameterError as error:
            raise RegistryHttpError("NAME_UNKNOWN", str(error)) from error

    def means(self, name: str, query: str) -> bool:
        """Whether a request on ``name`` is about a mirrored repository, or may be."""
        try:
            return self._names.target(name, parse_qs(query).get("ns", [""])[0]) is not None
        except InvalidParameterError:
            return False

    def answer(self, request: RegistryRequest, url: UrlTarget, target: Target,
               local: Callable[[], RegistryResponse]) -> RegistryResponse:
        """Answer a request on a mirrored repository; access has been granted.

        Args:
            local: the answer of the store, about ``target.name``.

        Raises:
            RegistryHttpError: every refusal.
        """
        if request.method not in {"GET", "HEAD"} or url.kind == "uploads":
            raise RegistryHttpError("UNSUPPORTED", f"{target.name} is a mirror: nothing is pushed or deleted here",
                                    headers={"Allow": "GET, HEAD"})
        if not target.allowed:
            raise RegistryHttpError("DENIED", f"{target.host}/{target.path} is not mirrored")
        warning = ""
        try:
            if url.kind == "manifests":
                response, warning = self._manifest(target, url.ref, local)
            elif url.kind == "blobs":
                response = self._blobs.answer(request, target, parse_digest(url.ref), local)
            else:
                response, warning = self._referrers(request, target, parse_digest(url.ref), local)
        except OfflineError as error:
            raise error.refusal() from error
        if warning:
            self._count("mirror_stale_replies_total", 1)
        headers = {**response.headers, **_headers_of(target, warning)}
        keep_s = 0.0 if warning or target.by_namespace else min(response.keep_s, self._keep_s(target, url))
        return replace(response, headers=headers, keep_s=keep_s)

    def _keep_s(self, target: Target, url: UrlTarget) -> float:
        """How long a reply may be given from memory: uses must get noted, and tags compared."""
        if digests.is_digest(url.ref):
            return USE_S
        known = self._tables.tag(target.name, url.ref)
        if known is None:
            return 0.0
        left_s = known.updated_at + self._ttl_s(target) - self._store.metadata.database.now()
        return min(USE_S, max(0.0, left_s))

    # --- manifests

    def _manifest(self, target: Target, ref: str,
                  local: Callable[[], RegistryResponse]) -> tuple[RegistryResponse, str]:
        digest = None if references.is_tag(ref) else parse_digest(ref)
        if self._is_fresh(target, ref, digest):
            return local(), ""
        with self._locks[hash((target.name, ref)) % _LOCKS]:
            if digest is None:
                unstored, warning = self._refresh(target, ref)
            elif self._here(target, digest):
                unstored, warning = None, ""
            else:
                found = self._upstreams.ask(target, lambda client: client.raw_manifest(digest, ACCEPT))
                unstored, warning = self._keep(target, found, []), ""
        if unstored is not None:
            return RegistryResponse(status=200, body=unstored.raw, headers={
                "Content-Type": unstored.media_type, "Docker-Content-Digest": unstored.digest,
                "ETag": f'"{unstored.digest}"'}), warning
        return local(), warning

    def _is_fresh(self, target: Target, ref: str, digest: Digest | None) -> bool:
        """Whether upstream need not be asked."""
        if digest is not None:
            return self._here(target, digest)
        known = self._tables.tag(target.name, ref)
        return (known is not None and self._here(target, known.digest)
                and known.updated_at + self._ttl_s(target) > self._store.metadata.database.now())

    def _ttl_s(self, target: Target) -> float:
        return self._config.ttl_s if target.upstream.ttl_s is None else target.upstream.ttl_s

    def _here(self, target: Target, digest: Digest) -> bool:
        """Whether the store has the manifest; its use is noted, and that of its blobs with it."""
        record = self._store.metadata.content.manifest(target.name, digest)
        if record is None:
            return False
        if self._store.capacity.writable():
            self._tables.use(target.name, digest, self._store.metadata.database.now() - USE_S,
                             lambda: _record(record.digest, record.media_type, record.raw).blobs)
        return True

    def _refresh(self, target: Target, tag: str) -> tuple[ManifestRecord | None, str]:
        """Make the tag what upstream says it is, unless that was found out a moment ago.

        Returns:
            The manifest if it could not be stored, and a warning if upstream was no help.

        Raises:
            OfflineError, RegistryHttpError: there is nothing to answer with.
        """
        known = self._tables.tag(target.name, tag)
        if known is not None and not self._here(target, known.digest):
            known = None
        if self._is_fresh(target, tag, None):
            return None, ""
        try:
            found = self._upstreams.ask(target, lambda client: _changed(client, tag, known),
                                        spare=known is not None)
        except RegistryHttpError as error:
            if error.status == 404 and known is not None and self._store.capacity.writable():
                with suppress(RegistryHttpError):
                    self._store.untag(target.name, tag)
            raise
        except OfflineError as error:
            if known is None:
                raise
            logger.info("%s:%s is served as it was: %s", target.name, tag, error)
            return None, f"{target.host} did not answer; {tag} is what it was {_age(self._store, known)} ago"
        if found is not None:
            return self._keep(target, found, [tag]), ""
        assert known is not None
        if self._store.capacity.writable():
            self._tables.confirm(target.name, known)
        return None, ""

    def _keep(self, target: Target, found: RawManifest, tags: list[str]) -> ManifestRecord | None:
        """Store a manifest; the record itself when there is no room for it."""
        try:
            media_type = image.sniff_media_type(found.raw, found.content_type)
        except InvalidParameterError:  # an artifact's, or something newer than this program
            media_type = found.content_type.partition(";")[0].strip()
        record = _record(found.digest, media_type, found.raw)
        if not self._store.capacity.writable():
            return record
        self._store.put_manifest(target.name, replace(record, blobs=frozenset(), children=frozenset()), tags)
        return None

    # --- lists

    def tags(self, target: Target) -> tuple[list[str], dict[str, str]]:
        """Every tag upstream has, or those that are here if it does not answer; and headers to add.

        Raises:
            RegistryHttpError: every refusal.
        """
        if not target.allowed:
            raise RegistryHttpError("DENIED", f"{target.host}/{target.path} is not mirrored")
        with self._lists_lock:
            at, known = self._lists.get(target.name, (0.0, []))
        if known and at + self._ttl_s(target) > time.monotonic():
            return known, _headers_of(target, "")
        here = [] if known else [tag.name for tag in self._store.metadata.content.tags(target.name)]
        try:
            found = sorted(self._upstreams.ask(target, lambda client: client.tags(), spare=bool(known or here)))
        except OfflineError as error:
            if not known and not here:
                raise error.refusal() from error
            self._count("mirror_stale_replies_total", 1)
            return known or here, _headers_of(
                target, f"{target.host} did not answer; these tags are what is known of it")
        with self._lists_lock:
            self._lists[target.name] = (time.monotonic(), found)
            self._lists.move_to_end(target.name)
            while len(self._lists) > _KEPT_LISTS:
                self._lists.popitem(last=False)
        return found, _headers_of(target, "")

    def _referrers(self, request: RegistryRequest, target: Target, subject: Digest,
                   local: Callable[[], RegistryResponse]) -> tuple[RegistryResponse, str]:
        wanted = request.parameter("artifactType") or ""
        try:
            found = self._upstreams.ask(target, lambda client: _all_referrers(client, subject))
        except OfflineError:
            return local(), f"{target.host} did not answer; these referrers are what is here"
        entries = [entry for entry in found if not wanted or entry.get("artifactType") == wanted]
        headers = {"Content-Type": image.OCI_INDEX}
        if wanted:
            headers["OCI-Filters-Applied"] = "artifactType"
        document = {"schemaVersion": 2, "mediaType": image.OCI_INDEX, "manifests": entries}
        return RegistryResponse(status=200, headers=headers, body=json.dumps(document).encode()), ""


def _changed(client: RepositoryClient, tag: str, known: TagRecord | None) -> RawManifest | None:
    """The tag's manifest; None when it is the one that is known."""
    if known is not None:
        try:
            if client.head("manifests", tag, ACCEPT).get("Docker-Content-Digest") == known.digest:
                return None
        except RefusedError as error:
            # Some registries do not answer HEAD; what they say to GET is what counts.
            if error.status == 429 or error.status >= 500:
                raise
    found = client.raw_manifest(tag, ACCEPT)
    return None if known is not None and found.digest == known.digest else found


def _all_referrers(client: RepositoryClient, subject: Digest) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    query: dict[str, str] = {}
    for _ in range(_MAX_PAGES):
        raw, link = client.document("referrers", subject, query)
        try:
            found += msgspec.json.decode(raw, type=_Referrers).manifests or []
        except msgspec.DecodeError as error:
            raise RefusedError(502, "", f"invalid referrers list: {error}") from error
        if not link:
            break
        query = dict(parse_qsl(urlsplit(link).query))
        query.pop("ns", None)
    return found


class _Referrers(msgspec.Struct, frozen=True):
    manifests: list[dict[str, object]] | None = None


def _record(digest: Digest, media_type: str, raw: bytes) -> ManifestRecord:
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise RegistryHttpError("MANIFEST_INVALID", str(error)) from error
    if not isinstance(document, dict):
        raise RegistryHttpError("MANIFEST_INVALID", "no JSON object")
    return record_of(digest, media_type, raw, document)


def _headers_of(target: Target, warning: str) -> dict[str, str]:
    """What replies for a mirrored repository have besides: distribution-spec "Warnings", ``OCI-Namespace``."""
    headers = {"OCI-Namespace": target.host} if target.by_namespace else {}
    if warning:
        plain = warning.encode("ascii", "replace").decode().replace("\\", "/").replace('"', "'")
        headers["Warning"] = f'299 - "{plain}"'
    return headers


def _age(store: RegistryStore, tag: TagRecord) -> str:
    seconds = max(0, round(store.metadata.database.now() - tag.updated_at))
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"

