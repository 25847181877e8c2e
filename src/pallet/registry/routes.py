"""The registry protocol: from a request to a reply, without sockets.

Owns   URLs, methods, validation and reply headers of ``/v2/``.
Runs   in the server's threads.
Needs  ``RegistryStore``, an access control.
Spec   distribution-spec v1.1 end-1 to end-14; Docker's ``_catalog``.
"""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from pallet.registry.auth import TOKEN_PATH, Access
from pallet.registry.blobs.driver import Redirect
from pallet.registry.codes import RegistryHttpError
from pallet.registry.manifests import ManifestRoutes
from pallet.registry.messages import (
    FileRange,
    RegistryRequest,
    RegistryResponse,
    Stream,
    parse_digest,
)
from pallet.spec import digest as digests
from pallet.spec import reference as references

if TYPE_CHECKING:
    from pallet.registry.auth import AccessControl
    from pallet.registry.store import RegistryStore
    from pallet.registry.uploads import Upload
    from pallet.types import Digest

logger = logging.getLogger(__name__)

_PATH = re.compile(
    r"/v2/(?P<name>.+)/(?:(?P<kind>manifests|blobs|referrers)/(?P<ref>[^/]+)"
    r"|tags/(?P<tags>list)|blobs/uploads/(?P<upload>[^/]*))")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_MAX_NAME = 255
_MAX_PAGE = 10_000


class Routes:
    """Answers requests."""

    def __init__(self, store: RegistryStore, access: AccessControl, *,
                 allow_delete: bool = True) -> None:
        self._store = store
        self._uploads = store.uploads
        self._access = access
        self._allow_delete = allow_delete
        self._manifests = ManifestRoutes(store, allow_delete=allow_delete)

    def handle(self, request: RegistryRequest) -> RegistryResponse:
        """Answer ``request``.

        Raises:
            RegistryHttpError: every refusal.
        """
        try:
            return self._handle(request)
        except RegistryHttpError:
            raise
        except Exception as error:
            refusal = self._store.capacity.refusal(error)
            if refusal is None:
                raise
            logger.warning("%s %s: %s", request.method, request.path, error)
            raise refusal from error

    def _handle(self, request: RegistryRequest) -> RegistryResponse:
        if request.path == TOKEN_PATH:
            body = request.body.read(1 << 16) if request.method == "POST" else b""
            reply = self._access.token(request.method, request.query,
                                       request.headers.get("authorization", ""), body)
            return _json(200, reply)
        if request.path in {"/v2", "/v2/"}:
            self._authorize(request, Access())
            _only(request, "GET", "HEAD")
            return _json(200, b"{}")
        if request.path == "/v2/_catalog":
            self._authorize(request, Access(actions=frozenset({"*"})))
            _only(request, "GET")
            return self._catalog(request)
        match = _PATH.fullmatch(request.path)
        if match is None:
            raise RegistryHttpError("NOT_FOUND")
        name = match["name"]
        if len(name) > _MAX_NAME or not references.is_repository(name):
            raise RegistryHttpError("NAME_INVALID", {"name": name})
        self._authorize(request, Access(name=name, actions=_actions(request.method)))
        if request.method in {"POST", "PATCH", "PUT"}:
            self._store.capacity.require()
        if match["tags"]:
            _only(request, "GET")
            return self._tags(request, name)
        if match["upload"] is not None:
            return self._upload(request, name, match["upload"])
        if match["kind"] == "blobs":
            return self._blob(request, name, match["ref"])
        if match["kind"] == "referrers":
            _only(request, "GET")
            return self._manifests.referrers(request, name, match["ref"])
        return self._manifests.handle(request, name, match["ref"])

    def _authorize(self, request: RegistryRequest, access: Access) -> None:
        self._access.authorize(request.headers.get("authorization", ""), access, request.base_url)

    # Lists

    def _catalog(self, request: RegistryRequest) -> RegistryResponse:
        page, link = _page(request, self._store.repositories())
        return _json(200, json.dumps({"repositories": page}).encode(), link)

    def _tags(self, request: RegistryRequest, name: str) -> RegistryResponse:
        page, link = _page(request, self._store.tags(name))
        return _json(200, json.dumps({"name": name, "tags": page}).encode(), link)

    # Blobs

    def _blob(self, request: RegistryRequest, name: str, text: str) -> RegistryResponse:
        _only(request, "GET", "HEAD", "DELETE")
        digest = parse_digest(text)
        if request.method == "DELETE":
            if not self._allow_delete:
                raise RegistryHttpError("UNSUPPORTED")
            self._store.delete_blob(name, digest)
            return RegistryResponse(status=202)
        record = self._store.blob(name, digest, push=request.method == "HEAD")
        size = record.size
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest,
                   "ETag": f'"{digest}"', "Accept-Ranges": "bytes",
                   "Cache-Control": "max-age=31536000"}
        wanted = _byte_range(request.headers.get("range", ""), size)
        first, last = wanted or (0, size - 1)
        if wanted is not None:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        if request.method == "HEAD":
            body: FileRange | Stream = Stream(chunks=iter(()), length=last - first + 1)
        else:
            found = self._store.body(record, first, last - first + 1)
            if isinstance(found, Redirect):
                return RegistryResponse(status=307, headers={
                    "Location": found.url, "Docker-Content-Digest": digest})
            body = found
        return RegistryResponse(status=200 if wanted is None else 206, headers=headers, body=body)

    # Uploads

    def _upload(self, request: RegistryRequest, name: str, upload_id: str) -> RegistryResponse:
        if not upload_id:
            _only(request, "POST")
            return self._begin(request, name)
        _only(request, "GET", "PATCH", "PUT", "DELETE")
        upload = self._uploads.get(name, upload_id)
        with upload.lock:
            if request.method == "GET":
                return RegistryResponse(status=204, headers=upload.headers())
            if request.method == "DELETE":
                upload.discard()
                return RegistryResponse(status=204)
            if request.method == "PATCH":
                self._append(request, upload)
                return RegistryResponse(status=202, headers=upload.headers())
            digest = parse_digest(request.parameter("digest") or "")
            self._append(request, upload)
            return self._finish(upload, digest)

    def _begin(self, request: RegistryRequest, name: str) -> RegistryResponse:
        mount, source = request.parameter("mount"), request.parameter("from")
        if mount:
            digest = parse_digest(mount)
            if self._mountable(request, digest, source) and self._store.mount(name, digest):
                return _created(name, digest)
        algorithm = request.parameter("digest-algorithm") or "sha256"
        wanted = request.parameter("digest")
        digest_or_none = parse_digest(wanted) if wanted else None
        if digest_or_none is not None:
            algorithm = digests.algorithm(digest_or_none)
        if algorithm not in digests.HEX_LENGTH:
            raise RegistryHttpError("DIGEST_INVALID", algorithm)
        upload = self._uploads.begin(name, algorithm)
        if digest_or_none is None:
            return RegistryResponse(status=202, headers=upload.headers())
        with upload.lock:
            self._append(request, upload)
            return self._finish(upload, digest_or_none)

    def _mountable(self, request: RegistryRequest, digest: Digest, source: str | None) -> bool:
        if not source:
            # "Automatic discovery" would tell users of one repository what others hold.
            return self._access.is_open and bool(self._store.holders(digest))
        if source not in self._store.holders(digest):
            return False
        try:
            self._authorize(request, Access(name=source, actions=frozenset({"pull"})))
        except RegistryHttpError:
            return False
        return True

    def _append(self, request: RegistryRequest, upload: Upload) -> None:
        content_range = request.headers.get("content-range")
        if content_range and request.body.length != 0:
            upload.expect_start(content_range, request.body.length)
        upload.append(request.body)

    def _finish(self, upload: Upload, digest: Digest) -> RegistryResponse:
        upload.finish(digest)
        return _created(upload.record.repository, digest)


def _created(name: str, digest: Digest) -> RegistryResponse:
    return RegistryResponse(status=201, headers={
        "Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})


def _json(status: int, body: bytes, link: str = "") -> RegistryResponse:
    headers = {"Content-Type": "application/json"}
    if link:
        headers["Link"] = link
    return RegistryResponse(status=status, headers=headers, body=body)


def _only(request: RegistryRequest, *methods: str) -> None:
    if request.method not in methods:
        raise RegistryHttpError("UNSUPPORTED", headers={"Allow": ", ".join(methods)})


def _actions(method: str) -> frozenset[str]:
    if method in {"GET", "HEAD"}:
        return frozenset({"pull"})
    return frozenset({"delete"} if method == "DELETE" else {"pull", "push"})


def _page(request: RegistryRequest, names: list[str]) -> tuple[list[str], str]:
    """Names after ``last``, at most ``n`` of them, and the ``Link`` header if there are more."""
    wanted, last = request.parameter("n"), request.parameter("last")
    if last is not None:
        names = [name for name in names if name > last]
    if wanted is None:
        return names, ""
    if not wanted.isdigit():
        raise RegistryHttpError("PAGINATION_NUMBER_INVALID", {"n": wanted})
    count = min(int(wanted), _MAX_PAGE)
    page = names[:count]
    if not page or len(names) <= count:
        return page, ""
    query = urlencode({"last": page[-1], "n": count})
    return page, f'<{request.path}?{query}>; rel="next"'


def _byte_range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a range request; None to send everything.

    Raises:
        RegistryHttpError: RANGE_INVALID.
    """
    match = _RANGE.fullmatch(header.replace(" ", ""))
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        first, last = max(size - int(match[2]), 0), size - 1
    else:
        first = int(match[1])
        last = min(int(match[2]), size - 1) if match[2] else size - 1
    if first >= size or last < first:
        raise RegistryHttpError("RANGE_INVALID", header, headers={
            "Content-Range": f"bytes */{size}"})
    return first, last
