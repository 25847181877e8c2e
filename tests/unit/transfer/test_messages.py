"""Progress bars and error texts: what people and clients read."""

from __future__ import annotations

import socket
import ssl

import msgspec
import pytest
import urllib3.exceptions as u3

from pallet.errors import NotFoundError, SystemFailureError
from pallet.spec.reference import parse_normalized
from pallet.transfer import failures, progress
from pallet.transfer.failures import RefusedError, from_exception, from_reply


@pytest.mark.parametrize(("current", "total", "text"), [
    (0, 0, ""),
    (720, 0, "    720B"),
    (32768, 3001164, "[>                                                  ]  32.77kB/3.001MB"),
    (32768, 300321, "[=====>                                             ]  32.77kB/300.3kB"),
    (300321, 300321, "[==================================================>]  300.3kB/300.3kB"),
    (1986560, 1982256, "[==================================================>]  1.987MB"),
])
def test_bar(current: int, total: int, text: str) -> None:
    """As recorded from dockerd."""
    assert progress.bar(current, total) == text


def test_wire_form() -> None:
    """Field order and the empty detail object are dockerd's."""
    def encoded(message: msgspec.Struct) -> str:
        return msgspec.json.encode(message).decode()

    assert encoded(progress.update("Pull complete", "ab")) == (
        '{"status":"Pull complete","progressDetail":{},"id":"ab"}')
    assert encoded(progress.message("Pulling from a", "latest")) == (
        '{"status":"Pulling from a","id":"latest"}')
    assert encoded(progress.message("Digest: x")) == '{"status":"Digest: x"}'
    assert encoded(progress.count("Downloading", "ab", 1, 2)).startswith(
        '{"status":"Downloading","progressDetail":{"current":1,"total":2},"progress":"[')


def test_throttle() -> None:
    """Ten a second at most; the last one always."""
    now = [0.0]
    passed: list[int] = []
    throttle = progress.Throttle(passed.append, clock=lambda: now[0])
    for step in range(100):
        now[0] = step / 100
        throttle.report(step)
    assert len(passed) == 10
    throttle.report(99, last=True)
    assert passed[-1] == 99


@pytest.mark.parametrize(("status", "body", "code", "text"), [
    (404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}',
     "MANIFEST_UNKNOWN", "manifest unknown: manifest unknown"),
    (403, b'{"errors":[{"code":"DENIED"}]}', "DENIED",
     "denied: requested access to the resource is denied"),
    (401, b"", "UNAUTHORIZED", "unauthorized: authentication required"),
    (401, b'{"details":"incorrect username or password"}', "UNAUTHORIZED",
     "unauthorized: authentication required: incorrect username or password"),
    (429, b"slow down", "TOOMANYREQUESTS", "toomanyrequests: too many requests"),
    (404, b"<html>", "", 'error parsing HTTP 404 response body: not an error document: "<html>"'),
    (500, b"x", "", "received unexpected HTTP status: 500 Reason"),
    (400, b'{"errors":[{"code":"A","message":"x"},{"code":"B","message":"y"}]}', "A",
     "errors:\na: x\nb: y\n"),
])
def test_error_documents(status: int, body: bytes, code: str, text: str) -> None:
    """Go's words for a registry's answers."""
    found = from_reply(status, "Reason", body)
    assert (found.code, str(found)) == (code, text)


def wrapped(kind: type[Exception], cause: Exception) -> Exception:
    try:
        raise kind(None, None, "x") from cause
    except kind as error:
        return error


@pytest.mark.parametrize(("error", "text"), [
    (ConnectionRefusedError(111, "Connection refused"),
     'Get "http://h:5/v2/": dial tcp h:5: connect: connection refused'),
    (socket.gaierror(-2, "Name or service not known"),
     'Get "http://h:5/v2/": dial tcp: lookup h: no such host'),
    (u3.ReadTimeoutError(None, "u", "x"),  # type: ignore[arg-type]
     'Get "http://h:5/v2/": net/http: timeout awaiting response headers'),
    (u3.ProtocolError("Connection broken", ConnectionResetError(104, "reset")),
     'Get "http://h:5/v2/": read: connection reset by peer'),
    (u3.IncompleteRead(1, 2), 'Get "http://h:5/v2/": unexpected EOF'),
])
def test_socket_errors(error: Exception, text: str) -> None:
    """Go's words for what happens below HTTP."""
    assert str(from_exception("GET", "http://h:5/v2/", error)) == text


def test_certificate_errors() -> None:
    """x509 words, and the hint that a server speaks plain HTTP."""
    unknown = ssl.SSLCertVerificationError(1, "x")
    unknown.verify_message = "self-signed certificate"
    assert str(from_exception("GET", "https://h/v2/", u3.SSLError(unknown))).endswith(
        "x509: certificate signed by unknown authority")
    plain = ssl.SSLError(1, "x")
    plain.reason = "WRONG_VERSION_NUMBER"
    found = from_exception("GET", "https://h/v2/", u3.SSLError(plain))
    assert found.wrong_scheme
    assert str(found).endswith("http: server gave HTTP response to HTTPS client")


@pytest.mark.parametrize(("code", "kind", "text"), [
    ("DENIED", NotFoundError, "pull access denied for a, repository does not exist or may require "
     "'docker login': denied: requested access to the resource is denied"),
    ("MANIFEST_UNKNOWN", NotFoundError, "manifest for a:1 not found: manifest unknown: manifest unknown"),
    ("NAME_UNKNOWN", NotFoundError, "repository a not found: name unknown: repository name not "
     "known to registry"),
    ("TOOMANYREQUESTS", SystemFailureError, "toomanyrequests: too many requests"),
])
def test_pull_failures(code: str, kind: type[Exception], text: str) -> None:
    """The sentences the docker CLI and its users look for."""
    error = RefusedError(400, code, failures.describe(code, ""))
    found = failures.for_pull(error, parse_normalized("a:1"))
    assert type(found) is kind
    assert str(found) == text
