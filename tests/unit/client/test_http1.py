"""The blocking HTTP/1.1 connection: framing both ways."""

from __future__ import annotations

import pytest

from pallet.client.errors import ProtocolError
from pallet.client.http1 import Connection
from tests.unit.client.fakes import ScriptedTransport


def connection(*pieces: bytes) -> Connection:
    return Connection(ScriptedTransport(*pieces), "host")


def in_bytes(data: bytes) -> list[bytes]:
    return [data[at:at + 1] for at in range(len(data))]


SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"
CHUNKED = (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
           b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: x\r\n\r\n")


@pytest.mark.parametrize("reply", [SIZED, CHUNKED])
@pytest.mark.parametrize("pieces", ["whole", "bytes"])
def test_body_is_read_however_it_arrives(reply: bytes, pieces: str) -> None:
    conn = connection(*([reply] if pieces == "whole" else in_bytes(reply)))
    answer = conn.receive()
    assert (answer.status, answer.reason, answer.read()) == (200, "OK", b"hello")
    assert conn.reusable
    assert conn.buffer == b""


def test_two_replies_on_one_connection() -> None:
    conn = connection(SIZED + CHUNKED)
    assert conn.receive().read() + conn.receive().read() == b"hellohello"


def test_body_until_close_ends_the_connection() -> None:
    conn = connection(b"HTTP/1.1 200 OK\r\n\r\nab", b"cd")
    assert conn.receive().read() == b"abcd"
    assert not conn.reusable


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 204), ("POST", 304)])
def test_replies_without_a_body(method: str, status: int) -> None:
    conn = connection(b"HTTP/1.1 %d X\r\nContent-Length: 9\r\n\r\n" % status)
    assert conn.receive(method).read() == b""
    assert conn.reusable


def test_hijacked_bytes_stay_in_the_buffer() -> None:
    conn = connection(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nraw")
    assert conn.receive("POST").status == 101
    assert conn.buffer == b"raw"


def test_continue_is_skipped() -> None:
    conn = connection(b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED)
    assert conn.receive().status == 200


def test_connection_close_is_honoured() -> None:
    conn = connection(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    conn.receive()
    assert not conn.reusable


@pytest.mark.parametrize(("data", "words"), [
    (b"", "EOF"), (b"HTTP/1.1 200", "unexpected EOF"), (b"SSH-2.0-x\r\n\r\n", "malformed HTTP"),
])
def test_what_is_not_http_is_an_error(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        connection(data).receive()


@pytest.mark.parametrize("reply", [SIZED[:-1], CHUNKED[:-30], CHUNKED.replace(b"3\r\n", b"z\r\n")])
def test_truncated_or_malformed_body_is_an_error(reply: bytes) -> None:
    answer = connection(reply).receive()
    with pytest.raises(ProtocolError):
        answer.read()


def test_lines_are_put_together_across_chunks() -> None:
    body = b"4\r\n{1}\n\r\n4\r\n\r\n{2\r\n3\r\n}\r\n\r\n0\r\n\r\n"
    conn = connection(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert list(conn.receive().lines()) == [b"{1}", b"{2}"]


def test_requests_carry_length_host_and_headers() -> None:
    transport = ScriptedTransport()
    Connection(transport, "h").send("POST", "/x?a=1", [("A", "b")], b"{}")
    assert transport.sent == (b"POST /x?a=1 HTTP/1.1\r\nHost: h\r\nUser-Agent: pallet\r\nA: b\r\n"
                              b"Content-Length: 2\r\n\r\n{}")


def test_empty_post_says_so_and_get_does_not() -> None:
    transport = ScriptedTransport()
    conn = Connection(transport, "h")
    conn.send("POST", "/x")
    conn.send("GET", "/y")
    assert transport.sent.count(b"Content-Length: 0") == 1


def test_streamed_body_is_chunked_and_skips_empty_pieces() -> None:
    transport = ScriptedTransport()
    Connection(transport, "h").send_stream("POST", "/x", [], [b"abc", b"", b"d" * 16])
    assert transport.sent.endswith(b"\r\n\r\n3\r\nabc\r\n10\r\n" + b"d" * 16 + b"\r\n0\r\n\r\n")


def test_early_answer_to_an_upload_is_still_read() -> None:
    class Deaf(ScriptedTransport):
        def sendall(self, data: bytes, /) -> None:
            if data[:4] != b"POST":
                raise BrokenPipeError
            super().sendall(data)

    conn = Connection(Deaf(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno"), "h")
    conn.send_stream("POST", "/x", [], [b"abc"])
    assert conn.receive("POST").read() == b"no"
    assert not conn.reusable
