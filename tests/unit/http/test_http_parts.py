"""Queries, routes, heads and frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallet.errors import InvalidParameterError
from pallet.http import h1
from pallet.http.query import Query, parse_int
from pallet.http.router import Router
from pallet.http.streams import Deframer, frame


@pytest.mark.parametrize(("raw", "expected"), [
    ("a=", False), ("a=0", False), ("a=no", False), ("a=FALSE", False), ("a=None", False),
    ("a", False), ("a=1", True), ("a=true", True), ("a=x", True), ("a=%20no%20", False)])
def test_flag(raw: str, expected: bool) -> None:
    assert Query(raw).flag("a", default=not expected) is expected


def test_query_decoding() -> None:
    query = Query("name=a+b%2Fc&x=%E2%82%AC&x=2&&empty&bad=1;2&q=%zz")
    assert query.get("name") == "a b/c"
    assert query.all("x") == ["€", "2"]
    assert "empty" in query
    assert "bad" not in query
    assert query.get("q") == "%zz"
    assert query.get("none", "d") == "d"
    assert query.flag("none", default=True)


def test_numbers() -> None:
    assert Query("t=-1").int_or_none("t") == -1
    assert Query("t=").int_or_none("t") is None
    assert Query("t=x").int_or_zero("t") == 0
    for text in ("", "x", "1.5", "٣", "9" * 30):
        with pytest.raises(InvalidParameterError, match=r"strconv\.Atoi: parsing"):
            parse_int(text)


def test_routes() -> None:
    router: Router[str] = Router()
    router.add("GET", "/images/json", "list")
    router.add("GET", "/images/{name}/json", "inspect")
    router.add("DELETE", "/containers/{name}/checkpoints/{checkpoint}", "checkpoint")
    router.add("DELETE", "/containers/{id}", "remove")
    assert router.find("GET", "/images/json") == ("list", {})
    assert router.find("GET", "/images/a/b:c/json") == ("inspect", {"name": "a/b:c"})
    assert router.find("DELETE", "/containers/x/checkpoints/y") == (
        "checkpoint", {"name": "x", "checkpoint": "y"})
    assert router.find("DELETE", "/containers/x") == ("remove", {"id": "x"})
    for method, path in (("POST", "/images/json"), ("GET", "/image"), ("GET", "/images/a/b")):
        assert router.find(method, path) is None


def test_head() -> None:
    assert h1.head_bytes(101, b"", [("A", "b")]) == b"HTTP/1.1 101 UPGRADED\r\nA: b\r\n\r\n"
    assert h1.head_bytes(200, b"X: y\r\n", []) == b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n"
    with pytest.raises(ValueError, match="line break"):
        h1.head_bytes(200, b"", [("A", "b\r\nSet-Cookie: c")])


def test_reader_keeps_what_follows() -> None:
    reader = h1.RequestReader()
    reader.feed(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhiGET /b HTTP/1.1\r\n")
    head = reader.next_event()
    assert isinstance(head, h1.RequestHead)
    assert (head.method, head.target, head.keep_alive) == ("POST", b"/a", True)
    assert reader.next_event() == b"hi"
    assert reader.next_event() is h1.END_OF_REQUEST
    assert reader.trailing == b"GET /b HTTP/1.1\r\n"
    assert reader.restart()
    assert reader.next_event() is h1.NEED_DATA
    reader.feed_eof()
    with pytest.raises(h1.BadRequestError):
        reader.next_event()


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=300)), max_size=8),
       st.integers(1, 40))
def test_frames_survive_any_cutting(frames: list[tuple[int, bytes]], step: int) -> None:
    wire = b"".join(frame(*item) for item in frames)
    deframer = Deframer()
    found = [item for at in range(0, len(wire), step) for item in deframer.feed(wire[at:at + step])]
    assert found == frames
    assert deframer.pending == 0
