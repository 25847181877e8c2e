"""The quick way through a request's head: the same events as h11's, or none of its business."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallet.http import h1

_HEADS = [
    b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1.41/containers/create?name=a HTTP/1.1\r\nHost: docker\r\nUser-Agent: Docker-Client/28\r\n"
    b"Content-Type: application/json\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost:\r\nContent-Length: 3\r\n\r\nabc",
    b"DELETE /x HTTP/1.1\r\nhOsT:  a b \t\r\nX-Empty: \r\n\r\n",
    b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"PUT /c HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    b"GET /c HTTP/1.0\r\nHost: x\r\n\r\n",
    b"GET /c HTTP/1.1\r\nX: caf\xc3\xa9\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: y\r\n\r\n",
]
_REFUSED = [
    b"GET / HTTP/1.1\r\n\r\n",  # no Host
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\nx",
    b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n",
]


def _events(pieces: list[bytes], *, quick: bool) -> list[object]:
    """What a reader makes of the first request in ``pieces``, bodies joined, and what it left over."""
    reader = h1.RequestReader()
    if not quick:
        reader._begin_parser()
    told: list[object] = []
    body = b""
    for piece in pieces:
        reader.feed(piece)
        while not isinstance(event := reader.next_event(), h1.NeedData | h1.EndOfRequest):
            if isinstance(event, bytes):
                body += event
            else:
                told.append(event)
        if isinstance(event, h1.EndOfRequest):
            told += [body, "end"]
            break
    rest = reader.trailing
    return [*told, rest]


@pytest.mark.parametrize("raw", _HEADS)
def test_same_as_h11(raw: bytes) -> None:
    assert _events([raw], quick=True) == _events([raw], quick=False)


@given(st.sampled_from(_HEADS), st.integers(1, 120))
def test_same_as_h11_in_pieces(raw: bytes, size: int) -> None:
    pieces = [raw[at:at + size] for at in range(0, len(raw), size)]
    whole = _events([raw], quick=False)
    split = _events(pieces, quick=True)
    # What comes after the request may not have been fed yet.
    assert split[:-1] == whole[:-1]


@pytest.mark.parametrize("raw", _REFUSED)
def test_refused(raw: bytes) -> None:
    with pytest.raises(h1.BadRequestError):
        _events([raw], quick=True)


@given(st.sampled_from(_HEADS), st.integers(0, 80), st.integers(0, 255))
def test_one_changed_byte_means_the_same_to_both(raw: bytes, at: int, value: int) -> None:
    changed = raw[:at] + bytes([value]) + raw[at + 1:]

    def outcome(*, quick: bool) -> object:
        try:
            return _events([changed], quick=quick)
        except h1.BadRequestError as error:
            return error.status

    assert outcome(quick=True) == outcome(quick=False)


def test_lost_in_a_body() -> None:
    reader = h1.RequestReader()
    reader.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    assert isinstance(reader.next_event(), h1.RequestHead)
    assert reader.next_event() == b"abc"
    reader.feed_eof()
    with pytest.raises(h1.BadRequestError, match=r"received 3 bytes, expected 9"):
        reader.next_event()


def test_next_request_after_a_plain_one() -> None:
    reader = h1.RequestReader()
    reader.feed(_HEADS[-1])
    head = reader.next_event()
    assert isinstance(head, h1.RequestHead)
    assert reader.next_event() is h1.END_OF_REQUEST
    assert reader.restart()
    head = reader.next_event()
    assert isinstance(head, h1.RequestHead)
    assert head.target == b"/next"
    assert reader.next_event() is h1.END_OF_REQUEST
    assert not reader.restart()
    assert reader.next_event() is h1.NEED_DATA
    reader.feed_eof()
    assert reader.next_event() is h1.END_OF_INPUT
