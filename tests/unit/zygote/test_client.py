"""Detach keys and framing of an attached client."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from pallet.zygote.client import Client, KeyMatcher
from pallet.zygote.messages import Attach
from pallet.zygote.poller import Poller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pallet.zygote.client import Ending


class FakeHub:
    """What a client needs of its hub, recorded."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.input = b""
        self.input_ended = 0
        self.ends: list[str] = []

    def take_input(self, client: Client, data: bytes) -> None:
        del client
        self.input += data

    def end_input(self, client: Client) -> None:
        del client
        self.input_ended += 1

    def relieved(self) -> None:
        pass

    def ended(self, client: Client, how: Ending) -> None:
        del client
        self.ends.append(how)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()


def client(hub: FakeHub, sock: socket.socket, **options: object) -> Client:
    values = {"stream_id": 1, "stdin": True, "stdout": True, "stderr": True} | options
    return Client(sock.detach(), Attach(**values), hub, stdin=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(("reads", "passed", "found"), [
    ([b"abc"], b"abc", False),
    ([b"\x10\x11"], b"", True),
    ([b"ab\x10", b"\x11cd"], b"ab", True),
    ([b"\x10", b"x", b"\x11"], b"\x10x\x11", False),
    ([b"\x10\x10\x11"], b"\x10", True),
    ([b"\x10"], b"", False),
])
def test_detach_keys_across_reads(reads: list[bytes], passed: bytes, found: bool) -> None:
    matcher = KeyMatcher(b"\x10\x11")
    out, done = b"", False
    for data in reads:
        part, done = matcher.feed(data)
        out += part
        if done:
            break
    assert (out, done) == (passed, found)


def test_no_keys_match_nothing() -> None:
    assert KeyMatcher(b"").feed(b"\x10\x11") == (b"\x10\x11", False)


def test_frames(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    hub = FakeHub()
    served = client(hub, theirs)
    served.send("stdout", b"out")
    served.send("stderr", b"e")
    assert ours.recv(100) == b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x01e"
    served.finish("eof")
    assert ours.recv(1) == b""
    assert hub.ends == ["eof"]


def test_unwanted_stream_is_left_out(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    served = client(FakeHub(), theirs, stderr=False, mux=False)
    served.send("stderr", b"no")
    served.send("stdout", b"yes")
    assert ours.recv(100) == b"yes"
    served.finish("eof")


def test_what_does_not_fit_is_kept_and_sent_before_the_end(
    pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    hub = FakeHub()
    served = client(hub, theirs, mux=False)
    data = bytes(range(256)) * 8000
    served.send("stdout", data)
    assert served.owes_bytes > 0
    served.finish("eof")
    assert hub.ends == []
    got = b""
    while not hub.ends or len(got) < len(data):
        got += ours.recv(1 << 20)
        if not hub.ends:
            hub.poller.turn()
    assert got == data


def test_half_close_is_the_end_of_input_only(
    pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    hub = FakeHub()
    served = client(hub, theirs, mux=False)
    ours.sendall(b"in")
    ours.shutdown(socket.SHUT_WR)
    hub.poller.turn()
    hub.poller.turn()
    assert (hub.input, hub.input_ended, hub.ends) == (b"in", 1, [])
    served.send("stdout", b"still")
    assert ours.recv(10) == b"still"
    served.finish("eof")


def test_detach_closes_after_what_came_before(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    hub = FakeHub()
    client(hub, theirs, mux=False, detach_keys="\x10\x11")
    ours.sendall(b"x\x10\x11y")
    hub.poller.turn()
    assert hub.input == b"x"
    assert hub.ends == ["detached"]
    assert ours.recv(1) == b""
