"""Request heads, parsed strictly and quickly. No I/O.

Owns   the syntax of a request line and its fields, and what they say about the body. Whatever two
       parties on a path could read in two ways is refused: a request smuggler lives on that.
Runs   in servers with a loop of their own (the registry's), where h11's 100 us a request are too many.
Needs  nothing.
Spec   RFC 9112 sections 2.2, 3, 5, 6 and 11.2; RFC 9110 sections 5 and 7.2.

Refused though the RFC would let a server repair it: line ends without CR, folded lines, blanks before
a colon, repeated Host or Content-Length fields (even equal ones), Transfer-Encoding beside a
Content-Length, in HTTP/1.0, or with anything but ``chunked``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pallet.http.h1 import BadRequestError

MAX_HEAD_BYTES: Final = 32 * 1024
_MAX_LINE_BYTES: Final = 8 * 1024
_MAX_FIELDS: Final = 100
_MAX_LENGTH_DIGITS: Final = 18

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!-~]+) HTTP/([0-9])\.([0-9])")
_FIELDS: Final = re.compile(rb"(?:" + _TOKEN + rb":[\t -~\x80-\xff]*+\r\n)*+")
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):[\t ]*+([\t -~\x80-\xff]*+)\r\n")
_ABSOLUTE: Final = re.compile(r"https?://[^/?#@]+(?=[/?]|$)", re.IGNORECASE)
_BEGINNING: Final = re.compile(rb"(?:\r\n?)?+[!#$%&'*+\-.^_`|~0-9A-Za-z]*+ ?")
_HOST: Final = re.compile(r"[A-Za-z0-9._~%!$&'()*+,;=\-]*(?::[0-9]*)?|\[[0-9A-Fa-f:.]+\](?::[0-9]*)?")
_ONCE: Final = frozenset({"host", "content-length", "transfer-encoding", "authorization", "content-range",
                          "content-type", "range"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StrictHead:
    """A request without its body; names of fields in lower case, repeated ones joined by commas."""

    method: str
    target: str
    """Path and query as sent, beginning with "/"."""
    headers: dict[str, str]
    http_1_0: bool
    keep_alive: bool
    length: int
    """Of the body; 0 when it is ``chunked``."""
    chunked: bool
    expects_continue: bool
    size: int
    """Bytes of the head itself, with those before it that do not count."""


def parse(data: bytes) -> StrictHead | None:
    """Return the request that ``data`` begins with; None needs more bytes.

    Raises:
        BadRequestError: 400, 414, 431, 501 or 505; close the connection after the reply.
    """
    start = 2 if data.startswith(b"\r\n") else 0  # RFC 9112 2.2: one empty line before is forgiven
    end = data.find(b"\r\n\r\n", start, start + MAX_HEAD_BYTES)
    if end < 0:
        _refuse_early(data)
        return None
    line_end = data.find(b"\r\n", start)
    match = _LINE.fullmatch(data, start, line_end)
    if match is None or line_end - start > _MAX_LINE_BYTES:
        if line_end - start > _MAX_LINE_BYTES:
            raise _refusal("the request line is too long", 414)
        raise _refusal("malformed request line")
    if match[3] != b"1" or match[4] not in {b"0", b"1"}:
        raise _refusal("only HTTP/1.0 and HTTP/1.1 are spoken here", 505)
    http_1_0 = match[4] == b"0"
    fields = _FIELDS.fullmatch(data, line_end + 2, end + 2)
    if fields is None:
        raise _refusal("malformed header field")
    headers = _headers(data, line_end + 2, end + 2)
    length, chunked = _framing(headers, http_1_0=http_1_0)
    _check_host(headers, http_1_0=http_1_0)
    connection = headers.get("connection", "").lower()
    expectation = headers.get("expect", "").lower()
    if expectation not in {"", "100-continue"}:
        raise _refusal("unknown expectation", 417)
    return StrictHead(
        method=match[1].decode("ascii"), target=_target(match[2].decode("ascii")), headers=headers,
        http_1_0=http_1_0, length=length, chunked=chunked,
        keep_alive=not http_1_0 and (not connection or "close" not in re.split(r"[\t ,]+", connection)),
        expects_continue=bool(expectation) and not http_1_0, size=end + 4)


def _refusal(message: str, status: int = 400) -> BadRequestError:
    return BadRequestError(message, status)


def _refuse_early(data: bytes) -> None:
    """Refuse what cannot become a head any more, before its end came (or never comes)."""
    if len(data) >= MAX_HEAD_BYTES:
        raise _refusal("the request's head is too long", 431)
    line_end = data.find(b"\n")
    if len(data if line_end < 0 else data[:line_end]) > _MAX_LINE_BYTES:
        raise _refusal("the request line is too long", 414)
    if b"\0" in data:
        raise _refusal("malformed request")
    begun = _BEGINNING.match(data)
    if begun is None or (begun.end() < len(data) and not data[:begun.end()].endswith(b" ")):
        raise _refusal("malformed request line")  # a TLS handshake, for one


def _headers(data: bytes, start: int, end: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    count = 0
    for raw_name, raw_value in _FIELD.findall(data, start, end):
        count += 1
        name = raw_name.decode("ascii").lower()
        value = raw_value.decode("latin-1").rstrip("\t ")
        if name in headers:
            if name in _ONCE:
                message = f"repeated field {name}"
                raise _refusal(message)
            value = f"{headers[name]}, {value}"
        headers[name] = value
    if count > _MAX_FIELDS:
        raise _refusal("too many header fields", 431)
    return headers


def _framing(headers: dict[str, str], *, http_1_0: bool) -> tuple[int, bool]:
    """Length of the body, and whether it is chunked instead."""
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None:
        if length is not None or http_1_0:
            raise _refusal("Transfer-Encoding with a Content-Length or in HTTP/1.0")
        if coding.lower() != "chunked":
            raise _refusal("unknown transfer coding", 501)
        return 0, True
    if length is None:
        return 0, False
    if not length.isascii() or not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS:
        raise _refusal("malformed Content-Length")
    return int(length), False


def _check_host(headers: dict[str, str], *, http_1_0: bool) -> None:
    host = headers.get("host")
    if host is None:
        if not http_1_0:
            raise _refusal("no Host field")
    elif _HOST.fullmatch(host) is None:
        raise _refusal("malformed Host field")


def _target(text: str) -> str:
    if not text.startswith("/"):
        absolute = _ABSOLUTE.match(text)
        if absolute is None:
            raise _refusal("malformed request target")
        text = text[absolute.end():]
        if not text.startswith("/"):
            text = f"/{text}"
    if "#" in text:
        raise _refusal("malformed request target")
    return text
