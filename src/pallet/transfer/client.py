"""One repository on one endpoint: manifests, blobs, tags, uploads.

Owns   the requests of the distribution protocol and the retry after a challenge.
Runs   in transfer threads; a client belongs to one operation, which may use it from several.
Needs  a ``Transport``.
Spec   distribution-spec end-1 to end-12. Manifests are verified here, blobs by who reads them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urljoin

import msgspec

from pallet.spec import digest as digests
from pallet.spec import distribution, image
from pallet.transfer import failures
from pallet.transfer.auth import Authorizer, LoginCredentials, parse_challenges
from pallet.transfer.failures import BadContentError, RefusedError, RegistryError
from pallet.transfer.transport import abandon, finish, read_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3 import HTTPHeaderDict
    from urllib3.response import HTTPResponse

    from pallet.transfer.resolver import Endpoint
    from pallet.transfer.transport import Body, Transport
    from pallet.types import Digest

MAX_MANIFEST_BYTES = 4 << 20
_ACCEPT_MANIFESTS = ", ".join(image.MANIFEST_TYPES)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawManifest:
    """A manifest as it came; ``digest`` is what it hashes to."""

    raw: bytes
    content_type: str
    digest: Digest


class RepositoryClient:
    """Speaks to one repository.

    Args:
        path: repository path without domain, ``library/debian``.
        actions: token actions to ask for, ``pull`` or ``pull,push``.
        headers: sent with every request to the registry (``X-Meta-…``).
    """

    def __init__(
        self, transport: Transport, endpoint: Endpoint, path: str, *,
        credentials: LoginCredentials, actions: str = "pull",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.path = path
        self._transport = transport
        self._headers = dict(headers or {})
        # Another registry's repository has a name of its own on a mirror, which its challenge tells.
        named = bool(path) and not endpoint.namespace
        self._scopes: tuple[str, ...] = (f"repository:{path}:{actions}",) if named else ()
        self.authorizer = Authorizer(transport, credentials, insecure=endpoint.insecure)

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None,
        body: Body = None, extra_scope: str = "",
    ) -> HTTPResponse:
        """Send an authorized request; answer one challenge. The reply may have any status.

        Args:
            url: absolute, or a path below the endpoint.
            extra_scope: a second token scope (cross-repository mount).

        Raises:
            RegistryError: no reply, or authentication failed.
        """
        full = urljoin(self.endpoint.url + "/", url)
        own_host = full.startswith(self.endpoint.url + "/")
        scopes = (*self._scopes, extra_scope) if extra_scope else self._scopes
        start = body.tell() if body is not None and not isinstance(body, bytes) else 0
        for last in (False, True):
            sent = {**self._headers, **(headers or {})} if own_host else dict(headers or {})
            value = self._authorization(scopes, full) if own_host else None
            if value:
                sent["Authorization"] = value
            response = self._transport.request(method, full, headers=sent, body=body,
                                               insecure=self.endpoint.insecure)
            if response.status != 401 or last or not own_host:
                return response
            challenges = parse_challenges(response.headers.getlist("WWW-Authenticate"))
            try:
                if not self.authorizer.learn(challenges, scopes, full):
                    return response
            except RegistryError:
                abandon(response)
                raise
            finish(response)
            if body is not None and not isinstance(body, bytes):
                body.seek(start)
        message = "unreachable"
        raise AssertionError(message)

    def _authorization(self, scopes: tuple[str, ...], url: str) -> str | None:
        try:
            return self.authorizer.header(scopes)
        except RefusedError as error:
            error.request_url = url
            raise

    def _expect(self, response: HTTPResponse, *statuses: int) -> HTTPResponse:
        if response.status in statuses:
            return response
        raise refusal(response)

    def ping(self) -> None:
        """Check that the endpoint speaks the protocol and accepts the credentials.

        Raises:
            RegistryError: it does not.
        """
        finish(self._expect(self.request("GET", "/v2/"), 200))

    def manifest(self, reference: str) -> image.StoredManifest:
        """Fetch a manifest or index by tag or digest, verified where it can be.

        Raises:
            RefusedError: the registry has none.
            BadContentError: another digest than asked for or announced.
            InvalidParameterError: of a type Pallet does not know.
        """
        found = self.raw_manifest(reference)
        media_type = image.sniff_media_type(found.raw, found.content_type)
        return image.StoredManifest(raw=found.raw, media_type=media_type, digest=found.digest)

    def raw_manifest(self, reference: str, accept: str = _ACCEPT_MANIFESTS) -> RawManifest:
        """Fetch a manifest of any type, verified where it can be.

        Raises:
            RefusedError: the registry has none.
            BadContentError: another digest than asked for or announced.
        """
        response = self._expect(
            self.request("GET", self._url("manifests", reference), headers={"Accept": accept}), 200)
        announced = response.headers.get("Docker-Content-Digest", "")
        content_type = response.headers.get("Content-Type", "")
        raw = read_document(response, limit=MAX_MANIFEST_BYTES)
        wanted = reference if digests.is_digest(reference) else ""
        algorithm = digests.algorithm(wanted) if wanted else "sha256"
        digest = digests.of_bytes(raw, algorithm)
        if wanted and digest != wanted:
            message = f"manifest verification failed for digest {wanted}"
            raise BadContentError(message)
        if not wanted and digests.is_digest(announced):
            actual = digests.of_bytes(raw, digests.algorithm(announced))
            if actual != announced:
                message = f"manifest verification failed for digest {announced}"
                raise BadContentError(message)
            digest = actual
        return RawManifest(raw=raw, content_type=content_type, digest=digest)

    def head(self, kind: str, name: str, accept: str = _ACCEPT_MANIFESTS) -> HTTPHeaderDict:
        """The headers that a GET of a manifest or blob would answer with.

        Args:
            kind: ``manifests`` or ``blobs``.

        Raises:
            RefusedError: it is not there, or cannot be asked for like this.
        """
        headers = {"Accept": accept} if kind == "manifests" else {}
        response = self._expect(self.request("HEAD", self._url(kind, name), headers=headers), 200)
        finish(response)
        return response.headers

    def document(self, kind: str, name: str, query: Mapping[str, str]) -> tuple[bytes, str]:
        """A JSON document of the repository as it is, and the target of its ``Link`` to the next.

        Raises:
            RefusedError: the registry has none.
        """
        url = self._url(kind, name)
        joint = "&" if "?" in url else "?"
        response = self._expect(self.request("GET", f"{url}{joint}{urlencode(query)}" if query else url), 200)
        return read_document(response), _next_link(response.headers.get("Link", ""))

    def has_manifest(self, digest: Digest) -> bool:
        """Whether the repository has the manifest of this digest."""
        response = self.request("HEAD", self._url("manifests", digest),
                                headers={"Accept": _ACCEPT_MANIFESTS})
        finish(response)
        return response.status == 200

    def put_manifest(self, reference: str, manifest: image.StoredManifest) -> None:
        """Store a manifest under a tag or its digest.

        Raises:
            RefusedError: the registry did not take it.
        """
        response = self.request("PUT", self._url("manifests", reference), body=manifest.raw,
                                headers={"Content-Type": manifest.media_type})
        finish(self._expect(response, 200, 201, 202))

    def blob(self, digest: Digest, *, offset_bytes: int = 0) -> HTTPResponse:
        """Open a blob; the caller reads and checks it. Status 200, or 206 from ``offset_bytes``.

        Raises:
            RefusedError: any other status; 416 when the range is not to be had.
        """
        headers = {"Range": f"bytes={offset_bytes}-"} if offset_bytes else {}
        response = self.request("GET", self._url("blobs", digest), headers=headers)
        return self._expect(response, 200, 206)

    def has_blob(self, digest: Digest) -> bool:
        """Whether the repository has the blob.

        Raises:
            RefusedError: neither yes nor no.
        """
        response = self.request("HEAD", self._url("blobs", digest))
        if response.status == 404:
            finish(response)
            return False
        finish(self._expect(response, 200))
        return True

    def tags(self) -> list[str]:
        """Every tag of the repository, following the pages.

        Raises:
            RefusedError: the repository is unknown or closed.
        """
        found: list[str] = []
        url = self._url("tags", "list")
        for _ in range(10_000):
            response = self._expect(self.request("GET", url), 200)
            link = response.headers.get("Link", "")
            try:
                page = distribution.tags_decoder.decode(read_document(response))
            except msgspec.DecodeError as error:
                message = f"invalid tag list: {error}"
                raise BadContentError(message) from error
            found += page.tags or []
            following = _next_link(link)
            if not following:
                break
            url = urljoin(f"{self.endpoint.url}{url}" if url.startswith("/") else url, following)
        return found

    def start_upload(self, *, mount: Digest | None = None, source: str = "") -> str | None:
        """Open an upload session and return its URL, or None when ``mount`` made it needless.

        Raises:
            RefusedError: the registry does not take uploads from us.
        """
        query = ""
        if mount is not None:
            query = "?" + urlencode({"mount": mount, "from": source}, safe=":/")
        scope = f"repository:{source}:pull" if mount is not None and source else ""
        response = self.request("POST", f"/v2/{self.path}/blobs/uploads/{query}", body=b"",
                                extra_scope=scope)
        self._expect(response, 201, 202)
        location = response.headers.get("Location", "")
        finish(response)
        if response.status == 201 and mount is not None:
            return None
        if not location:
            message = "the registry gave no upload location"
            raise BadContentError(message)
        return urljoin(f"{self.endpoint.url}/v2/{self.path}/blobs/uploads/", location)

    def finish_upload(self, location: str, digest: Digest, body: Body, size_bytes: int) -> None:
        """Send the blob (or its rest) and close the session.

        Args:
            body: from where it stands to its end; None when all was sent.

        Raises:
            RefusedError: the registry did not take it.
        """
        joint = "&" if "?" in location else "?"
        response = self.request(
            "PUT", f"{location}{joint}{urlencode({'digest': digest}, safe=':')}", body=body,
            headers={"Content-Type": "application/octet-stream",
                     "Content-Length": str(size_bytes)})
        finish(self._expect(response, 200, 201, 204))

    def send_chunk(self, location: str, body: Body, offset_bytes: int | None,
                   size_bytes: int | None) -> str:
        """Send a part of the blob and return the session's URL for what follows.

        Args:
            body: from where it stands.
            offset_bytes, size_bytes: which part it is; None sends to its end, as a stream.

        Raises:
            RefusedError: the registry did not take it.
        """
        headers = {"Content-Type": "application/octet-stream"}
        if offset_bytes is not None and size_bytes is not None:
            headers["Content-Length"] = str(size_bytes)
            headers["Content-Range"] = f"{offset_bytes}-{offset_bytes + size_bytes - 1}"
        response = self._expect(self.request("PATCH", location, body=body, headers=headers),
                                200, 201, 202, 204)
        following = response.headers.get("Location", "")
        finish(response)
        return urljoin(location, following) if following else location

    def upload_status(self, location: str) -> tuple[str, int]:
        """Where a session goes on: its URL and the number of bytes it has.

        Raises:
            RefusedError: the registry does not know it any more.
        """
        response = self._expect(self.request("GET", location), 200, 204)
        following = response.headers.get("Location", "")
        last = response.headers.get("Range", "").removeprefix("bytes=").partition("-")[2]
        finish(response)
        offset = int(last) + 1 if last.isdigit() and last != "0" else 0
        return urljoin(location, following) if following else location, offset

    def cancel_upload(self, location: str) -> None:
        """Give a session up; a registry that cannot lets it expire."""
        with suppress(RegistryError):
            finish(self.request("DELETE", location))

    def _url(self, kind: str, name: str) -> str:
        namespace = self.endpoint.namespace
        query = f"?ns={quote(namespace, safe=':')}" if namespace else ""
        return f"/v2/{self.path}/{kind}/{quote(name, safe=':')}{query}"


def refusal(response: HTTPResponse) -> RefusedError:
    """Read an error reply and turn it into the failure to raise."""
    challenges = parse_challenges(response.headers.getlist("WWW-Authenticate"))
    bearer = next((c for c in challenges if c.scheme == "bearer"), None)
    body = read_document(response, limit=1 << 20)
    failure = failures.from_reply(response.status, response.reason or "", body,
                                  bearer.parameters.get("error", "") if bearer else "")
    wait = response.headers.get("Retry-After", "")
    failure.retry_after_s = float(wait) if wait.isdigit() else 0.0
    return failure


def _next_link(header: str) -> str:
    for part in header.split(","):
        target, _, parameters = part.partition(";")
        if 'rel="next"' in parameters or "rel=next" in parameters:
            return target.strip().strip("<>")
    return ""
