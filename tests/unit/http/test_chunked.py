"""http/chunked: framing at every split, and what is refused."""

from __future__ import annotations

import pytest

from pallet.http.chunked import ChunkedBody, ChunkError

WIRE = b"5\r\nhello\r\n1;name=value\r\n,\r\nA \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nNEXT"


@pytest.mark.parametrize("step", [1, 2, 3, 7, len(WIRE)])
def test_splits(step: int) -> None:
    body, found = ChunkedBody(b""), b""
    for start in range(0, len(WIRE), step):
        body.feed(WIRE[start:start + step])
        found += body.take()
    assert (found, body.ended, body.rest) == (b"hello,0123456789", True, b"NEXT")
    assert body.take() == b""


@pytest.mark.parametrize("wire", [
    b"x\r\n", b"-1\r\n", b"\r\n", b"5\nhello", b"1\r\naXY", b"1" * 5000, b"11111111111111111\r\n",
    b"0\r\n" + (b"a: " + b"b" * 4000 + b"\r\n") * 20])
def test_refused(wire: bytes) -> None:
    body = ChunkedBody(wire)
    with pytest.raises(ChunkError):
        body.take()
