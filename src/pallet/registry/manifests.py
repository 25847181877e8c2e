"""Manifests over the registry protocol: get, put, delete, referrers.

Owns   validation of pushed manifests and the referrers index.
Runs   in the server's threads.
Needs  ``RegistryStore``.
Spec   distribution-spec "Pulling manifests", "Pushing Manifests", "Listing Referrers"; image-spec
       manifest.md, image-index.md.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from pallet.registry.codes import RegistryHttpError
from pallet.registry.events import Events
from pallet.registry.messages import RegistryResponse, link_to_next, parse_digest
from pallet.registry.metadata.records import ManifestRecord
from pallet.spec import digest as digests
from pallet.spec import image
from pallet.spec import reference as references

if TYPE_CHECKING:
    from pallet.registry.messages import RegistryRequest
    from pallet.registry.store import RegistryStore
    from pallet.types import Digest

MAX_MANIFEST_BYTES = 4 << 20
_MAX_TAGS = 32
_MAX_REFERRERS = 1000
"""In one reply."""


class ManifestRoutes:
    """Answers requests under ``manifests/`` and ``referrers/``."""

    def __init__(self, store: RegistryStore, *, allow_delete: bool,
                 max_bytes: int = MAX_MANIFEST_BYTES, events: Events | None = None) -> None:
        self._store = store
        self._events = events or Events()
        self._allow_delete = allow_delete
        self._max_bytes = max_bytes

    def handle(self, request: RegistryRequest, name: str, ref: str, user: str = "") -> RegistryResponse:
        """Answer one request on manifest ``ref``, a tag or a digest; ``user`` is for notifications."""
        if request.method in {"GET", "HEAD"}:
            return self._get(request, name, ref, user)
        if request.method == "PUT":
            return self._put(request, name, ref, user)
        if request.method == "DELETE":
            return self._delete(request, name, ref, user)
        raise RegistryHttpError("UNSUPPORTED", headers={"Allow": "GET, HEAD, PUT, DELETE"})

    def _get(self, request: RegistryRequest, name: str, ref: str, user: str) -> RegistryResponse:
        by_tag, head = references.is_tag(ref), request.method == "HEAD"
        record = (self._store.tagged(name, ref) if by_tag
                  else self._store.manifest(name, parse_digest(ref), push=head))
        keep_s = self._store.keep_s if head and not by_tag else math.inf
        if not head and self._events.wanted("pull", name):
            keep_s = 0.0  # each one is told of
            self._store.notify(self._events.pulled(request, user, name, record, ref if by_tag else ""))
        return RegistryResponse(
            status=200, body=record.raw, keep_s=keep_s,
            headers={"Content-Type": record.media_type, "Docker-Content-Digest": record.digest,
                     "ETag": f'"{record.digest}"'})

    def _put(self, request: RegistryRequest, name: str, ref: str, user: str) -> RegistryResponse:
        raw = _read_manifest(request, self._max_bytes)
        tags = request.parameters("tag")
        if references.is_tag(ref):
            digest = digests.of_bytes(raw)
            tags = [ref, *tags]
        else:
            digest = parse_digest(ref)
            if digests.of_bytes(raw, digests.algorithm(digest)) != digest:
                raise RegistryHttpError("DIGEST_INVALID", {"digest": ref})
        if len(tags) > _MAX_TAGS or not all(references.is_tag(tag) for tag in tags):
            raise RegistryHttpError("TAG_INVALID", {"tags": tags})
        media_type, document = _checked(raw, request.headers.get("content-type", ""))
        record = record_of(digest, media_type, raw, document)
        self._store.put_manifest(name, record, tags,
                                 self._events.pushed(request, user, name, record, tags))
        headers = {"Location": f"/v2/{name}/manifests/{ref}", "Docker-Content-Digest": digest}
        if record.subject is not None:
            headers["OCI-Subject"] = record.subject
        if request.parameters("tag"):
            headers["OCI-Tag"] = ", ".join(request.parameters("tag"))
        return RegistryResponse(status=201, headers=headers)

    def _delete(self, request: RegistryRequest, name: str, ref: str, user: str) -> RegistryResponse:
        if not self._allow_delete:
            raise RegistryHttpError("UNSUPPORTED")
        if references.is_tag(ref):
            self._store.untag(name, ref, self._events.deleted(request, user, name, tag=ref))
        else:
            digest = parse_digest(ref)
            self._store.delete_manifest(
                name, digest, self._events.deleted(request, user, name, digest=digest))
        return RegistryResponse(status=202)

    def referrers(self, request: RegistryRequest, name: str, text: str) -> RegistryResponse:
        """List the manifests whose subject is ``text``, a page at a time."""
        wanted, last = request.parameter("artifactType") or "", request.parameter("last") or ""
        count = request.parameter("n") or str(_MAX_REFERRERS)
        if not (count.isascii() and count.isdigit() and len(count) < 10):
            raise RegistryHttpError("PAGINATION_NUMBER_INVALID", {"n": count})
        limit = min(int(count), _MAX_REFERRERS)
        found = self._store.referrers(name, parse_digest(text), artifact_type=wanted, last=last,
                                      limit=limit + 1)
        page = found[:limit]
        headers = {"Content-Type": image.OCI_INDEX}
        if wanted:
            headers["OCI-Filters-Applied"] = "artifactType"
        if page and len(found) > limit:
            headers["Link"] = link_to_next(request, last=str(page[-1]["digest"]), n=str(limit))
        document = {"schemaVersion": 2, "mediaType": image.OCI_INDEX, "manifests": page}
        return RegistryResponse(status=200, headers=headers,
                                       body=json.dumps(document).encode())


def _read_manifest(request: RegistryRequest, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := request.body.read(1 << 20):
        size += len(piece)
        if size > max_bytes:
            raise RegistryHttpError("SIZE_INVALID", message="manifest is too large", status=413)
        pieces.append(piece)
    return b"".join(pieces)


def _checked(raw: bytes, content_type: str) -> tuple[str, dict[str, Any]]:
    """Media type and parsed form of a pushed manifest.

    Raises:
        RegistryHttpError: MANIFEST_INVALID.
    """
    header = content_type.partition(";")[0].strip()
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RegistryHttpError("MANIFEST_INVALID", str(error)) from error
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise RegistryHttpError("MANIFEST_INVALID", "not a document of schema version 2")
    own = document.get("mediaType")
    if own and header and own != header:
        detail = f"mediaType is {own!r} but Content-Type is {header!r}"
        raise RegistryHttpError("MANIFEST_INVALID", detail)
    media_type = header or own or image.OCI_MANIFEST
    lists = isinstance(document.get("manifests"), list)
    layers = isinstance(document.get("layers"), list)
    if media_type in image.INDEX_TYPES and (not lists or layers):
        raise RegistryHttpError("MANIFEST_INVALID", "an index has manifests and no layers")
    if media_type in image.IMAGE_TYPES and (
            not layers or lists or _digest_of(document.get("config")) is None):
        raise RegistryHttpError("MANIFEST_INVALID", "an image has a config and layers")
    return media_type, document


def _digest_of(entry: object) -> Digest | None:
    """Digest of a descriptor.

    Raises:
        RegistryHttpError: MANIFEST_INVALID, when there is a descriptor without a proper digest.
    """
    if entry is None:
        return None
    text = entry.get("digest") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not digests.is_digest(text):
        raise RegistryHttpError("MANIFEST_INVALID", "a descriptor has no valid digest")
    return digests.parse(text)


def record_of(
    digest: Digest, media_type: str, raw: bytes, document: dict[str, Any]
) -> ManifestRecord:
    """Make the record of a manifest: what it needs, lists and refers to.

    Raises:
        RegistryHttpError: MANIFEST_INVALID, when a descriptor has no proper digest.
    """
    blobs = set()
    for entry in [document.get("config"), *(document.get("layers") or ())]:
        needed = _digest_of(entry)
        if needed is not None and not image.is_foreign(str(entry.get("mediaType", ""))):
            blobs.add(needed)
    children = {child for entry in document.get("manifests") or ()
                if (child := _digest_of(entry)) is not None}
    subject = _digest_of(document.get("subject"))
    descriptor = _referrer(digest, media_type, raw, document)
    return ManifestRecord(
        digest=digest, media_type=media_type, raw=raw, subject=subject,
        artifact_type=descriptor.get("artifactType") or "",
        descriptor=json.dumps(descriptor).encode() if subject is not None else b"",
        blobs=frozenset(blobs), children=frozenset(children))


def _referrer(
    digest: Digest, media_type: str, raw: bytes, document: dict[str, Any]
) -> dict[str, Any]:
    entry: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": len(raw)}
    artifact_type = document.get("artifactType")
    if not artifact_type and isinstance(document.get("config"), dict):
        artifact_type = document["config"].get("mediaType")
    if artifact_type:
        entry["artifactType"] = artifact_type
    if document.get("annotations"):
        entry["annotations"] = document["annotations"]
    return entry
