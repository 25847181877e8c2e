"""Request heads: what is one, what is none, and what two parsers could read differently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallet.http.h1 import BadRequestError
from pallet.http.strict import MAX_HEAD_BYTES, parse

HOST = b"Host: r.example:5000\r\n"


def head(line: bytes = b"GET /v2/ HTTP/1.1", *fields: bytes, host: bytes = HOST) -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def refused(data: bytes) -> int:
    with pytest.raises(BadRequestError) as error:
        parse(data)
    return error.value.status


def test_a_request() -> None:
    """Names in lower case, blanks around values gone, repeated fields joined, the rest left alone."""
    data = head(b"GET /v2/a/tags/list?n=2 HTTP/1.1", b"accept:a/b", b"ACCEPT: \t c/d \t", b"X-Empty:",
                "X-Text: h\u00e9".encode("latin-1"))
    found = parse(data + b"GET / HTTP")
    assert found is not None
    assert (found.method, found.target, found.size) == ("GET", "/v2/a/tags/list?n=2", len(data))
    assert found.headers == {"host": "r.example:5000", "accept": "a/b, c/d", "x-empty": "", "x-text": "h\u00e9"}
    assert (found.keep_alive, found.length, found.chunked, found.expects_continue) == (True, 0, False, False)


@pytest.mark.parametrize(("fields", "length", "chunked"), [
    ([b"Content-Length: 17"], 17, False), ([b"Content-Length: 0"], 0, False),
    ([b"Transfer-Encoding: chunked"], 0, True), ([b"Transfer-Encoding:\tChunked "], 0, True)])
def test_bodies(fields: list[bytes], length: int, *, chunked: bool) -> None:
    found = parse(head(b"PUT /x HTTP/1.1", *fields, b"Expect: 100-continue"))
    assert found is not None
    assert (found.length, found.chunked, found.expects_continue) == (length, chunked, True)


@pytest.mark.parametrize(("line", "field", "kept"), [
    (b"GET / HTTP/1.1", b"Connection: close", False), (b"GET / HTTP/1.1", b"Connection: keep-alive, Close", False),
    (b"GET / HTTP/1.1", b"Connection: keep-alive", True), (b"GET / HTTP/1.1", b"Connection: closed", True),
    (b"GET / HTTP/1.0", b"X: y", False), (b"GET / HTTP/1.0", b"Connection: keep-alive", False)])
def test_persistence(line: bytes, field: bytes, *, kept: bool) -> None:
    found = parse(head(line, field))
    assert found is not None
    assert found.keep_alive is kept


def test_absolute_target_and_leading_empty_line() -> None:
    """RFC 9112 3.2.2: a server takes the absolute form; 2.2: one empty line before a request is skipped."""
    found = parse(b"\r\n" + head(b"GET http://other/v2/?a=b HTTP/1.1"))
    assert found is not None
    assert found.target == "/v2/?a=b"
    assert found.size == 2 + len(head(b"GET http://other/v2/?a=b HTTP/1.1"))


@pytest.mark.parametrize("fields", [
    [b"Content-Length: 5", b"Content-Length: 5"], [b"Content-Length: 5", b"Content-Length: 6"],
    [b"Content-Length: 5, 5"], [b"Content-Length: +5"], [b"Content-Length: -1"], [b"Content-Length: 0x10"],
    [b"Content-Length: 1_0"], [b"Content-Length: 5 5"], [b"Content-Length:"], [b"Content-Length: \xb2"],
    [b"Content-Length: " + b"9" * 19],
    [b"Content-Length: 5", b"Transfer-Encoding: chunked"], [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
    [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    [b"Content-Length : 5"], [b"Transfer-Encoding : chunked"], [b"Transfer-Encoding\t: chunked"],
    [b" Content-Length: 5"], [b"X: y", b" Content-Length: 5"], [b"X: y", b"\tTransfer-Encoding: chunked"],
    [b"X: a\nContent-Length: 5"], [b"X: a\rContent-Length: 5"], [b"X: a\0b"], [b"X\0: a"], [b"X: \x01"],
    [b": nameless"], [b"no colon"], [b"Content-Length\xa0: 5"], [b"Content_Length\x0b: 5"],
    [b"Host: r.example:5000"], [b"Host: other"], [b"Authorization: a", b"Authorization: b"],
], ids=repr)
def test_smuggling_is_refused(fields: list[bytes]) -> None:
    """Two lengths, a length and chunks, folded lines, blanks before colons, bare CR or LF: 400."""
    assert refused(head(b"POST /x HTTP/1.1", *fields)) == 400


@pytest.mark.parametrize("coding", [b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"xchunked",
                                    b"chunked;q=1", b"\"chunked\"", b""])
def test_other_codings_are_not_implemented(coding: bytes) -> None:
    assert refused(head(b"POST /x HTTP/1.1", b"Transfer-Encoding: " + coding)) == 501


def test_chunks_in_http_1_0_are_refused() -> None:
    assert refused(head(b"POST /x HTTP/1.0", b"Transfer-Encoding: chunked")) == 400


@pytest.mark.parametrize("line", [
    b"GET  /v2/ HTTP/1.1", b"GET /v2/  HTTP/1.1", b" GET /v2/ HTTP/1.1", b"GET /v2/ HTTP/1.1 ", b"GET /v2/",
    b"GET\t/v2/ HTTP/1.1", b"GET /v 2/ HTTP/1.1", b"GET /v2/\x7f HTTP/1.1", b"GET v2/ HTTP/1.1",
    b"GET http:/v2/ HTTP/1.1", b"GET ftp://h/ HTTP/1.1", b"GET http://user@h/ HTTP/1.1", b"GET /a#b HTTP/1.1",
    b"GET * HTTP/1.1", b"G(T / HTTP/1.1", b"GET / http/1.1", b"GET / HTTP/1.1\r", b"GET / HTTP/11", b""])
def test_malformed_lines(line: bytes) -> None:
    assert refused(head(line)) == 400


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2"])
def test_other_versions(version: bytes) -> None:
    assert refused(head(b"GET / " + version)) == 505


@pytest.mark.parametrize("host", [b"", b"Host: a b\r\n", b"Host: a/b\r\n", b"Host: a,b\r\n" * 2,
                                  b"Host: user@h\r\n", b"Host: [::1\r\n"])
def test_a_request_names_one_host(host: bytes) -> None:
    assert refused(head(host=host)) == 400


def test_http_1_0_needs_no_host() -> None:
    assert parse(head(b"GET / HTTP/1.0", host=b"")) is not None


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01\x00", b"{", b"GET\0", b"\r\n\r\nGET", b"\n", b"a b\0",
                                  b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_garbage_is_refused_before_its_end(data: bytes) -> None:
    """A client that speaks TLS is told so at once, not after a time-out."""
    assert refused(data) in {400, 505}


def test_limits() -> None:
    """A long line, a long head, many fields: with the statuses that say which."""
    assert refused(b"GET /" + b"a" * 9000) == 414
    assert refused(head(b"GET /" + b"a" * 9000 + b" HTTP/1.1")) == 414
    assert refused(b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD_BYTES) == 431
    assert refused(head(b"GET / HTTP/1.1", *[b"X: y"] * 101)) == 431
    assert refused(head(b"GET / HTTP/1.1", b"Expect: tea")) == 417


@given(st.binary(max_size=300), st.integers(0, 300))
def test_a_prefix_never_reads_differently(junk: bytes, cut: int) -> None:
    """However the bytes are cut: the same request, or a refusal; never another request."""
    data = head(b"POST /x HTTP/1.1", b"Content-Length: 3", b"X: " + junk.hex().encode()) + b"abc"
    whole = parse(data)
    assert whole is not None
    part = parse(data[:cut])
    assert part is None or part == whole


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Nothing but a request, a refusal or "more" comes of any bytes."""
    try:
        found = parse(data + b"\r\n\r\n")
    except BadRequestError:
        return
    assert found is None or found.target.startswith("/")
