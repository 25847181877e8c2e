"""What can go wrong between Pallet and a registry, in Docker's words.

Owns   the translation of HTTP statuses, error documents and socket errors to messages and kinds.
Runs   in transfer threads; pure.
Needs  urllib3's exception classes.
Spec   distribution-spec "Error codes"; the texts are those of Go's ``net/http`` and of Docker.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import urllib3.exceptions as u3

from pallet.errors import (
    ForbiddenError,
    NotFoundError,
    PalletError,
    SystemFailureError,
    UnauthorizedError,
)
from pallet.spec import distribution

if TYPE_CHECKING:
    from pallet.spec.reference import Reference

_DEFAULT_MESSAGES = {
    "UNAUTHORIZED": "authentication required",
    "DENIED": "requested access to the resource is denied",
    "TOOMANYREQUESTS": "too many requests",
    "UNSUPPORTED": "The operation is unsupported.",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "MANIFEST_INVALID": "manifest invalid",
    "NAME_UNKNOWN": "repository name not known to registry",
    "NAME_INVALID": "invalid repository name",
    "BLOB_UNKNOWN": "blob unknown to registry",
    "BLOB_UPLOAD_UNKNOWN": "blob upload unknown to registry",
    "BLOB_UPLOAD_INVALID": "blob upload invalid",
    "DIGEST_INVALID": "provided digest did not match uploaded content",
    "UNKNOWN": "unknown error",
}
_FINAL_CODES = frozenset({
    "UNAUTHORIZED", "UNSUPPORTED", "DENIED", "TOOMANYREQUESTS", "NAME_UNKNOWN", "MANIFEST_UNKNOWN",
    "MANIFEST_INVALID", "NAME_INVALID", "BLOB_UNKNOWN"})
_STATUSES = {"UNAUTHORIZED": 401, "DENIED": 403, "NAME_UNKNOWN": 404, "MANIFEST_UNKNOWN": 404}
_MAX_QUOTED = 1024


class RegistryError(PalletError):
    """A registry request failed. ``retry`` says whether the same request may yet succeed."""

    retry = False


class UnreachableError(RegistryError):
    """No HTTP answer came: name resolution, connection, TLS or a broken transfer.

    Args:
        method, url: of the request, for the message.
        reason: what Go's client would say.
        wrong_scheme: the server spoke plain HTTP where TLS was expected.
    """

    retry = True

    def __init__(self, method: str, url: str, reason: str, *, wrong_scheme: bool = False) -> None:
        super().__init__(f'{method.capitalize()} "{url}": {reason}')
        self.reason = reason
        self.wrong_scheme = wrong_scheme


class RefusedError(RegistryError):
    """The registry answered with an error status.

    ``code`` is the specification's word or "" when the body was not an error document.
    """

    def __init__(self, status: int, code: str, text: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        self.request_url = ""
        """The request for which a token was refused, when it was not the registry that refused."""
        self.retry = status >= 500 or (status in {408, 429} and code != "DENIED")


class BadContentError(RegistryError):
    """The registry answered, but not with the bytes that were asked for."""

    def __init__(self, text: str, *, retry: bool = False) -> None:
        super().__init__(text)
        self.retry = retry


def describe(code: str, message: str) -> str:
    """``denied: requested access to the resource is denied``: one error as Go prints it."""
    text = message or _DEFAULT_MESSAGES.get(code, "unknown error")
    return f"{code.lower().replace('_', ' ')}: {text}"


def from_reply(status: int, reason: str, body: bytes, challenge_error: str = "") -> RefusedError:
    """Turn an error reply into a failure.

    Args:
        challenge_error: the ``error`` parameter of a bearer challenge, if there was one.
    """
    if not 400 <= status < 500:
        return RefusedError(status, "", f"received unexpected HTTP status: {status} {reason}")
    bearer = {"invalid_token": "UNAUTHORIZED", "insufficient_scope": "DENIED"}.get(challenge_error)
    if bearer:
        return RefusedError(status, bearer, describe(bearer, ""))
    try:
        reply = distribution.error_decoder.decode(body)
    except msgspec.DecodeError:
        reply = distribution.ErrorReply()
    if reply.errors:
        lines = [describe(info.code or "UNKNOWN", info.message) for info in reply.errors]
        text = lines[0] if len(lines) == 1 else "errors:\n" + "\n".join(lines) + "\n"
        return RefusedError(status, reply.errors[0].code, text)
    if status == 401:
        detail = f": {reply.details}" if reply.details else ""
        return RefusedError(status, "UNAUTHORIZED", describe("UNAUTHORIZED", "") + detail)
    if status == 429:
        return RefusedError(status, "TOOMANYREQUESTS", describe("TOOMANYREQUESTS", ""))
    if status == 403:
        return RefusedError(status, "DENIED", describe("DENIED", reply.details))
    quoted = body[:_MAX_QUOTED].decode("utf-8", "replace")
    what = "unexpected end of JSON input" if not body.strip() else "not an error document"
    text = f'error parsing HTTP {status} response body: {what}: "{quoted}"'
    return RefusedError(status, "", text)


def from_exception(method: str, url: str, error: Exception) -> UnreachableError:
    """Turn a socket, TLS or protocol error into Go's words for it."""
    cause = _root(error)
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return UnreachableError(method, url, _certificate_reason(cause, host))
    if isinstance(cause, ssl.SSLError):
        plain = cause.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}
        reason = ("http: server gave HTTP response to HTTPS client" if plain
                  else f"remote error: tls: {(cause.reason or 'handshake failure').lower()}")
        return UnreachableError(method, url, reason, wrong_scheme=plain)
    if isinstance(cause, socket.gaierror):
        return UnreachableError(method, url, f"dial tcp: lookup {host}: no such host")
    if isinstance(cause, (u3.ConnectTimeoutError, TimeoutError)) and not isinstance(
            cause, u3.ReadTimeoutError):
        return UnreachableError(method, url, f"dial tcp {host}:{port}: i/o timeout")
    if isinstance(cause, u3.ReadTimeoutError):
        return UnreachableError(method, url, "net/http: timeout awaiting response headers")
    if isinstance(cause, OSError) and cause.errno is not None:
        reason = _os_reason(cause, host, port)
        return UnreachableError(method, url, reason)
    if isinstance(cause, (u3.IncompleteRead, u3.ProtocolError, EOFError)):
        return UnreachableError(method, url, "unexpected EOF")
    return UnreachableError(method, url, str(cause) or type(cause).__name__)


def _os_reason(error: OSError, host: str, port: int) -> str:
    words = {
        errno.ECONNREFUSED: f"dial tcp {host}:{port}: connect: connection refused",
        errno.EHOSTUNREACH: f"dial tcp {host}:{port}: connect: no route to host",
        errno.ENETUNREACH: f"dial tcp {host}:{port}: connect: network is unreachable",
        errno.ECONNRESET: "read: connection reset by peer",
        errno.EPIPE: "write: broken pipe",
    }
    code = error.errno or 0
    return words.get(code, f"{error.strerror or error}")


def _certificate_reason(error: ssl.SSLCertVerificationError, host: str) -> str:
    prefix = "tls: failed to verify certificate: x509: "
    text = error.verify_message or str(error)
    if "self-signed" in text or "self signed" in text or "unable to get" in text:
        return prefix + "certificate signed by unknown authority"
    if "expired" in text:
        return prefix + "certificate has expired or is not yet valid"
    if "ostname mismatch" in text or "IP address mismatch" in text:
        return f"{prefix}certificate is not valid for any names, but wanted to match {host}"
    return prefix + text


def _root(error: BaseException) -> BaseException:
    """Dig out the exception that urllib3 and ``http.client`` wrapped."""
    for _ in range(8):
        inner: object = None
        if isinstance(error, (u3.SSLError, u3.ProxyError, u3.ProtocolError)) and error.args:
            inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if inner is None and isinstance(error, u3.HTTPError):
            inner = error.__cause__ or error.__context__
        if not isinstance(inner, BaseException) or inner is error:
            return error
        error = inner
    return error


def for_pull(error: RegistryError, reference: Reference) -> PalletError:
    """Word and classify a failure of a pull as Docker's daemon does."""
    if isinstance(error, RefusedError) and not error.request_url:
        if error.code == "DENIED":
            return NotFoundError(
                f"pull access denied for {reference.familiar_name}, repository does not exist or "
                f"may require 'docker login': {error}")
        if error.code == "MANIFEST_UNKNOWN":
            return NotFoundError(f"manifest for {reference.familiar()} not found: {error}")
        if error.code == "NAME_UNKNOWN":
            return NotFoundError(f"repository {reference.familiar_name} not found: {error}")
        if error.status == 404:
            return NotFoundError(
                f"manifest for {reference.familiar()} not found: manifest unknown: {error}")
    return SystemFailureError(_with_request(error))


def for_push(error: RegistryError) -> PalletError:
    """Word and classify a failure of a push as Docker's daemon does."""
    return SystemFailureError(str(error))


def for_inspect(error: RegistryError) -> PalletError:
    """Classify a failure of a look at a remote image: the registry's own words and status."""
    if isinstance(error, RefusedError) and not error.request_url:
        status = _STATUSES.get(error.code, error.status)
        kind = {401: UnauthorizedError, 403: ForbiddenError, 404: NotFoundError}.get(status)
        if kind is not None:
            return kind(str(error))
    return SystemFailureError(_with_request(error))


def for_login(error: RegistryError) -> PalletError:
    """Word and classify a failure of a login."""
    if isinstance(error, RefusedError) and error.status in {401, 403}:
        return UnauthorizedError(_with_request(error))
    return SystemFailureError(_with_request(error))


def _with_request(error: RegistryError) -> str:
    """Name the request that a refused token was wanted for, as Go's client does."""
    if isinstance(error, RefusedError) and error.request_url:
        return f'Get "{error.request_url}": {error}'
    return str(error)


def is_final(error: RegistryError) -> bool:
    """Whether another endpoint of the same registry cannot do better."""
    return isinstance(error, RefusedError) and error.code in _FINAL_CODES
