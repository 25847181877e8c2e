"""The registry protocol: from a request to a reply, without sockets.

Owns   URLs, methods, validation and reply headers of ``/v2/``.
Runs   in the server's threads.
Needs  ``RegistryStore``, an access control.
Spec   distribution-spec v1.1 end-1 to end-14; Docker's ``_catalog``.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from pallet.registry import urls
from pallet.registry.auth import JWKS_PATH, TOKEN_PATH, Access
from pallet.registry.auth.settings import LimitsConfig
from pallet.registry.blobs.driver import Redirect
from pallet.registry.codes import RegistryHttpError
from pallet.registry.manifests import ManifestRoutes
from pallet.registry.messages import (
    FileRange,
    RegistryRequest,
    RegistryResponse,
    Stream,
    link_to_next,
    parse_digest,
)
from pallet.registry.proxies import Proxies
from pallet.registry.ranges import byte_range
from pallet.registry.sizes import SizeLimits
from pallet.spec import digest as digests

if TYPE_CHECKING:
    from collections.abc import Callable

    from pallet.registry.auth import AccessControl, Caller
    from pallet.registry.events import Events
    from pallet.registry.mirror.service import Mirror
    from pallet.registry.mirror.settings import Target as MirrorTarget
    from pallet.registry.store import RegistryStore
    from pallet.registry.uploads import Upload
    from pallet.types import Digest

logger = logging.getLogger(__name__)

_MAX_PAGE = 10_000


class Routes:
    """Answers requests."""

    def __init__(self, store: RegistryStore, access: AccessControl, *, allow_delete: bool = True,
                 limits: LimitsConfig | None = None, events: Events | None = None,
                 mirror: Mirror | None = None, proxies: Proxies | None = None) -> None:
        self._store = store
        self._uploads = store.uploads
        self._access = access
        self._proxies = proxies or Proxies(())
        self._mirror = mirror
        self._allow_delete = allow_delete
        limits = limits or LimitsConfig()
        self._sizes = SizeLimits.of(limits)
        self._manifests = ManifestRoutes(store, allow_delete=allow_delete,
                                         max_bytes=limits.max_manifest_bytes, events=events)

    def permits(self, method: str, target: str, headers: dict[str, str], peer: str) -> bool:
        """Whether a reply to such a GET or HEAD may be given from memory, without ``handle``.

        On the server's loop: says False whenever that takes more than a moment.
        """
        if self._access.is_open:
            return True
        path, _, query = target.partition("?")
        access, header = urls.access_of(method, path), headers.get("authorization", "")
        if query and self._mirror is not None:
            return False  # with a namespace the rules are those of another name
        if access is None or not self._access.prompt(header, access):
            return False
        try:
            self._access.authorize(header, access, "", self._proxies.client(peer, headers))
        except RegistryHttpError:
            return False
        return True

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
            return self._token(request)
        if request.path == JWKS_PATH:
            _only(request, "GET", "HEAD")
            return _json(200, self._access.jwks())
        target = urls.parse(request.path)
        if target is None:
            raise RegistryHttpError("NOT_FOUND")
        if not target.is_valid:
            raise RegistryHttpError("NAME_INVALID", {"name": target.name})
        mirrored = self._mirrored(request, target)
        wanted = target if mirrored is None else replace(target, name=mirrored.subject)
        caller = self._authorize(request, wanted.access(request.method))
        response = (self._answer(request, target, caller) if mirrored is None
                    else self._answer_mirrored(request, target, mirrored, caller))
        if caller.headers:
            response = replace(response, headers={**response.headers, **caller.headers}, keep_s=0.0)
        return response

    def _token(self, request: RegistryRequest) -> RegistryResponse:
        body = request.body.read(1 << 16) if request.method == "POST" else b""
        reply = self._access.token(request.method, request.query, request.headers.get("authorization", ""),
                                   body, self._proxies.client(request.peer, request.headers))
        return replace(_json(200, reply), headers={
            "Content-Type": "application/json", "Cache-Control": "no-store"})

    def _answer(self, request: RegistryRequest, target: urls.Target, caller: Caller) -> RegistryResponse:
        name, kind = target.name, target.kind
        if kind in {"base", "catalog", "tags", "referrers"}:
            _only(request, "GET", "HEAD")
        if kind == "base":
            return replace(_json(200, b"{}"), keep_s=math.inf)
        if kind == "catalog":
            return self._catalog(request, caller)
        if request.method in {"POST", "PATCH", "PUT"}:
            self._store.capacity.require()
        if kind == "tags":
            return self._tags(request, name)
        if kind == "uploads":
            return self._upload(request, name, target.ref)
        if kind == "blobs":
            return self._blob(request, name, target.ref)
        if kind == "referrers":
            return self._manifests.referrers(request, name, target.ref)
        return self._manifests.handle(self._as_seen(request), name, target.ref, caller.name)

    # Mirrored repositories

    def logs_in(self, method: str, target: str, headers: dict[str, str]) -> bool:
        """Whether the answer takes hashing a password, so that it is to be given where that is done."""
        if method == "POST" and target.partition("?")[0] == TOKEN_PATH:
            return True
        header = headers.get("authorization", "")
        return header[:5].lower() == "basic" and not self._access.prompt(header, Access())

    def log_in(self, headers: dict[str, str], peer: str) -> None:
        """Hash the password beforehand; whether it is right is for ``handle`` to say."""
        self._access.warm(headers.get("authorization", ""), self._proxies.client(peer, headers))

    def may_wait(self, target: str) -> bool:
        """Whether a request waits for others: for another one on the same upload, or for upstream."""
        path, _, query = target.partition("?")
        if "/blobs/uploads/" in path or self._mirror is None:
            return "/blobs/uploads/" in path
        url = urls.parse(path)
        return url is not None and bool(url.name) and self._mirror.means(url.name, query)

    def _mirrored(self, request: RegistryRequest, url: urls.Target) -> MirrorTarget | None:
        if self._mirror is None or not url.name:
            return None
        return self._mirror.target(url.name, request)

    def _answer_mirrored(self, request: RegistryRequest, url: urls.Target, mirrored: MirrorTarget,
                         caller: Caller) -> RegistryResponse:
        mirror = self._mirror
        assert mirror is not None
        stored = replace(url, name=mirrored.name)
        if not stored.is_valid:
            raise RegistryHttpError("NAME_INVALID", {"name": stored.name})
        if url.kind != "tags" or request.method not in {"GET", "HEAD"}:
            return mirror.answer(request, url, mirrored, lambda: self._answer(request, stored, caller))
        tags, headers = mirror.tags(mirrored)
        page, link = _page(request, lambda last, limit: list(islice((t for t in tags if t > last), limit)))
        reply = _json(200, json.dumps({"name": url.name, "tags": page}).encode(), link)
        return replace(reply, headers={**reply.headers, **headers})

    def _authorize(self, request: RegistryRequest, access: Access) -> Caller:
        headers, peer = request.headers, request.peer
        return self._access.authorize(
            headers.get("authorization", ""), access, self._proxies.base_url(request.base_url, peer, headers),
            self._proxies.client(peer, headers))

    def client(self, headers: dict[str, str], peer: str) -> str:
        """Address of the client, which may be behind a balancer."""
        return self._proxies.client(peer, headers)

    def _as_seen(self, request: RegistryRequest) -> RegistryRequest:
        """The request as the client made it, whatever balancer passed it on."""
        headers, peer = request.headers, request.peer
        return replace(request, peer=self._proxies.client(peer, headers),
                       base_url=self._proxies.base_url(request.base_url, peer, headers))

    # Lists

    def _catalog(self, request: RegistryRequest, caller: Caller) -> RegistryResponse:
        sees = self._access.sees(caller)

        def names(last: str, limit: int | None) -> list[str]:
            if sees is None:
                return self._store.repositories(last, limit)
            return list(islice(filter(sees, self._store.repositories(last, None)), limit))

        page, link = _page(request, names)
        return _json(200, json.dumps({"repositories": page}).encode(), link)

    def _tags(self, request: RegistryRequest, name: str) -> RegistryResponse:
        page, link = _page(request, lambda last, limit: self._store.tags(name, last, limit))
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
        wanted = byte_range(request, headers["ETag"], size)
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
        keep_s = self._store.keep_s if request.method == "HEAD" else math.inf
        return RegistryResponse(status=200 if wanted is None else 206, headers=headers, body=body,
                                keep_s=keep_s if wanted is None else 0.0)

    # Uploads

    def _upload(self, request: RegistryRequest, name: str, upload_id: str) -> RegistryResponse:
        if not upload_id:
            _only(request, "POST")
            return self._begin(request, name)
        _only(request, "GET", "HEAD", "PATCH", "PUT", "DELETE")
        upload = self._uploads.get(name, upload_id)
        with upload.lock:
            if request.method in {"GET", "HEAD"}:
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
            if self._mountable(request, digest, source) and self._mount(name, source or "", digest):
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

    def _mount(self, name: str, source: str, digest: Digest) -> bool:
        if self._sizes.repository_bytes:
            source = source or self._store.holders(digest)[0]
            self._sizes.mounted(self._store, name, self._store.blob(source, digest).size)
        return self._store.mount(name, digest)

    def _append(self, request: RegistryRequest, upload: Upload) -> None:
        content_range = request.headers.get("content-range")
        if content_range and request.body.length != 0:
            upload.expect_start(content_range, request.body.length)
        try:
            upload.append(self._sizes.body(self._store, upload.record.repository, upload.size, request.body))
        except RegistryHttpError as error:
            if error.code in {"SIZE_INVALID", "DENIED"}:
                upload.discard()  # it can never end
            raise

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


def _page(
    request: RegistryRequest, names: Callable[[str, int | None], list[str]]
) -> tuple[list[str], str]:
    """Names after ``last``, at most ``n`` of them, and the ``Link`` header if there are more.

    Args:
        names: those after a name, at most so many.
    """
    wanted, last = request.parameter("n"), request.parameter("last") or ""
    if wanted is None:
        return names(last, None), ""
    if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 10):
        raise RegistryHttpError("PAGINATION_NUMBER_INVALID", {"n": wanted})
    count = min(int(wanted), _MAX_PAGE)
    found = names(last, count + 1)
    page = found[:count]
    if not page or len(found) <= count:
        return page, ""
    return page, link_to_next(request, last=page[-1], n=str(count))
